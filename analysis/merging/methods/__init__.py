"""Ways to merge, one a file; each registers itself."""
