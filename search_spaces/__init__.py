"""Search spaces as pure data: no imports of ray or torch."""
