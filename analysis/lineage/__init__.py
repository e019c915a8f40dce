"""Who descends from whom: evidence between models, and the tree that it makes."""

from weightspace.analysis.lineage.edge import Edge as Edge
from weightspace.analysis.lineage.edge import Reason as Reason
from weightspace.analysis.lineage.entry import Declared as Declared
from weightspace.analysis.lineage.entry import Entry as Entry
from weightspace.analysis.lineage.lineage import Lineage as Lineage
from weightspace.analysis.lineage.lineage import lineage as lineage

__all__ = ["Declared", "Edge", "Entry", "Lineage", "Reason", "lineage"]
