"""Trainings: what a run is, where its checkpoints stand in it, and how a tracker's records meet them."""
