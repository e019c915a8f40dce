"""Every notebook runs from its first cell to its last, and what is committed of it is small."""

from contextlib import nullcontext
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from traitlets.config import Config

from tests.remote.hubs import running

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
# The kernel is spoken to over files in the working folder, not ports.
LOCAL = Config({"KernelManager": {"transport": "ipc"}})
HUB = "09_the_hub"  # runs beside a hub of its own


# The event loop's own sockets are closed when it is collected, which may be during another test.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # what a notebook leaves behind goes where tests are cleaned up
    notebook = nbformat.read(path, as_version=4)
    with running(tmp_path, monkeypatch) if path.stem == HUB else nullcontext():
        NotebookClient(notebook, timeout=120, kernel_name="python3", config=LOCAL).execute()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_notebook_is_small_whole_and_tells_no_machine(path: Path) -> None:
    text = path.read_text()
    assert len(text) < 100_000
    assert "/tmp/" not in text and str(Path.home()) not in text
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "run it from top to bottom before committing"
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)


def test_notebooks_are_numbered() -> None:
    assert [int(path.name[:2]) for path in NOTEBOOKS] == list(range(1, len(NOTEBOOKS) + 1))
