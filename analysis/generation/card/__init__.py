"""The evaluation card: what a generator is worth beside what embarrasses it."""
