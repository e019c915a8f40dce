"""The evaluation card as one HTML page that needs nothing from outside, with accuracy against novelty drawn into it."""

import html
import json
from collections.abc import Iterator, Sequence

from weightspace.analysis.generation.card.card import Card
from weightspace.analysis.generation.card.comparison import Comparison, sized
from weightspace.analysis.generation.card.evaluation import STEPS
from weightspace.analysis.generation.card.plot import axis_of, drawn
from weightspace.analysis.generation.card.rows import Row
from weightspace.plotting import svg

# Nothing may be loaded or run, whatever a recipe says; only the page's own style counts.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

_STYLE = """\
:root { --ink: #1f2933; --soft: #52606d; --line: #e4e7eb; --paper: #ffffff; --wash: #f5f7fa; --accent: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--wash); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, "DejaVu Sans", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.2rem; line-height: 1.3; margin: 0 0 .8rem; }
.verdict { font-size: 1.1rem; max-width: 56rem; margin: 0 0 1.5rem; }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 1.3rem 1.5rem; margin: 0 0 1.25rem; }
section p { color: var(--soft); margin: .8rem 0 0; font-size: .9rem; max-width: 60rem; }
.numbers { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .75rem; margin: 0 0 1.25rem; padding: 0; }
.numbers div { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: .8rem 1rem; }
.numbers dd { margin: 0; font-size: 1.45rem; font-weight: 650; line-height: 1.2; font-variant-numeric: tabular-nums; }
.numbers dt { color: var(--soft); font-size: .85rem; line-height: 1.35; }
figure { margin: 0; }
figure svg { width: 100%; max-width: 760px; height: auto; display: block; margin: 0 auto; }
.table { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .84rem; font-variant-numeric: tabular-nums; }
th { text-align: right; vertical-align: bottom; font-weight: 600; color: var(--soft); }
th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap; text-align: right; }
th:first-child, td:first-child, td.why { text-align: left; }
td.why { color: var(--soft); white-space: normal; }
tr.own td { font-weight: 650; background: #f0f7fc; }
tr:last-child td { border-bottom: 0; }
pre { background: var(--wash); border: 1px solid var(--line); border-radius: 6px; padding: .8rem 1rem; margin: 0; overflow: auto; max-height: 24rem; font: .8rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
@media print { body { background: none; } section { break-inside: avoid; } }
"""

_COLUMNS = {
    "parameters": "parameters",
    "score": "{metric}",
    "score_std": "std",
    "score_max": "best",
    "ensemble": "ensemble",
    "calibration": "ECE",
    "iou": "max-IoU",
    "diversity_iou": "pairs' IoU",
    "distance": "nearest",
    "diversity_distance": "pairs apart",
    "milliseconds": "ms each",
}

_READING = """\
{metric}: mean over the networks, with its standard deviation and the best one; ensemble: that of their mean probabilities; ECE: expected
calibration error. max-IoU: intersection over union of the examples that a network and the most similar network of the zoo get wrong, less
is newer; of the zoo, with another one of it. nearest: distance to the nearest network of the zoo after permutations, signs and scales are
taken out; pairs: the same two between networks of one row, medians. Novelty alone rewards broken networks, so only rows of equal max-IoU
can be compared. All on the test examples; settings were chosen on others."""

_STEPS = """\
 Networks trained from scratch take as many steps as the generator learned for, or {steps} where it has no such setting, each on one batch of one
network: this is equal steps, not equal FLOPs, since a step of a generator costs what its own size makes it."""


def page(card: Card) -> str:
    """Write a card as HTML; everything that comes from outside is escaped."""
    return "".join(_page(card))


