"""Plain chains from names and shapes: what is inferred preserves the function, and what might be no chain is refused."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import weightspace as ws
from weightspace.axes import show
from weightspace.errors import SymmetryError, UnknownNameError
from weightspace.inference import ACTIVATIONS, infer_spec
from weightspace.proof import prove
from weightspace.spec import SymmetrySpec
from weightspace.symmetry import act
from weightspace.tracing import trace


class Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(30 * x)


def mlp(activation: type[nn.Module]) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), activation(), nn.Linear(8, 6), activation(), nn.Linear(6, 2))


def cnn(activation: type[nn.Module], *, norm: bool) -> nn.Module:
    def block(reads: int, makes: int) -> list[nn.Module]:
        return [nn.Conv2d(reads, makes, 3, padding=1), *([nn.BatchNorm2d(makes)] if norm else []), activation()]

    flat = [nn.Flatten(), nn.Linear(5 * 16, 7), activation(), nn.Linear(7, 3)]
    return nn.Sequential(*block(2, 4), nn.MaxPool2d(2), *block(4, 5), *flat)


NETS: dict[str, tuple[nn.Module, tuple[int, ...], str]] = {
    "relu": (mlp(nn.ReLU), (5, 3), "relu"),
    "leaky": (mlp(nn.LeakyReLU), (5, 3), "leaky_relu"),
    "tanh": (mlp(nn.Tanh), (5, 3), "tanh"),
    "siren": (mlp(Sine), (5, 3), "sin"),
    "gelu": (mlp(nn.GELU), (5, 3), "gelu"),
    "cnn relu": (cnn(nn.ReLU, norm=False), (2, 2, 8, 8), "relu"),
    "cnn relu norm": (cnn(nn.ReLU, norm=True), (2, 2, 8, 8), "relu"),
    "cnn tanh": (cnn(nn.Tanh, norm=False), (2, 2, 8, 8), "tanh"),
    "conv1d": (
        nn.Sequential(nn.Conv1d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv1d(4, 5, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(40, 3)),
        (2, 2, 8),
        "relu",
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_what_is_inferred_is_proved(name: str) -> None:
    net, shape, activation = NETS[name]
    spec = infer_spec(net.eval().state_dict(), activation)
    proved = prove(spec, net, torch.zeros(shape), draws=1)
    assert proved.proved and proved == spec, proved.notes
    plain = infer_spec(net.state_dict())
    assert {g.symmetry for g in plain.groups.values()} == {"none"} and plain.sizes == spec.sizes


@pytest.mark.parametrize("name", ["relu", "tanh", "gelu", "cnn relu norm"])
def test_tracing_finds_the_same_groups(name: str) -> None:
    net, shape, activation = NETS[name]
    found = trace(net.eval(), torch.zeros(shape))
    assert sorted((g.size, g.kind, g.symmetry) for g in found.movable) == sorted(
        (g.size, g.kind, g.symmetry) for g in infer_spec(net.state_dict(), activation).movable
    )


def axes(spec: SymmetrySpec) -> dict[str, str]:
    return {name: show(row) for name, row in spec.tensors.items()}


def zeros(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


def test_kernels_of_keras_are_in_out_and_flatten_positions_first() -> None:
    found = infer_spec(
        zeros(
            **{
                "conv/conv/kernel:0": (3, 3, 1, 4), "conv/conv/bias:0": (4,), "dense/dense/kernel:0": (36, 6), "dense/dense/bias:0": (6,),
                "out/out/kernel:0": (6, 2),
            }
        )
    )  # fmt: skip
    assert axes(found) == {
        "conv/conv/kernel:0": "3 3 1 conv_conv", "conv/conv/bias:0": "conv_conv",
        "dense/dense/kernel:0": "(9 conv_conv') dense_dense", "dense/dense/bias:0": "dense_dense", "out/out/kernel:0": "dense_dense' 2",
    }  # fmt: skip


def test_layers_are_ordered_by_their_numbers() -> None:
    widths = [3, *range(20, 31), 2]
    names = [f"fc{at}.weight" for at in range(1, len(widths))]
    state = {name: torch.zeros(after, before) for name, before, after in zip(names, widths, widths[1:], strict=False)}
    found = infer_spec(dict(sorted(state.items())))  # fc1, fc10, fc11, fc12, fc2, ...
    assert axes(found)["fc12.weight"] == "2 fc11'" and axes(found)["fc2.weight"] == "fc2 fc1'"


def test_norms_are_put_after_their_layers() -> None:
    state = nn.ModuleDict(
        {"conv1": nn.Conv2d(1, 4, 3), "bn1": nn.BatchNorm2d(4), "conv2": nn.Conv2d(4, 6, 3), "bn2": nn.BatchNorm2d(6)}
    ).state_dict()
    state |= zeros(**{"fc.weight": (2, 6)})
    by_name, as_made = infer_spec(dict(sorted(state.items()))), infer_spec(state)
    assert by_name == as_made and axes(as_made)["bn2.running_var"] == "conv2"
    assert as_made.statistics == {"bn1.running_mean", "bn1.running_var", "bn2.running_mean", "bn2.running_var"}


def test_numbered_names_without_dots() -> None:
    found = infer_spec(zeros(W0=(5, 3), B0=(5,), W1=(2, 5), B1=(2,)), "relu")
    assert axes(found) == {"W0": "h0 3", "B0": "h0", "W1": "2 h0'", "B1": "2"} and found.groups["h0"].symmetry == "scale"


REFUSED = {
    "a branch": (zeros(**{"a.weight": (4, 3), "b1.weight": (2, 4), "b2.weight": (5, 4)}), "tensor 'b2.weight' reads 4 values where the layer before makes 2"),
    "a block": (
        zeros(**{"in.weight": (4, 3), "blocks.0.fc1.weight": (4, 4), "blocks.0.fc2.weight": (4, 4), "out.weight": (2, 4)}),
        "layers 'blocks.0.fc1' and 'blocks.0.fc2' stand in one block, across which something may be added; trace the module with ws.trace",
    ),
    "a shortcut": (zeros(**{"fc.weight": (4, 3), "skip.weight": (4, 4)}), "tensor 'skip.weight' has the name of a shortcut"),
    "all square": (zeros(**{"a.weight": (4, 4), "b.weight": (4, 4)}), "the tensors fit several chains"),
    "another tensor": (zeros(**{"a.weight": (4, 3), "a.alpha": (4,)}), "tensor 'a.alpha' is no weight, bias or batch norm of a plain chain by its name"),
    "a norm without statistics": (
        zeros(**{"a.weight": (4, 3), "norm.weight": (4,), "norm.bias": (4,), "b.weight": (2, 4)}),
        "tensor 'norm.weight' belongs to no weight matrix, kernel or batch norm",
    ),
    "a norm of another width": (
        zeros(**{"a.weight": (4, 3), "n.running_mean": (5,), "n.running_var": (5,), "b.weight": (2, 4)}),
        "tensor 'n.running_mean' has 5 channels where the layer before makes 4",
    ),
    "a norm of several widths": (
        zeros(**{"a.weight": (4, 3), "n.running_mean": (4,), "n.running_var": (5,), "b.weight": (2, 4)}),
        "tensor 'n.running_var' has shape [5], expected [4]",
    ),
    "a norm before another input": (
        zeros(**{"n.running_mean": (5,), "n.running_var": (5,), "b.weight": (2, 4)}), "reads 4 values where the norm before has 5",
    ),
    "a kernel after a matrix": (zeros(**{"a.weight": (4, 3), "b.weight": (2, 4, 3, 3)}), "tensor 'b.weight' is a kernel after a matrix"),
    "grouped": (zeros(**{"a.weight": (4, 3, 3, 3), "b.weight": (4, 2, 3, 3)}), "tensor 'b.weight' reads 2 values where the layer before makes 4"),
    "a bias of another length": (zeros(**{"a.weight": (4, 3), "a.bias": (3,), "b.weight": (2, 4)}), "tensor 'a.bias' has shape [3], expected [4]"),
    "the same part twice": (zeros(**{"a.weight": (4, 3), "a.kernel": (4, 3)}), "tensors 'a.weight' and 'a.kernel' seem to be the same part of one layer"),
    "more than a weight": (zeros(**{"a.weight": (4, 3), "a.gamma": (4,)}), "layer 'a' has more than a weight and a bias"),
    "nothing": (zeros(), "there is no layer with a weight matrix or kernel"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_may_be_no_chain_is_refused(case: str) -> None:
    state, message = REFUSED[case]
    with pytest.raises(SymmetryError, match=re.escape(message)) as error:
        infer_spec(state)
    assert str(error.value).endswith("trace the module with ws.trace, or write a spec")


def test_tied_layers_are_refused() -> None:
    weight = torch.zeros(4, 4)
    with pytest.raises(SymmetryError, match=r"tensor 'b.weight' is tied to 'a.weight', so the network is no plain chain"):
        infer_spec({"a.weight": weight, "b.weight": weight})


def test_unknown_activation_is_told() -> None:
    with pytest.raises(UnknownNameError, match="no activation named 'rellu'; did you mean 'relu'"):
        infer_spec(zeros(**{"a.weight": (4, 3), "b.weight": (2, 4)}), "rellu")
    assert set(ACTIVATIONS.values()) == {"none", "sign", "scale"}


CHAINS = {
    "inr_orbit/orbit_000.pth": [32, 32],
    "acasxu/ACASXU_run2a_1_1.onnx": [50] * 6,
    "outlier-exposure/baseline_epoch_9.pt": [10, 20, 50],
    "drfrankenstein/tiny10_cifar10_seed00.pt": [16, 16, 32, 32, 32, 64, 64, 64],
}


@pytest.mark.parametrize(("name", "widths"), CHAINS.items())
def test_real_chains(real_checkpoints: Path, name: str, widths: list[int]) -> None:
    assert [group.size for group in infer_spec(ws.open(real_checkpoints / name)).groups.values()] == widths


@pytest.mark.parametrize(
    "name",
    [
        "akamaster/resnet20_cifar10.th", "drfrankenstein/resnet20_cifar10_seed0.pt", "mtcnn/facenet_pnet.pt", "rwkv8/251105_reverse_L2.pth",
        "silero/silero_vad_16k.safetensors", "microsoft-lora/roberta_base_lora_mnli.bin", "cloneofsimo-lora/lora_disney.safetensors",
        "nnsplit/en.onnx",
    ],
)  # fmt: skip
def test_real_networks_that_are_no_chains_are_refused(real_checkpoints: Path, name: str) -> None:
    with pytest.raises(SymmetryError, match=r"trace the module with ws.trace, or write a spec"):
        infer_spec(ws.open(real_checkpoints / name))


def test_orbit_of_a_real_implicit_network_is_kept(real_checkpoints: Path, generator: torch.Generator) -> None:
    state = ws.open(real_checkpoints / "inr_orbit/orbit_000.pth").state_dict()
    spec = infer_spec(state, "sin")
    moved = act(spec.random(generator), state)

    def values(weights: dict[str, Tensor]) -> Tensor:
        x = torch.from_numpy(np.linspace(-1, 1, 20, dtype=np.float64).reshape(10, 2))
        for at in range(3):
            x = x @ weights[f"seq.{at}.weight"].double().mT + weights[f"seq.{at}.bias"].double()
            x = torch.sin(30 * x) if at < 2 else x
        return x

    assert torch.allclose(values(state), values(dict(moved)), atol=1e-4) and not torch.equal(state["seq.0.weight"], moved["seq.0.weight"])
