"""The report of a zoo: one HTML page that needs nothing from outside, opens anywhere, offline, and can be asked."""

import base64
import hashlib
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import weightspace
from weightspace.errors import one_line
from weightspace.zoo.demo.questions import Answer
from weightspace.zoo.query import detail_beside
from weightspace.zoo.report.data import block, gather
from weightspace.zoo.report.parts import section, shown, table, text
from weightspace.zoo.zoo import Zoo

MAX_QUARANTINED = 500  # rows on the page

# Nothing is loaded, and nothing runs but the page's own script, known by its hash, whatever a checkpoint's name or metadata says.
# Charts of the demo's questions carry style attributes, which no hash can name.
_POLICY = "default-src 'none'; script-src 'sha256-{script}'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

_OVERVIEW = """\
<div class="overview">
<section id="table">
<div class="bar"><h2>Models</h2><span id="tally" class="soft" role="status"></span>
<details class="menu"><summary>columns</summary><div id="columns"></div></details></div>
<input id="filter" type="search" spellcheck="false" autocomplete="off" aria-label="filter"
 placeholder="filter: words, and conditions such as {example}   ( / )">
<div id="box" tabindex="0"><table id="models"><colgroup id="widths"></colgroup><thead><tr id="head"></tr></thead><tbody id="body"></tbody></table></div>
</section>
<section id="map">
<div class="bar"><h2>Map</h2><label class="soft">colour <select id="colour"></select></label></div>
<svg id="plane" viewBox="0 0 560 620" role="img" aria-label="map of the models; the table has the same models"></svg>
<div id="legend"></div>
<p class="soft note">Each point is a model, placed by {source}.</p>
</section>
</div>
"""

_SHELL = """\
cd {folder}
weightspace ls --where "{condition}"
weightspace show {model}
weightspace sql "select format, count(*) from files group by format"
weightspace sql --tables
weightspace duplicates
weightspace ls --quarantined
weightspace diff {model} {other}
weightspace export {model} -o model.safetensors
weightspace report "{condition}" -o report.html
weightspace ingest ~/my-checkpoints"""

_PYTHON = """\
import weightspace as ws
zoo = ws.Zoo({folder!r})
zoo.models(where={condition!r}).to_pandas()
zoo.sql("select model, tensor, kurtosis from tensor_table order by 3 desc limit 5")
ckpt = zoo.open({model!r})
ckpt.info                    # names, dtypes and shapes, from the header alone
ckpt.state_dict()            # torch tensors, read now
ckpt.id                      # the same in any container
zoo.record({model!r}, metrics={{"val": {{"accuracy": 0.97}}}})
zoo.ingest("my-checkpoints")"""


def write_report(zoo: Zoo, path: str | Path, answers: Sequence[Answer] = (), *, where: str | None = None) -> Path:
    """Write the page: numbers, a table that sorts and filters, a map, a page a model, answers with SQL and plots, quarantine, how to go on.

    Args:
        zoo: what to report on.
        path: of the HTML file; replaced when it is there.
        answers: of `weightspace.zoo.demo.questions.ask`, for all of the zoo.
        where: SQL condition on `model_table`; all models if left out.

    Returns:
        The path.

    Raises:
        CatalogError: the condition is wrong, or there is no catalog.
    """
    place, page = Path(path), "".join(_page(zoo, answers, where))
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_name(f"{place.name}.{os.getpid()}.partial")
    partial.write_text(page, "utf-8")
    partial.replace(place)
    return place


def _page(zoo: Zoo, answers: Sequence[Answer], where: str | None) -> Iterable[str]:
    data = gather(zoo, where)
    headline = data["headline"]
    title = f"A zoo of {headline['models']:,} models" if where is None else f"{headline['models']:,} models of a zoo"
    own = resources.files("weightspace.zoo.report")
    style, script = (own.joinpath(f"report.{kind}").read_text("utf-8") for kind in ("css", "js"))
    policy = _POLICY.format(script=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode())
    yield f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="referrer" content="no-referrer">\n'
    yield f"<title>{text(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
    yield '<p id="missing" hidden>This page has no such model. <a href="#table">All models</a></p>\n<article id="model" hidden></article>\n'
    yield f'<div id="overview">\n<header><h1>{text(title)}</h1>\n{_links(bool(answers))}</header>\n{_chosen(where)}{_numbers(headline)}'
    yield "<noscript><p>The table, the map and the models' pages need this page's own script; all else is below.</p></noscript>\n"
    yield _left_out(headline["models"], data)
    yield _OVERVIEW.format(example=text(_condition(data)), source=text(data["map"]["source"]))
    for number, answer in enumerate(answers):
        yield from _answer(answer, number)
    yield from _quarantine(zoo)
    yield from _go_on(zoo, data)
    yield f"</div>\n<footer>Written by weightspace {text(weightspace.__version__)}. This page loads nothing from outside.</footer>\n</main>\n"
    yield f'<div id="tip" hidden></div>\n<script type="application/json" id="data">{block(data)}</script>\n<script>{script}</script>\n</body>\n</html>\n'


