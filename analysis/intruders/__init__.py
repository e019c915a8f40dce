"""Intruder dimensions: singular vectors of a tuned model that its base has not."""
