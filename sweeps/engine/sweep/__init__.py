"""A sweep on disk and in a store: its spec, folder, records and trials. Imports only `storage`."""
