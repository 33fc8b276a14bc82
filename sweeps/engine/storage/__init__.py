"""Files, locks, retries and the object store. Imports `bat_core`, and no other room of the engine."""
