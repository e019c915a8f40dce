"""Low-rank adapters without the freedom between their factors."""
