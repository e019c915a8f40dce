"""Reassembly: a network made of blocks of others, one from each set of blocks that do the same, under a budget."""

from weightspace.analysis.stitching.reassembly.assembly import Assembly, Block
from weightspace.analysis.stitching.reassembly.building import assemble
from weightspace.analysis.stitching.reassembly.planning import plan_reassembly
from weightspace.analysis.stitching.reassembly.tuning import fine_tune

__all__ = ["Assembly", "Block", "assemble", "fine_tune", "plan_reassembly"]
