"""The report of a zoo: one HTML page that needs nothing from outside and opens anywhere, offline."""

import html
import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Any

import weightspace
from weightspace.zoo.demo.questions import Answer
from weightspace.zoo.zoo import Zoo

Row = Mapping[str, Any]

_BREAKS = re.compile(r"[/._]")  # where a long name may wrap

_ONE_LINE = 32  # characters of a cell that are never broken over lines

# Nothing may be loaded or run, whatever a checkpoint's name or metadata says; only the page's own style counts.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"

_HEADLINE = """\
select (select count(*) from models) as models, (select coalesce(sum(num_params), 0)::bigint from models) as parameters,
       (select count(*) from files) as files, (select coalesce(sum(size), 0)::bigint from files) as bytes,
       (select count(*) from tensors) as "distinct tensors", (select count(*) from runs) as "training runs",
       (select count(*) from quarantine) as quarantined"""

_CENSUS = """\
select format, count(*) as files, count(distinct model_id) as models, count(distinct architecture_id) as architectures,
       (select string_agg(dtype, ', ' order by dtype) from (
            select distinct tensors.dtype from files as f join model_tensors using (model_id) join tensors using (tensor_id)
            where f.format = files.format)) as dtypes,
       sum(num_params)::bigint as parameters, round(sum(size) / 1e6, 2) as MB
from files join models using (model_id) group by format order by files desc, format"""

_MODELS = """\
select name, left(id, 8) as id, format, num_params as parameters, num_tensors as tensors, run, step,
       round(100 * {accuracy}, 1) as "test accuracy %", case when is_finite then '' else 'not finite' end as remark
from model_table order by run is not null, run, step, name"""

_SHELL = """\
cd {folder}
weightspace ls --where "test_accuracy > 0.95"
weightspace show {model}
weightspace sql "select format, count(*) from files group by format"
weightspace sql --tables
weightspace duplicates
weightspace ls --quarantined
weightspace diff {model} {other}
weightspace export {model} -o model.safetensors
weightspace ingest ~/my-checkpoints"""

_PYTHON = """\
import weightspace as ws
zoo = ws.Zoo({folder!r})
zoo.models(where="test_accuracy > 0.95").to_pandas()
zoo.sql("select model, tensor, kurtosis from tensor_table order by 3 desc limit 5")
ckpt = zoo.open({model!r})
ckpt.info                    # names, dtypes and shapes, from the header alone
ckpt.state_dict()            # torch tensors, read now
ckpt.id                      # the same in any container
zoo.record({model!r}, metrics={{"val": {{"accuracy": 0.97}}}})
zoo.ingest("my-checkpoints")"""


def write_report(zoo: Zoo, path: str | Path, answers: Sequence[Answer]) -> Path:
    """Write the page: what is in the zoo, the answers with SQL and plots, every model, what was quarantined, how to go on.

    Args:
        zoo: what to report on.
        path: of the HTML file; replaced when it is there.
        answers: of `weightspace.zoo.demo.questions.ask`.

    Returns:
        The path.
    """
    place = Path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_name(f"{place.name}.{os.getpid()}.partial")
    partial.write_text("".join(_page(zoo, answers)), "utf-8")
    partial.replace(place)
    return place


def _page(zoo: Zoo, answers: Sequence[Answer]) -> Iterable[str]:
    [headline] = zoo.sql(_HEADLINE).to_pylist()
    title = f"A zoo of {headline['models']:,} models"
    style = resources.files("weightspace.zoo.report").joinpath("report.css").read_text("utf-8")
    yield f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="referrer" content="no-referrer">\n'
    yield f"<title>{_text(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
    yield f"<header><h1>{_text(title)}</h1>\n<p>Real checkpoints as they lie on this disk, read once and kept as a catalog. "
    yield "Every number below is the answer to a SQL question to that catalog; the questions stand beside their answers.</p></header>\n"
    yield _numbers(headline)
    for answer in answers:
        yield from _answer(answer)
    yield _section("What the zoo holds, by format", _table(zoo.sql(_CENSUS).to_pylist()))
    yield from _models(zoo)
    yield from _quarantine(zoo)
    yield from _go_on(zoo)
    yield f"<footer>Written by weightspace {_text(weightspace.__version__)}. This page loads nothing from outside.</footer>\n</main>\n</body>\n</html>\n"


