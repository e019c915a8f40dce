"""A plan: which networks are to be stitched where, as a file that a person can read and change."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from weightspace.analysis.stitching.layer import stitches
from weightspace.documents import load
from weightspace.errors import AnalysisError, SymmetryError, UnknownNameError, one_line

PURPOSES = ("pairs", "family", "reassembly")
"""Routes of two networks each; all sizes between several (SN-Net); one network of pieces of many (DeRy)."""

MOST = 10_000
"""Routes of one plan."""

_HEAD = """# A plan of weightspace stitch. Take out the routes that are not wanted, or add some, and make it with: weightspace stitch build FILE
# A route runs through networks, counted from 0 as they stand under models; at: where it leaves one, and where it enters the next.
# Functions that are named under module and eval run only where they are allowed by name: --allow MODULE:FUNCTION
"""


@dataclass(frozen=True)
class Planned:
    """A network of a plan.

    Attributes:
        model: catalog name, id prefix or path.
        id: of the model as it was when the plan was made, in hex; empty where that is no matter.
        module: the function that builds its module, where it does not say so itself.
        cuts: its cuts, with the shapes of what crosses there: for the reader.
    """

    model: str
    id: str = ""
    module: str | None = None
    cuts: Mapping[str, Sequence[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Way:
    """A route of a plan.

    Attributes:
        networks: indices of the networks that it runs through, in order.
        at: between each two of them, the cut of the first and that of the second, by name or number.
        error: of the worst of its stitches on examples that these were not found on, as a share of the variance.
        cka: of what crosses at both cuts, debiased; the least of them.
        flops: of one example, stitches included.
        parameters: that it runs through, stitches included.
        stitch_flops, stitch_parameters: of its stitches alone.
    """

    networks: tuple[int, ...]
    at: tuple[tuple[str | int, str | int], ...] = ()
    error: float = math.nan
    cka: float = math.nan
    flops: float = math.nan
    parameters: int = 0
    stitch_flops: float = 0.0
    stitch_parameters: int = 0


@dataclass(frozen=True)
class Plan:
    """What is to be made of which networks.

    Attributes:
        purpose: one of `PURPOSES`.
        models: the networks.
        routes: through them.
        kind: of the stitches; see `weightspace.analysis.stitching.stitches`.
        settings: of that kind.
        bias: of the stitches; see `fit_stitches`.
        share: how a family's joins share stitches; see `family`.
        evaluation: what gives the task, as `module:function`; None for that of the networks.
        seed: of everything that is left to chance.
    """

    purpose: str
    models: tuple[Planned, ...]
    routes: tuple[Way, ...]
    kind: str = "linear"
    settings: Mapping[str, Any] = field(default_factory=dict)
    bias: str = "places"
    share: str = "own"
    evaluation: str | None = None
    seed: int = 0

    @property
    def code(self) -> list[str]:
        """Functions of a user's own that making it runs, as `module:function`."""
        named = [*(one.module for one in self.models), self.evaluation]
        return list(dict.fromkeys(name for name in named if name is not None))

    def to_yaml(self) -> str:
        """The plan as the text of a file."""
        import yaml

        plain = {
            "purpose": self.purpose,
            "models": [_model_told(one) for one in self.models],
            "kind": self.kind,
            **{key: value for key, value in {"settings": dict(self.settings), "eval": self.evaluation}.items() if value},
            **{key: value for key, value, usual in (("bias", self.bias, "places"), ("share", self.share, "own")) if value != usual},
            "seed": self.seed,
        }
        head: str = yaml.safe_dump(plain, sort_keys=False, default_flow_style=None, allow_unicode=True, width=140)
        lines = [
            yaml.safe_dump(_way_told(one), sort_keys=False, default_flow_style=True, allow_unicode=True, width=10_000)
            for one in self.routes
        ]
        return f"{_HEAD}{head}routes:\n{''.join(f'- {line}' for line in lines)}"

    @classmethod
    def from_text(cls, text: str, where: str) -> "Plan":
        """Read a plan from YAML or JSON; nothing but plain values is made.

        Args:
            text: of the file.
            where: it was found, for messages.

        Raises:
            AnalysisError: it is none.
            UnknownNameError: it names a kind of stitch that there is not.
        """
        try:
            documents = load(text, where, "'purpose', 'models' and 'routes'")
            if len(documents) != 1:
                raise ValueError(f"expected one document, found {len(documents)}")
            made = _read(documents[0])
        except (SymmetryError, KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, AnalysisError | UnknownNameError):
                raise type(error)(f"{where}: {error}") from None
            said = f"there is no {error}" if isinstance(error, KeyError) else one_line(str(error), 160)
            raise AnalysisError(f"{where}: is no plan ({said}); mend it, or write one with 'weightspace stitch plan ... -o FILE'") from None
        return made


