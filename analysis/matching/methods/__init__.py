"""Ways to align two networks, one a file."""
