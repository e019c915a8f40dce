"""TorchScript archives against the modules they were made from."""

import warnings
import zipfile
from pathlib import Path

import pytest
import torch

from weightspace.checkpoint import Checkpoint
from weightspace.errors import FormatError
from weightspace.formats import open_checkpoint


class Net(torch.nn.Module):
    """Nested modules, tied ones, buffers, a plain tensor attribute and two dtypes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
        self.tied = self.body[0]
        self.scale = torch.nn.Parameter(torch.ones(2))
        self.mean = torch.nn.Buffer(torch.arange(3.0))
        self.constant = torch.ones(5)
        self.small = torch.nn.Linear(2, 2).bfloat16()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shifted: torch.Tensor = self.body(x - self.mean)
        return shifted + self.constant.sum() + self.scale.sum()


@pytest.fixture(params=["script", "trace"])
def script(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, torch.nn.Module]:
    torch.manual_seed(0)
    module = Net().eval()
    with warnings.catch_warnings(action="ignore"):
        compiled = torch.jit.script(module) if request.param == "script" else torch.jit.trace(module, torch.ones(2, 3))  # type: ignore[no-untyped-call]
        compiled.save(str(tmp_path / "net.pt"))
    return tmp_path / "net.pt", compiled


def test_parameters_and_buffers_are_found(script: tuple[Path, torch.nn.Module]) -> None:
    path, module = script
    checkpoint = open_checkpoint(path)
    expected = module.state_dict()
    assert (checkpoint.format == "torchscript" and checkpoint.metadata["class"] == "Net") or "Net" in checkpoint.metadata["class"]
    assert set(checkpoint) == set(expected)
    for name, tensor in expected.items():
        assert checkpoint[name].dtype == tensor.dtype and torch.equal(checkpoint[name], tensor)
    assert checkpoint.id == Checkpoint.of(expected).id
    assert checkpoint.info["tied.weight"].alias_of == "body.0.weight"


def test_a_module_without_tensors_is_refused(tmp_path: Path) -> None:
    with warnings.catch_warnings(action="ignore"):
        torch.jit.script(torch.nn.ReLU()).save(str(tmp_path / "relu.pt"))  # type: ignore[no-untyped-call]
    with pytest.raises(FormatError, match="its module has no parameters and no buffers"):
        open_checkpoint(tmp_path / "relu.pt")


def test_hostile_archives_run_nothing(script: tuple[Path, torch.nn.Module], tmp_path: Path) -> None:
    with zipfile.ZipFile(script[0]) as old, zipfile.ZipFile(tmp_path / "bad.pt", "w") as new:
        for name in old.namelist():
            data = b"cos\nsystem\n(X\x05\x00\x00\x00touchtR." if name.endswith("/data.pkl") else old.read(name)
            new.writestr(name, data)
    with pytest.raises(FormatError, match=r"its pickle would run code: os.system") as caught:
        open_checkpoint(tmp_path / "bad.pt")
    assert caught.value.reason == "needs-code"


def test_endless_modules_are_refused(script: tuple[Path, torch.nn.Module], tmp_path: Path) -> None:
    loop = b"\x80\x02c__torch__\nM\nq\x00)\x81q\x01}q\x02X\x01\x00\x00\x00aq\x03h\x01sb."  # a module that is its own attribute
    with zipfile.ZipFile(script[0]) as old, zipfile.ZipFile(tmp_path / "bad.pt", "w") as new:
        for name in old.namelist():
            new.writestr(name, loop if name.endswith("/data.pkl") else old.read(name))
    with pytest.raises(FormatError, match="its modules are nested without end") as caught:
        open_checkpoint(tmp_path / "bad.pt")
    assert caught.value.reason == "hostile"


def test_a_truncated_archive_says_so(script: tuple[Path, torch.nn.Module]) -> None:
    whole = script[0].read_bytes()
    script[0].write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FormatError, match="its archive has no directory at its end") as caught:
        open_checkpoint(script[0])
    assert caught.value.reason == "truncated"
