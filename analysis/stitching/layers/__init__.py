"""Ways to find a stitching layer, one a file."""
