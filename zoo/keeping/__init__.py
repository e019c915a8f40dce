"""Keeping a zoo: what is wrong with it, what can be mended, copies of it, and its schema over the years."""
