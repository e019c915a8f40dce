"""What every picture must be: something to see, no words beyond its edge; warnings are errors anyway."""

import io
import warnings
from typing import TYPE_CHECKING

import numpy as np

from weightspace.plotting import write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = (
    "<script>alert(1)</script>",
    "$\\frac{$",
    "\x1b[31mred\nline",
    "right\u202eto left",
    "_under",
    "日本語.weight",
    "مرحبا",
    "W" * 10_000,
    "",
)


def png(figure: "Figure") -> bytes:
    """A figure as a file."""
    out = io.BytesIO()
    write(figure, out, ".png", 60)
    return out.getvalue()


def pixels(image: bytes) -> np.ndarray:
    """A file as (height, width, 3) bytes."""
    from matplotlib.image import imread

    return np.round(imread(io.BytesIO(image))[..., :3] * 255).astype(np.uint8)


def expect_good(figure: "Figure", *, ink: float = 0.004, colours: int = 8, largest: tuple[float, float] = (16.0, 24.0)) -> None:
    """Look at a picture as a reader would."""
    seen = pixels(png(figure))
    assert (seen != 255).any(-1).mean() > ink, "next to nothing is drawn"
    assert len(np.unique(seen.reshape(-1, 3), axis=0)) >= colours
    width, height = figure.get_size_inches()
    assert width <= largest[0] and height <= largest[1], "no page takes it"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)  # `write` does so as well
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support", category=UserWarning)
        box = figure.get_tightbbox()
    edge = 0.02
    assert box.x0 > -edge and box.y0 > -edge and box.x1 < width + edge and box.y1 < height + edge, f"beyond the edge: {box}"
