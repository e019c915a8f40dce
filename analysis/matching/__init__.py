"""Matching: which neurons of one network are which of another."""

from weightspace.analysis.matching.balance import balance as balance
from weightspace.analysis.matching.canonical import Canonical as Canonical
from weightspace.analysis.matching.canonical import canonical as canonical
from weightspace.analysis.matching.canonical import orbit_distance as orbit_distance
from weightspace.analysis.matching.many import Matches as Matches
from weightspace.analysis.matching.many import cycle_error as cycle_error
from weightspace.analysis.matching.many import match_many as match_many
from weightspace.analysis.matching.many import match_pairs as match_pairs
from weightspace.analysis.matching.many import match_values as match_values
from weightspace.analysis.matching.match import Match as Match
from weightspace.analysis.matching.match import match as match
from weightspace.analysis.matching.null import null_reduction as null_reduction
from weightspace.analysis.matching.partial import PartialMatch as PartialMatch
from weightspace.analysis.matching.partial import match_partial as match_partial
from weightspace.analysis.matching.widening import embed as embed

__all__ = [
    "Canonical",
    "Match",
    "Matches",
    "PartialMatch",
    "balance",
    "canonical",
    "cycle_error",
    "embed",
    "match",
    "match_many",
    "match_pairs",
    "match_partial",
    "match_values",
    "null_reduction",
    "orbit_distance",
]
