"""Low-rank adapters as values: read from any library's file, put into a base, taken out of a fine-tuned model, written for PEFT."""

from weightspace.adapters.adapter import Adapter as Adapter
from weightspace.adapters.adapter import Factors as Factors
from weightspace.adapters.applying import apply_adapter as apply_adapter
from weightspace.adapters.applying import delta as delta
from weightspace.adapters.extracting import extract_adapter as extract_adapter
from weightspace.adapters.fitting import fit as fit
from weightspace.adapters.low_rank import LowRank as LowRank
from weightspace.adapters.reading import read_adapter as read_adapter
from weightspace.adapters.writing import save_adapter as save_adapter

__all__ = ["Adapter", "Factors", "LowRank", "apply_adapter", "delta", "extract_adapter", "fit", "read_adapter", "save_adapter"]
