"""A look at a file that the catalog lists as refused says why, where its name is given as the list has it."""

from pathlib import Path

import pytest

from weightspace.errors import FormatError, UnknownNameError
from weightspace.zoo import Zoo


def test_a_refused_file_says_why(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "cut.safetensors").write_bytes(b"\xff" * 40)
    zoo = Zoo(tmp_path)
    zoo.ingest(tmp_path, jobs=1)
    [listed] = zoo.quarantined().to_pylist()
    with pytest.raises(FormatError, match=r"inside/cut\.safetensors: ") as error:
        zoo.look(listed["path"])
    assert str(error.value).count("cut.safetensors") == 1
    with pytest.raises(UnknownNameError):
        zoo.look("inside/other.safetensors")
