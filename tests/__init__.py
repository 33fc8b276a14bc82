"""The tests, a package: `conftest`, which takes the machine's settings out of the environment, is imported once."""
