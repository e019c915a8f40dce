"""The command line: it composes every wing, and nothing imports it."""
