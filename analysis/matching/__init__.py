"""Matching: which neurons of one network are which of another."""

from weightspace.analysis.matching.match import Match as Match
from weightspace.analysis.matching.match import match as match

__all__ = ["Match", "match"]
