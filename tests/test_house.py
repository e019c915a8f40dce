"""House rules that no linter checks: what may be loaded when, what is documented, what is tested."""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from weightspace.formats import formats

ROOT = Path(__file__).resolve().parent.parent
SOURCES = sorted(path for folder in ("weightspace", "zoo", "metanets", "analysis") for path in (ROOT / folder).rglob("*.py"))
HEAVY = (
    "torch",
    "h5py",
    "gguf",
    "onnx",
    "pandas",
    "polars",
    "sklearn",
    "matplotlib",
    "transformers",
    "peft",
    "huggingface_hub",
    "jaxtyping",
)
CATALOG = ("duckdb", "pyarrow")


def loaded_by(statements: str) -> set[str]:
    """Top-level packages that a fresh interpreter holds after running some statements."""
    script = f"{statements}\nimport json, sys\nprint(json.dumps(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize(
    ("statements", "absent"),
    [
        ("import weightspace", (*HEAVY, *CATALOG, "numpy", "typer", "rich")),
        ("import weightspace, weightspace.zoo.reading", (*HEAVY, *CATALOG, "typer", "rich")),
        ("import weightspace.zoo.zoo", HEAVY),
        ("from weightspace.formats import formats; list(formats)", (*HEAVY, *CATALOG)),
        ("import weightspace.cli.main", (*HEAVY, *CATALOG)),
    ],
)
def test_what_an_import_must_not_load(statements: str, absent: tuple[str, ...]) -> None:
    assert sorted(loaded_by(statements).intersection(absent)) == []


def test_ingest_and_sql_run_without_torch(tmp_path: Path) -> None:
    save_file({"w": np.ones((2, 3), np.float32)}, tmp_path / "model.safetensors")
    ingest = f"""
from weightspace.zoo import Zoo
zoo = Zoo({os.fspath(tmp_path)!r})
zoo.ingest({os.fspath(tmp_path)!r}, jobs=1)
assert zoo.sql("select num_params from models").to_pylist() == [{{"num_params": 6}}]
"""
    # pandas, where there is one, is loaded by DuckDB itself when it is handed an Arrow table.
    assert sorted(loaded_by(ingest).intersection(HEAVY) - {"pandas"}) == []


def test_help_of_the_command_line_loads_nothing_heavy() -> None:
    helped = "from contextlib import suppress\nfrom weightspace.cli.main import main\nimport sys\nsys.argv = ['weightspace', '--help']\nwith suppress(SystemExit):\n    main()"
    assert sorted(loaded_by(helped).intersection((*HEAVY, *CATALOG))) == []


def module_level_imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Packages imported when the file is loaded; what stands under TYPE_CHECKING or in a function is not."""
    pending: list[ast.stmt] = list(tree.body)
    for node in pending:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, (node.module or "").partition(".")[0]
        elif isinstance(node, ast.If):
            pending.extend(node.orelse if "TYPE_CHECKING" in ast.unparse(node.test) else [*node.body, *node.orelse])
        elif isinstance(node, ast.Try):
            pending.extend([*node.body, *node.orelse, *(one for handler in node.handlers for one in handler.body)])


def test_no_file_loads_something_heavy_when_imported() -> None:
    # What computes with tensors may take torch for granted; reading, cataloguing and the command line may not.
    computing = re.compile(
        r"(weightspace/(action|folding|symmetry|task|adapters/\w+|experiments/(claims/)?\w+|linalg/\w+|proof/\w+|tracing/\w+)|zoo/populations/(layers|training))\.py"
    )
    light = [path for path in SOURCES if named(path).startswith(("weightspace/", "zoo/")) and not computing.fullmatch(named(path))]
    found = [f"{named(path)}:{line} {name}" for path in light for line, name in module_level_imports(parsed(path)) if name in HEAVY]
    assert found == [], "import it inside the function that needs it"


def test_every_file_opens_with_its_one_concept() -> None:
    first = {named(path): (ast.get_docstring(parsed(path)) or "").partition("\n") for path in SOURCES}
    assert [name for name, (line, _, rest) in first.items() if not line.endswith((".", ":")) or (rest and rest[0] != "\n")] == []


def test_the_core_imports_no_wing_and_no_command_line() -> None:
    # Outside are the facade, which names every part and loads each when it is first used, and the door to the command line.
    outside = {"weightspace/__init__.py", "weightspace/__main__.py"}
    core = [
        path
        for path in SOURCES
        if re.fullmatch(r"weightspace/((?!cli|experiments)\w+/)?\w+\.py", named(path)) and named(path) not in outside
    ]
    above = re.compile(r"weightspace\.(zoo|metanets|analysis|cli|experiments)\b")
    assert [f"{named(path)}: {name}" for path in core for name in imported(parsed(path)) if above.match(name)] == []


def imported(tree: ast.Module) -> Iterator[str]:
    """Every module that a file imports anywhere, and every name it takes from one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def undocumented(tree: ast.Module) -> Iterator[str]:
    """Public functions, classes and methods without a docstring."""
    pending: list[tuple[str, ast.AST]] = [("", tree)]
    for prefix, parent in pending:
        for node in ast.iter_child_nodes(parent):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name.startswith("_"):
                continue
            if ast.get_docstring(node) is None and not any("overload" in ast.unparse(one) for one in node.decorator_list):
                yield prefix + node.name
            if isinstance(node, ast.ClassDef):
                pending.append((f"{prefix}{node.name}.", node))


def test_every_public_definition_is_documented() -> None:
    assert [f"{named(path)} {name}" for path in SOURCES for name in undocumented(parsed(path))] == []


def test_every_format_has_a_test_of_its_own() -> None:
    texts = {path.stem: path.read_text() for path in (ROOT / "tests" / "formats").glob("test_*.py")}
    homes = {name: format.open.__module__.rpartition(".")[2] for name, format in formats.items()}
    quoted = {name for name in formats if any(re.search(rf"[\"']{re.escape(name)}[\"']", text) for text in texts.values())}
    untested = sorted(name for name, home in homes.items() if f"test_{home}" not in texts and name not in quoted)
    assert untested == [], "add tests/formats/test_<name>.py, or name it in the test of its family"


def test_no_file_puts_off_work_or_switches_annotations_off() -> None:
    texts = {named(path): path.read_text() for path in {*SOURCES, *(ROOT / "tests").rglob("*.py")}}
    assert [name for name, text in texts.items() if re.search(r"#.*\b(TO" r"DO|FIX" r"ME|X" r"XX)\b", text)] == []
    # Checked dataclasses need real types.
    assert [name for name, text in texts.items() if re.search(r"^from __future__ import annotations", text, re.M)] == []


def test_no_file_is_named_for_nothing() -> None:
    assert [named(path) for path in SOURCES if path.stem in ("utils", "helpers", "misc", "common")] == []
