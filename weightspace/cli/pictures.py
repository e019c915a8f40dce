"""Small pictures made of block characters: bars and histograms."""

from collections.abc import Sequence

_EIGHTHS = " ▏▎▍▌▋▊▉█"
_LEVELS = " ▁▂▃▄▅▆▇█"


def bar(share: int | float, width: int = 8) -> str:
    """Draw a share between 0 and 1 as a bar; anything above nothing is at least a hair.

    Example:
        >>> bar(0.5, 4), bar(1e-6, 4)
        ('██  ', '▏   ')
    """
    eighths = max(round(min(share, 1.0) * width * 8), 1 if share > 0 else 0)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (_EIGHTHS[rest] if rest else "")).ljust(width)


def blocks(counts: Sequence[int]) -> str:
    """Draw counts as columns of a height in eighths; what is not empty is seen.

    Example:
        >>> blocks([0, 1, 50, 100])
        ' ▁▄█'
    """
    top = max(counts, default=0)
    return "".join(_LEVELS[0 if one == 0 else max(1, round(8 * one / top))] for one in counts)
