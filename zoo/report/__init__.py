"""A zoo as one self-contained HTML page."""
