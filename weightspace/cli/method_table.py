"""Every method that a registry holds, with its paper, its file, the command that runs it, and the claims that tell something of it."""

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from weightspace.registry import Registry

Method = Mapping[str, str]
"""A row: kind, name, what it is, paper, file, command, claims."""

_PAPER = re.compile(r"arXiv:\d{4}\.\d{4,5}")


def methods_of(verdicts: Mapping[str, str]) -> Iterator[Method]:
    """Yield a row for each method, registry by registry, by name in each.

    Args:
        verdicts: what came of claims that were tried, by name.
    """
    from weightspace.analysis.generation import generators
    from weightspace.analysis.matching.match import methods as matching_methods
    from weightspace.analysis.measure import measures
    from weightspace.analysis.merging.method import methods as merge_methods
    from weightspace.analysis.stitching import stitches
    from weightspace.experiments.claim import claims
    from weightspace.metanets import metanets

    tried: dict[str, list[str]] = {}
    for claim in claims.values():
        for method in claim.tries:
            tried.setdefault(method, []).append(f"{claim.name} ({verdicts.get(claim.name, 'not tried')})")
    runs: tuple[tuple[Registry[Any], Callable[[Any], Any], Callable[[str, Any], str]], ...] = (
        (matching_methods, lambda one: one, lambda name, _: f"match A B --method {name}"),
        (merge_methods, lambda one: one.combine, lambda name, _: f"merge: merge_method: {name}"),
        (measures, lambda one: one.function, _measuring),
        (metanets, lambda one: one.make, lambda name, _: f"train-metanet {name}"),
        (generators, lambda one: one.make, lambda name, _: f"generate {name}"),
        (stitches, lambda one: one.function, lambda name, _: f"stitch plan --kind {name}"),
    )
    for registry, code, command in runs:
        for name, one in sorted(registry.items()):
            function = code(one)
            documented = inspect.getdoc(function) or ""
            paper = getattr(one, "reference", "") or getattr(one, "paper", "") or ", ".join(dict.fromkeys(_PAPER.findall(documented)))
            yield {
                "kind": registry.kind,
                "name": name,
                "what it is": documented.partition("\n")[0],
                "paper": paper,
                "file": _file(function),
                "command": command(name, one),
                "claims": ", ".join(tried.pop(f"{registry.kind} {name}", ())),
            }
    if tried:
        raise ValueError(f"claims name methods that there are none of: {', '.join(tried)}")


def page(rows: Iterable[Method]) -> str:
    """The rows as a page of the documentation, a table for each kind."""
    parts, kind = [_HEAD], ""
    for row in rows:
        if row["kind"] != kind:
            kind = row["kind"]
            parts += [f"\n## {kind.capitalize()}s\n", "| name | what it is | paper | file | command | tried here |", "|-|-|-|-|-|-|"]
        cells = [f"`{row['name']}`", row["what it is"], row["paper"], f"`{row['file']}`", f"`{row['command']}`", row["claims"]]
        parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(parts) + "\n"


_HEAD = """# Methods

What `weightspace methods -o docs/methods.md` writes: every method of the registries, where it comes from, the file that holds it, the command
that runs it, and the claims of [claims.md](claims.md) that were tried of it. Where we depart from a paper, the file's docstring says so."""


def _measuring(name: str, one: Any) -> str:
    return f"spectra MODEL --measure {name}" if one.of == "matrix" else f"measure {name}"


def _file(function: Any) -> str:
    module = str(inspect.unwrap(function).__module__)
    return re.sub(r"^weightspace/(?=zoo/|metanets/|analysis/)", "", module.replace(".", "/")) + ".py"