def _read(plain: Mapping[str, Any]) -> Plan:
    _expect_known(plain, "a plan", {"purpose", "models", "kind", "settings", "bias", "share", "eval", "seed", "routes"})
    if plain["purpose"] not in PURPOSES:
        raise UnknownNameError.of("purpose of a plan", one_line(str(plain["purpose"]), 60), PURPOSES)
    kind, settings = _text(plain.get("kind", "linear")), plain.get("settings") or {}
    _expect_settings(kind, settings)
    models = tuple(map(_model, _several(plain["models"], "models")))
    routes = tuple(_way(one, len(models)) for one in _several(plain["routes"], "routes"))
    if not models or not routes:
        raise AnalysisError(f"the plan has {len(models)} models and {len(routes)} routes, expected one of each at least; add some")
    if plain["purpose"] == "reassembly" and len(routes) > 1:
        raise AnalysisError(f"a reassembly has one route, found {len(routes)}; leave one")
    evaluation = plain.get("eval")
    return Plan(
        plain["purpose"],
        models,
        routes,
        kind,
        dict(settings),
        _text(plain.get("bias", "places")),
        _text(plain.get("share", "own")),
        None if evaluation is None else _text(evaluation),
        _whole(plain.get("seed", 0)),
    )


def _expect_known(plain: Any, what: str, known: Collection[str]) -> None:
    """See that a mapping has no entry that nothing reads: it would be a misspelt one.

    Raises:
        TypeError: it is no mapping.
        UnknownNameError: it has one.
    """
    if not isinstance(plain, Mapping):
        raise TypeError(f"{one_line(repr(plain), 60)} where the entries of {what} are wanted")
    unknown = next((key for key in plain if key not in known), None)
    if unknown is not None:
        raise UnknownNameError.of(f"entry of {what}", one_line(str(unknown), 60), sorted(known))


def _expect_settings(kind: str, settings: Any) -> None:
    defaults = stitches[kind].settings
    _expect_known(settings, f"the settings of stitch '{kind}'", defaults)
    for key, value in settings.items():
        wanted = (float, int, type(None)) if defaults[key] is None else (type(defaults[key]),)
        if type(value) not in wanted:
            raise TypeError(f"setting '{key}' is {one_line(repr(value), 60)}; expected one like {defaults[key]!r}")


def _model_told(one: Planned) -> dict[str, Any]:
    plain = {"model": one.model, "id": one.id, "module": one.module, "cuts": {name: list(shape) for name, shape in one.cuts.items()}}
    return {key: value for key, value in plain.items() if value}


def _model(plain: Any) -> Planned:
    if isinstance(plain, str):
        return Planned(plain)
    _expect_known(plain, "a model", {"model", "id", "module", "cuts"})
    module = plain.get("module")
    return Planned(_text(plain["model"]), _text(plain.get("id", "")), None if module is None else _text(module), plain.get("cuts") or {})


def _way_told(one: Way) -> dict[str, Any]:
    plain: dict[str, Any] = {"networks": list(one.networks)} | ({"at": [list(pair) for pair in one.at]} if one.at else {})
    measured = {
        "error": _rounded(one.error),
        "cka": _rounded(one.cka),
        "flops": _rounded(one.flops, 0),
        "parameters": one.parameters or None,
    }
    return plain | {key: value for key, value in measured.items() if value is not None}


def _way(plain: Any, count: int) -> Way:
    _expect_known(plain, "a route", {"networks", "at", "error", "cka", "flops", "parameters"})
    networks = tuple(map(_whole, _several(plain["networks"], "networks")))
    at = tuple(_pair(pair) for pair in _several(plain.get("at") or [], "at"))
    strange = next((one for one in networks if not 0 <= one < count), None)
    if strange is not None:
        raise AnalysisError(f"a route runs through network {strange}, and there are {count}, counted from 0; mend it")
    if not networks or len(at) != len(networks) - 1:
        raise AnalysisError(
            f"a route through {len(networks)} networks has {len(at)} places where it changes; give one for each change, under at"
        )
    return Way(networks, at)


def _pair(plain: Any) -> tuple[str | int, str | int]:
    if not isinstance(plain, list) or len(plain) != 2 or not all(isinstance(one, str | int) and not isinstance(one, bool) for one in plain):
        raise AnalysisError(f"expected two cuts, [from, to], found {one_line(repr(plain), 80)}; name one of each network")
    return plain[0], plain[1]


def _several(plain: Any, what: str) -> list[Any]:
    if not isinstance(plain, list) or len(plain) > MOST:
        found = f"{len(plain):,} of them" if isinstance(plain, list) else f"a {type(plain).__name__}"
        raise AnalysisError(f"expected a list of {what}, of {MOST:,} at most, found {found}; mend it")
    return plain


def _text(plain: Any) -> str:
    if not isinstance(plain, str):
        raise TypeError(f"{one_line(repr(plain), 60)} where a word is wanted")
    return plain


def _whole(plain: Any) -> int:
    if isinstance(plain, bool) or not isinstance(plain, int):
        raise TypeError(f"{one_line(repr(plain), 60)} where a whole number is wanted")
    return plain


def _rounded(value: float, digits: int = 4) -> float | int | None:
    if not math.isfinite(value):
        return None
    return round(value, digits) if digits else round(value)


__all__ = ["PURPOSES", "Plan", "Planned", "Way"]
