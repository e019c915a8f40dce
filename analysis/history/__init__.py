"""The history of a run: what changed between its checkpoints, and where something broke."""

from weightspace.analysis.history.history import History as History
from weightspace.analysis.history.history import history as history
from weightspace.analysis.history.warning_signs import Event as Event

__all__ = ["Event", "History", "history"]
