"""The engine behind the sweeps: one package per concern. A package imports only the ones below it."""
