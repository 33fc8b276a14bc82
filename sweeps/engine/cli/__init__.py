"""The command line: options, messages, tables and the live view. Imports only `storage` and `sweep`."""