def _links(has_answers: bool) -> str:
    places = (
        {"table": "models", "map": "map"}
        | ({"questions": "questions"} if has_answers else {})
        | {"quarantine": "quarantine", "next": "go on"}
    )
    return "<nav>" + "".join(f'<a href="#{place}">{word}</a>' for place, word in places.items()) + "</nav>"


def _chosen(where: str | None) -> str:
    return "" if where is None else f'<p class="chosen">Chosen by <code>{text(one_line(where, 400))}</code></p>\n'


def _numbers(headline: Mapping[str, Any]) -> str:
    values = {**headline, "parameters": _rounded(headline["parameters"]), "bytes": f"{_rounded(headline['bytes'])}B"}
    cells = "".join(
        f"<div><dd>{shown(value)}</dd><dt>{text('on disk' if name == 'bytes' else name)}</dt></div>" for name, value in values.items()
    )
    return f'<dl class="numbers">{cells}</dl>\n'


def _rounded(number: int) -> str:
    for factor, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:.3g} {letter}"
    return f"{number} "


def _left_out(total: int, data: Mapping[str, Any]) -> str:
    """Say what of a large zoo is not on the page."""
    listed, detailed = len(data["columns"][0]["values"]), len(data["held"])  # names, which never repeat
    said = [f"The table holds the first {listed:,} of {total:,} models, by name."] if listed < total else []
    said += [f"Tensors, tags, files and recipes go along for the first {detailed:,}."] if detailed < listed else []
    return f'<p class="chosen">{" ".join(said)} A condition chooses others: <code>weightspace report CONDITION</code></p>\n' if said else ""


def _condition(data: Mapping[str, Any]) -> str:
    """A condition that some models of this zoo fulfil, for people to change."""
    for column in data["columns"]:
        values = sorted(value for value in column["values"] if value is not None) if column["metric"] else []
        if values and column["name"].isidentifier():
            return f"{column['name']} > {values[3 * len(values) // 4]:.2g}"
    return "num_params > 1000"


def _answer(answer: Answer, number: int) -> Iterable[str]:
    yield f'<section{" id=questions" if number == 0 else ""}>\n<p class="question">{text(answer.question.text)}</p>\n<h2>{text(answer.sentence)}</h2>\n'
    yield f'<div class="answer">\n<figure>{answer.svg or ""}</figure>\n<pre class="sql">{text(answer.question.sql)}</pre>\n</div>\n'
    yield f"{table(answer.table.to_pylist())}</section>\n"


def _quarantine(zoo: Zoo) -> Iterable[str]:
    found = zoo.quarantined(limit=MAX_QUARANTINED + 1).to_pylist()
    rows = [row | {"detail": detail_beside(row["path"], row["detail"])} for row in found]
    if not rows:
        yield section("Nothing was quarantined", "<p>Every file that looked like a checkpoint could be read.</p>", "quarantine")
        return
    more = f"; the first {MAX_QUARANTINED}" if len(rows) > MAX_QUARANTINED else ""
    note = f"<p>What is damaged, or asks for code to be run, is recorded with the reason; nothing in a checkpoint is ever executed{more}.</p>\n"
    count = f"More than {MAX_QUARANTINED} files were" if more else f"{len(rows)} files were" if len(rows) > 1 else "One file was"
    yield section(f"{count} set aside, and the rest went on", note + table(rows[:MAX_QUARANTINED]), "quarantine")


def _go_on(zoo: Zoo, data: Mapping[str, Any]) -> Iterable[str]:
    by_name = {column["name"]: column for column in data["columns"]}
    names, sizes = by_name["name"]["values"], by_name.get("num_params", {"values": []})["values"]
    if not names:
        return
    largest = sorted(range(min(len(names), len(sizes))), key=lambda row: (-(sizes[row] or 0), names[row]))[:2] or [0]
    pair = [names[row] for row in largest]
    words = {"folder": shlex.quote(str(zoo.folder)), "model": shlex.quote(pair[0]), "other": shlex.quote(pair[-1])}
    condition = _condition(data)
    shell, python = _SHELL.format(**words, condition=condition), _PYTHON.format(folder=str(zoo.folder), model=pair[0], condition=condition)
    both = "".join(f"<div><h3>{title}</h3><pre>{text(code)}</pre></div>\n" for title, code in (("Shell", shell), ("Python", python)))
    yield section("How to go on from here", f'<div class="pair">\n{both}</div>', "next")
