"""Experiments on trained networks: each prints a table, and writes it where it is told to."""