def _numbers(headline: Row) -> str:
    shown = {**headline, "parameters": f"{headline['parameters'] / 1e6:,.2f} M", "bytes": f"{headline['bytes'] / 1e6:,.1f} MB"}
    cells = "".join(
        f"<div><dd>{_shown(value)}</dd><dt>{_text('on disk' if name == 'bytes' else name)}</dt></div>" for name, value in shown.items()
    )
    return f'<dl class="numbers">{cells}</dl>\n'


def _answer(answer: Answer) -> Iterable[str]:
    yield f'<section>\n<p class="question">{_text(answer.question.text)}</p>\n<h2>{_text(answer.sentence)}</h2>\n'
    yield f'<div class="answer">\n<figure>{answer.svg or ""}</figure>\n<pre class="sql">{_text(answer.question.sql)}</pre>\n</div>\n'
    yield f"{_table(answer.table.to_pylist())}</section>\n"


def _models(zoo: Zoo) -> Iterable[str]:
    columns = zoo.models(limit=1).column_names
    rows = zoo.sql(_MODELS.format(accuracy="test_accuracy" if "test_accuracy" in columns else "null")).to_pylist()
    yield _section(f"All {len(rows):,} models", f'<div class="long">{_table(rows)}</div>')


def _quarantine(zoo: Zoo) -> Iterable[str]:
    rows = zoo.quarantined().to_pylist()
    said = "Nothing was quarantined" if not rows else f"{len(rows)} files were set aside, and the rest went on"
    note = (
        ""
        if not rows
        else "<p>What is damaged, or asks for code to be run, is recorded with the reason; nothing in a checkpoint is ever executed.</p>\n"
    )
    yield _section(said, note + (_table(rows) if rows else "<p>Every file that looked like a checkpoint could be read.</p>"))


def _go_on(zoo: Zoo) -> Iterable[str]:
    names = [row["name"] for row in zoo.sql("select name from models order by num_params desc, name limit 2").to_pylist()]
    if not names:
        return
    words = {"folder": shlex.quote(str(zoo.folder)), "model": shlex.quote(names[0]), "other": shlex.quote(names[-1])}
    shell, python = _SHELL.format(**words), _PYTHON.format(folder=str(zoo.folder), model=names[0])
    both = "".join(f"<div><h3>{title}</h3><pre>{_text(code)}</pre></div>\n" for title, code in (("Shell", shell), ("Python", python)))
    yield _section("How to go on from here", f'<div class="pair">\n{both}</div>')


def _section(title: str, body: str) -> str:
    return f"<section>\n<h2>{_text(title)}</h2>\n{body}\n</section>\n"


def _table(rows: Sequence[Row]) -> str:
    """A table of rows with equal keys; columns of numbers are set to the right."""
    if not rows:
        return "<p>No rows.</p>"
    numeric = {name for name in rows[0] if all(row[name] is None or isinstance(row[name], int | float | Decimal) for row in rows)}
    head = "".join(f"<th{' class=n' if name in numeric else ''}>{_text(name)}</th>" for name in rows[0])
    lines = "\n".join("<tr>" + "".join(_cell(value, name in numeric) for name, value in row.items()) + "</tr>" for row in rows)
    return f'<div class="table"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{lines}\n</tbody>\n</table></div>\n'


def _cell(value: Any, is_number: bool) -> str:
    kind = " class=n" if is_number else " class=s" if len(str(value)) <= _ONE_LINE else ""
    return f"<td{kind}>{_shown(value)}</td>"


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return f"{value:,}"
    return _BREAKS.sub("\\g<0><wbr>", _text(str(value)))


def _text(value: str) -> str:
    """Text from anywhere, harmless in a page: escaped, and without control characters or marks that turn text around."""
    return html.escape("".join(one if one.isprintable() or one == "\n" else f"\\u{ord(one):04x}" for one in value))