def _page(card: Card) -> Iterator[str]:
    title = _text(f"Evaluation card: generator {card.generator}")
    yield f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
    yield f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{title}</title>\n<style>\n{_STYLE}</style>\n</head>\n'
    yield f'<body>\n<main>\n<h1>{title}</h1>\n<p class="verdict">{_text(card.verdict)}</p>\n{_numbers(card)}'
    drawing = _frontier(card)
    if drawing:
        yield f"<section>\n<h2>{_text(_title(card))}</h2>\n<figure>{drawing}</figure>\n</section>\n"
    yield from _comparisons("At equal novelty", card.comparisons, card.rows[0])
    yield from _comparisons("Whatever the novelty", card.beside, card.rows[0])
    reading = _READING.format(metric=card.metric)
    if any(row.method == "trained from scratch" and not row.missing for row in card.rows):
        reading += _STEPS.format(steps=STEPS)
    yield f"<section>\n<h2>Every row</h2>\n{_rows(card)}<p>{_text(reading)}</p>\n</section>\n"
    recipe = json.dumps(dict(card.recipe), indent=1, default=str)
    yield f"<section>\n<h2>Recipe</h2>\n<pre>{_text(recipe)}</pre>\n</section>\n</main>\n</body>\n</html>\n"


def _numbers(card: Card) -> str:
    own, zoo = card.rows[0], card.row("zoo")
    fitted = card.fitting_seconds
    shown = {
        f"{card.metric} of {own.networks} networks": _number(own.score),
        f"{card.metric} of the zoo": _number(zoo.score),
        f"best {card.metric} in the zoo": _number(zoo.score_max),
        "max-IoU with the zoo": _number(own.iou),
        "max-IoU inside the zoo": _number(zoo.iou),
        "ms for a network": _number(own.milliseconds),
        "to fit": "" if fitted is None else f"{fitted:.1f} s",
        "parameters made": f"{card.parameters:,}",
        "numbers the generator keeps": f"{card.weights:,}",
    }
    cells = "".join(f"<div><dd>{_text(value)}</dd><dt>{_text(name)}</dt></div>" for name, value in shown.items() if value)
    return f'<dl class="numbers">{cells}</dl>\n'


def _comparisons(title: str, compared: Sequence[Comparison], generator: Row) -> Iterator[str]:
    if not compared:
        return
    names = {"generator": "generator", "baseline": "baseline", None: "neither"}
    body = "".join(
        f"<tr><td>{_text(one.row.name + sized(one.row, generator))}</td><td>{_number(one.row.score)}</td><td>{_number(one.row.iou)}</td>"
        f"<td>{one.difference:+.4f} ± {one.error:.4f}</td><td>{names[one.winner]}</td></tr>\n"
        for one in compared
    )
    head = "<tr><th>baseline</th><th>its score</th><th>max-IoU</th><th>generator less baseline</th><th>better</th></tr>"
    yield f'<section>\n<h2>{_text(title)}</h2>\n<div class="table"><table>\n<thead>{head}</thead>\n<tbody>\n{body}</tbody></table></div>\n</section>\n'


def _rows(card: Card) -> str:
    found = {key: {getattr(row, key) for row in card.rows} - {None} for key in _COLUMNS}
    used = [key for key in _COLUMNS if len(found[key]) > (key == "parameters")]  # one size alone is told above
    head = "".join(f"<th>{_text(_COLUMNS[key].format(metric=card.metric))}</th>" for key in used)
    body = "".join(_row(row, used, is_own=at == 0) for at, row in enumerate(card.rows))
    return f'<div class="table"><table>\n<thead><tr><th>networks</th>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>\n'


def _row(row: Row, used: Sequence[str], *, is_own: bool) -> str:
    name = f"<td>{_text(row.name)}</td>"
    if row.missing:
        return f'<tr>{name}<td class="why" colspan="{len(used)}">{_text(row.missing)}</td></tr>\n'
    cells = "".join(f"<td>{_number(getattr(row, key))}</td>" for key in used)
    marked = ' class="own"' if is_own else ""
    return f"<tr{marked}>{name}{cells}</tr>\n"


def _title(card: Card) -> str:
    return f"{card.metric[0].upper()}{card.metric[1:]} against novelty"


def _frontier(card: Card) -> str:
    """The scores of all rows against how new they are; nothing where novelty was not measured."""
    return svg(drawn(card)) if axis_of(card) is not None else ""


def _number(value: float | int | None) -> str:
    """A number with as many digits as tell something; nothing for none."""
    if value is None or value != value:
        return ""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.1f}"


def _text(text: str) -> str:
    return html.escape(text, quote=True)


__all__ = ["page"]
