"""The demo: a zoo filled with real checkpoints, and five questions asked of it."""
