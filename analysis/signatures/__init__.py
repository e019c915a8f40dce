"""Robust weight signatures: what training on corrupted data adds to a model, taken out, stored, put into others and removed."""
