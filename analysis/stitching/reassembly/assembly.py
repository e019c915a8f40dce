"""An assembly: which block of which network stands at each position of a network to be built, as a plain value that a file can hold."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from weightspace.analysis.stitching.fitting import BIASES, Bias
from weightspace.errors import AnalysisError


@dataclass(frozen=True)
class Block:
    """A stretch of one network of a zoo.

    Attributes:
        network: its name.
        start: index of the cut behind which it begins; -1 is the input.
        stop: index of the cut at which it ends; None is the end of the network.
    """

    network: str
    start: int = -1
    stop: int | None = None

    def __str__(self) -> str:
        return f"{self.network}[{self.start}:{'end' if self.stop is None else self.stop}]"


@dataclass(frozen=True)
class Assembly:
    """A plan for a network made of blocks of others, one at each position.

    Attributes:
        blocks: in the order in which they run; the first begins at an input, the last ends at an output.
        kind: of the stitches between them; see `weightspace.analysis.stitching.stitches`.
        bias: of the stitches, for `units` or for units at `places`; see `fit_stitches`.
        flops: of one example, stitches included.
        parameters: that it runs through, stitches included.
        max_flops: the budget, if there was one.
        max_parameters: likewise.
        score: what the integer program maximised.
        gap: by which share of the score a better assembly may exist; 0 where this one was proved to be the best.
        compatibility: of each junction, from first to last; see `program.junctions`.
        proxy: the zero-cost score by which it was chosen among the best, if it was.
    """

    blocks: tuple[Block, ...]
    kind: str = "linear"
    bias: Bias = "places"
    flops: int = 0
    parameters: int = 0
    max_flops: int | None = None
    max_parameters: int | None = None
    score: float = math.nan
    gap: float = math.nan
    compatibility: tuple[float, ...] = ()
    proxy: float | None = None

    @property
    def networks(self) -> tuple[str, ...]:
        """The networks that it takes blocks from, each once, in the order in which they come first."""
        return tuple(dict.fromkeys(one.network for one in self.blocks))

    @property
    def pieces(self) -> tuple[Block, ...]:
        """Its blocks, those in one that follow each other in their own network: between the pieces there are stitches."""
        out: list[Block] = []
        for one in self.blocks:
            if out and out[-1].network == one.network and out[-1].stop == one.start:
                out[-1] = Block(one.network, out[-1].start, one.stop)
            else:
                out.append(one)
        return tuple(out)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for JSON; numbers that are not finite are null."""
        plain = asdict(self) | {"blocks": [asdict(one) for one in self.blocks], "compatibility": list(map(_plain, self.compatibility))}
        return plain | {name: _plain(plain[name]) for name in ("score", "gap", "proxy")}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "Assembly":
        """The assembly that `to_dict` wrote.

        Raises:
            AnalysisError: it is none.
        """
        try:
            blocks = tuple(Block(str(one["network"]), _whole(one["start"]), _maybe(one["stop"])) for one in plain["blocks"])
            made = cls(
                blocks,
                str(plain.get("kind", "linear")),
                _bias(plain.get("bias", "places")),
                _whole(plain.get("flops", 0)),
                _whole(plain.get("parameters", 0)),
                _maybe(plain.get("max_flops")),
                _maybe(plain.get("max_parameters")),
                _number(plain.get("score")),
                _number(plain.get("gap")),
                tuple(map(_number, plain.get("compatibility", ()))),
                None if plain.get("proxy") is None else _number(plain["proxy"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            said = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise AnalysisError(
                f"expected a plan of blocks, each with 'network', 'start' and 'stop', found {said}; write it with 'stitch plan'"
            ) from None
        if len(made.blocks) < 1 or made.blocks[0].start != -1 or made.blocks[-1].stop is not None:
            raise AnalysisError("expected a plan whose first block begins at -1 (the input) and whose last ends at null (the output)")
        return made


def _bias(value: Any) -> Bias:
    if value not in BIASES:
        raise ValueError(f"a bias {value!r}, which is none of {', '.join(BIASES)}")
    found: Bias = value
    return found


def _plain(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r} where a whole number is wanted")
    return value


def _maybe(value: Any) -> int | None:
    return None if value is None else _whole(value)


__all__ = ["Assembly", "Block"]
