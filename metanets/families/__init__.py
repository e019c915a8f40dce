"""Families of metanets, one a file."""
