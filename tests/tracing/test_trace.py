"""What is traced of networks of every kind is what a person would write down, and the function agrees."""

# mypy: disable-error-code="no-untyped-call"

import math
import re
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.tracing import modules
from weightspace.errors import SymmetryError
from weightspace.proof import prove
from weightspace.spec import SymmetrySpec
from weightspace.tracing import trace as trace_and_prove

trace = partial(trace_and_prove, prove=False)  # these tests prove where they have to

IMAGES, SEQUENCES, VECTORS = (2, 3, 8, 8), (2, 7, 3), (5, 4)


def groups(spec: SymmetrySpec) -> set[str]:
    """The groups that are no end of the network, a line each."""
    return {
        " ".join(str(part) for part in (g.name, g.size, g.kind, g.symmetry, f"per {g.per}" if g.per else "") if part)
        for g in spec.groups.values()
        if g.is_movable
    }


def table(spec: SymmetrySpec, *names: str) -> dict[str, str]:
    rows = spec.to_dict()["tensors"]
    return {name: rows[name] for name in names}


def chain() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 7), nn.GELU(), nn.Linear(7, 3))


CASES = {
    "a chain": (
        chain,
        VECTORS,
        {"layer0 8 permutable scale", "layer2 6 permutable sign", "layer4 7 permutable none"},
        {"0.weight": "layer0 in", "2.weight": "layer2 layer0'", "2.bias": "layer2", "6.weight": "out layer4'", "6.bias": "out"},
    ),
    "convolutions and norms": (
        modules.ConvNet,
        IMAGES,
        {
            "conv1 8 permutable scale",
            "conv2.group 3 permutable none",
            "conv2.channel 4 permutable none per conv2.group",
            "fc1 20 permutable sign",
        },
        {
            "conv1.weight": "conv1^0 in 3 3",
            "norm1.weight": "conv1",
            "norm1.running_mean": "conv1^0",
            "conv2.weight": "(conv2.group conv2.channel) conv1' 3 3",
            "fc1.weight": "fc1 (conv2.group' conv2.channel' 4)",
        },
    ),
    "a padded shortcut": (
        modules.PaddedShortcut,
        IMAGES,
        {
            "stem 8 permutable scale",
            "conv1 16 permutable scale",
            "conv2.padding 4 permutable scale",
            "conv2.padding2 4 permutable scale",
        },
        {"conv1.weight": "conv1^0 stem' 3 3", "head.weight": "out conv2.padding' + stem' + conv2.padding2'"},
    ),
    "dense concatenation": (
        modules.DenseBlock,
        IMAGES,
        {"conv1 6 permutable none", "conv2 4 permutable none", "conv3 5 permutable none"},
        {"norm.weight": "conv1 + conv2", "norm.running_var": "conv1^2 + conv2^2", "conv3.weight": "conv3 conv1' + conv2' 1 1", "head.weight": "out (conv3' 4)"},
    ),
    "grouped, depthwise and transposed convolutions": (
        modules.Grouped,
        (2, 3, 9),
        {
            "stem.group 4 permutable none",
            "stem.channel 3 permutable none per stem.group",
            "grouped 2 permutable none per stem.group",
            "up 6 permutable none",
        },
        {
            "depthwise.weight": "(stem.group stem.channel) 1 3",
            "grouped.weight": "(stem.group grouped) stem.channel' 3",
            "up.weight": "(stem.group' grouped') up 2",
        },
    ),
    "grouped transposed convolution in space": (
        modules.Instance,
        (2, 2, 4, 4, 4),
        {
            "conv1 6 permutable none",
            "conv2.group 2 permutable none",
            "conv2.channel 2 permutable none per conv2.group",
            "up 3 permutable none per conv2.group",
        },
        {"up.weight": "(conv2.group conv2.channel') up 2 2 2", "norm.weight": "conv1"},
    ),
    "a fused gated unit": (
        modules.FusedGlu,
        SEQUENCES,
        {"stem 6 permutable none", "gate_up 8 permutable scale"},
        {"gate_up.weight": "gate_up^0 + gate_up stem'", "down.weight": "stem gate_up'"},
    ),
    "packed attention": (
        modules.Packed,
        SEQUENCES,
        {
            "attention.out_proj 12 permutable scale",
            "attention.head 3 permutable none",
            "attention.key 4 permutable linear per attention.head",
            "attention.value 4 permutable linear per attention.head",
        },
        {
            "attention.in_proj_bias": "(attention.head attention.key) + (attention.head attention.key') + (attention.head attention.value)",
            "attention.out_proj.weight": "attention.out_proj (attention.head' attention.value')",
        },
    ),
    "attention of one view": (
        modules.TimmAttention,
        SEQUENCES,
        {
            "stem 12 permutable none",
            "qkv.head 3 permutable none",
            "qkv.key 4 permutable linear per qkv.head",
            "qkv.value 4 permutable linear per qkv.head",
        },
        {"qkv.bias": "(qkv.head qkv.key) + (qkv.head qkv.key') + (qkv.head qkv.value)"},
    ),
    "attention by einsum": (
        modules.Einsum,
        SEQUENCES,
        {"o 6 permutable none", "q.outer 2 permutable none", "q.inner 4 permutable linear per q.outer", "v 5 permutable linear per q.outer"},
        {"q": "q.outer o' q.inner", "k": "q.outer o' q.inner'", "v": "q.outer o' v", "o": "q.outer' v' o"},
    ),
    "experts": (
        modules.Experts,
        (4, 3),
        {"stem 6 permutable none", "up.outer 4 permutable none", "up.inner 5 permutable none per up.outer", "down 6 permutable none"},
        {"up": "up.outer stem' up.inner", "down": "up.outer up.inner' down", "router.weight": "up.outer stem'"},
    ),
    "a low-rank product": (
        modules.LowRank,
        VECTORS,
        {"base 6 permutable none", "lora_A 3 permutable linear"},
        {"lora_A.weight": "lora_A in", "lora_B.weight": "base lora_A'"},
    ),
    "a stream under RMS norm": (
        modules.RoundStream,
        VECTORS,
        {"embed 6 permutable orthogonal", "up 8 permutable none"},
        {"embed.weight": "embed in", "up.weight": "up embed'", "down.weight": "embed up'", "head.weight": "out embed'"},
    ),
    "ranges of hidden units": (
        modules.Sliced,
        VECTORS,
        {"fc1 12 permutable none", "fc2 5 permutable none", "fc3 6 permutable none"},
        {"fc2.weight": "fc2 + fc2 + 2 fc1'", "fc3.weight": "fc3 fc2'", "fc4.weight": "out (fc3' 2)"},
    ),
    "units by rank": (modules.Ranked, VECTORS, {"fc1 6 permutable none"}, {"fc2.weight": "6 fc1'", "fc3.weight": "out 3"}),
    "a state read at the end": (
        modules.LastState,
        SEQUENCES,
        {"layer.layer0 5 permutable none", "layer.layer1 5 permutable none"},
        {"layer.weight_hh_l1": "layer.layer1 + layer.layer1 + layer.layer1 + layer.layer1 layer.layer1'", "head.weight": "out layer.layer1'"},
    ),
    "LSTM in both directions": (
        lambda: modules.Recurrent("LSTM", num_layers=2, bidirectional=True),
        SEQUENCES,
        {f"layer.layer{k}{way} 5 permutable none" for k in (0, 1) for way in ("", "_reverse")},
        {"layer.bias_ih_l0": " + ".join(["layer.layer0"] * 4), "head.weight": "out layer.layer1' + layer.layer1_reverse'"},
    ),
    "GRU": (
        lambda: modules.Recurrent("GRU"),
        SEQUENCES,
        {"layer 5 permutable none"},
        {"layer.weight_hh_l0": "layer + layer + layer layer'", "head.weight": "out layer'"},
    ),
    "recurrent tanh": (
        lambda: modules.Recurrent("RNN"),
        SEQUENCES,
        {"layer 5 permutable sign"},
        {"layer.weight_hh_l0": "layer layer'"},
    ),
}  # fmt: skip


NOTES = {"units by rank": ("'topk' at the model, node topk fixes an axis of size 6",)}


@pytest.mark.parametrize("name", CASES)
def test_what_is_traced_is_what_a_person_would_write_down_and_is_proved(name: str) -> None:
    make, shape, expected, rows = CASES[name]
    torch.manual_seed(0)
    module, inputs = make(), torch.randn(shape)
    spec = trace(module, inputs)
    assert groups(spec) == expected
    assert table(spec, *rows) == rows
    assert spec.notes == NOTES.get(name, ())
    proved = prove(spec, module, inputs)
    assert proved.proved
    assert groups(proved) == expected


def test_the_module_is_left_as_it_is() -> None:
    module = modules.ConvNet().train()
    module.norm1.eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    trace(module, torch.randn(IMAGES))
    assert module.training and module.conv1.training and not module.norm1.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_statistics_are_told_and_integers_have_no_row() -> None:
    spec = trace(modules.ConvNet(), torch.randn(IMAGES))
    assert spec.statistics == {"norm1.running_mean", "norm1.running_var"}
    assert "norm1.num_batches_tracked" not in spec.tensors


def test_ties_are_found_and_buffers_have_rows_when_they_are_stored() -> None:
    module, tokens = modules.Tied(), torch.randint(0, 7, (2, 5))
    spec = trace(module, tokens)
    assert dict(spec.aliases) == {"head.weight": "embed.weight"}
    assert table(spec, "embed.weight", "shift", "fc.weight") == {"embed.weight": "out embed", "shift": "embed", "fc.weight": "embed embed'"}
    assert "mask" not in spec.tensors and "scratch" not in spec.tensors
    assert prove(spec, module, tokens).proved


def test_what_nothing_reads_is_fixed_and_noted() -> None:
    spec = trace(modules.Tied(), torch.randint(0, 7, (2, 5)))
    assert table(spec, "unread.weight") == {"unread.weight": "6 6"}
    assert "tensor 'unread.weight' is not read on the way to the output; its axes are fixed" in spec.notes


def test_what_integers_index_is_fixed() -> None:
    spec = trace(modules.Gathered(), torch.randn(2, 3, 6), torch.randint(0, 9, (2, 3)))
    assert table(spec, "table") == {"table": "9 in"}


def test_an_unknown_operation_fixes_what_it_touches_and_is_named() -> None:
    spec = trace(modules.Unknown(), torch.randn(VECTORS))
    assert table(spec, "fc1.weight") == {"fc1.weight": "6 in"}
    assert spec.notes == ("operation '_fft_r2c' is not known; the axes it touches are fixed (the model, node _fft_r2c)",)


def test_a_path_that_depends_on_data_is_refused_in_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SymmetryError, match=r"the path through the module depends on the data .*; trace a module that takes the same path"):
        trace(modules.Branching(), torch.randn(VECTORS))
    assert capfd.readouterr() == ("", "")


class Hidden(nn.Module):
    """Two layers with something between them."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.between = nn.Linear(4, 8), nn.Linear(8, 3), between

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.between(self.a(x)))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("between", "operation"),
    [
        (lambda h: h.flip(-1), "flip"),
        (lambda h: h.roll(1, -1), "roll"),
        (lambda h: h[:, [1, 0, 2, 3, 5, 4, 7, 6]], "index"),
        (lambda h: h.sort(-1).values, "sort"),
        (lambda h: h - h.median(-1, keepdim=True).values, "median"),
        (lambda h: h.cumsum(-1), "cumsum"),
        (lambda h: torch.cat([h[:, ::3], h[:, :5]], -1), "slice"),
        (lambda h: F.local_response_norm(h[:, :, None], 2)[:, :, 0], "avg_pool2d"),
    ],
)
def test_an_operation_that_fixes_a_hidden_axis_is_named(between: Callable[[Tensor], Tensor], operation: str) -> None:
    spec = trace(Hidden(between), torch.randn(VECTORS))
    assert not spec.movable and len(spec.notes) == 1
    assert re.fullmatch(f"'{operation}' at the model, node {operation}\\w* fixes an axis of size [89]", spec.notes[0])


def test_a_diagonal_is_indexed_alike_on_both_sides() -> None:
    module, inputs = Hidden(lambda h: torch.diag_embed(torch.tanh(h)).sum(-1)), torch.randn(VECTORS)
    spec = trace(module, inputs)
    assert groups(prove(spec, module, inputs)) == {"a 8 permutable none"} and not spec.notes
    beside = trace(Hidden(lambda h: torch.diag_embed(h, 1)[:, :8, 1:].sum(-1)), inputs)
    assert not beside.movable and beside.notes[0].startswith("operation 'diag_embed' cannot be followed (ValueError: not the main diagonal")


def test_a_shape_that_depends_on_data_is_refused_in_one_line() -> None:
    with pytest.raises(
        SymmetryError, match=r"the path through the module depends on the data \(node .* has shape \[u0, .*; trace a module"
    ):
        trace(Hidden(lambda h: h[h.sum(-1) > 0]), torch.randn(VECTORS))


class Caching(Hidden):
    def forward(self, x: Tensor) -> Tensor:
        self.cache = self.a(x)
        return self.b(torch.tanh(self.cache))  # type: ignore[no-any-return]


def test_what_forward_stores_in_attributes_stays_out_of_the_module() -> None:
    module, inputs = Caching(torch.tanh), torch.randn(VECTORS)
    assert groups(trace_and_prove(module, inputs)) == {"a 8 permutable sign"}
    assert not hasattr(module, "cache")
    module(inputs)
    before = module.cache
    assert groups(trace_and_prove(module, inputs)) == {"a 8 permutable sign"}
    assert module.cache is before


def test_a_weight_that_a_hook_computes_is_no_obstacle() -> None:
    with pytest.warns(FutureWarning):
        normed = nn.utils.weight_norm(nn.Linear(4, 6))
    module, inputs = nn.Sequential(normed, nn.Tanh(), nn.Linear(6, 2)), torch.randn(VECTORS)
    module(inputs)
    assert groups(trace_and_prove(module, inputs)) == {"layer0 6 permutable sign"}


class Averaging(Hidden):
    """Writes a running mean even in eval mode."""

    ema: Tensor

    def __init__(self) -> None:
        super().__init__(torch.tanh)
        self.register_buffer("ema", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.a(x)
        self.ema.mul_(0.9).add_(hidden.mean(0).detach())
        return self.b(torch.tanh(hidden))  # type: ignore[no-any-return]


def test_what_is_written_to_a_buffer_is_no_output() -> None:
    spec = trace(Averaging(), torch.randn(VECTORS))
    assert groups(spec) == {"a 8 permutable sign"}
    assert "buffer 'ema' is written in eval mode, which is no output" in spec.notes


def test_tensors_that_share_storage_in_part_are_fixed() -> None:
    module = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
    module[2].weight = nn.Parameter(module[0].get_parameter("weight").data.t())
    spec = trace_and_prove(module, torch.randn(2, 6))
    assert table(spec, "0.weight", "2.weight") == {"0.weight": "6 in", "2.weight": "6 6"}
    assert not spec.movable and spec.notes == ("tensors '0.weight' and '2.weight' share storage in part; their axes are fixed",)


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(SymmetryError, match=r"the outputs are empty, of shape \[0, 3\], .*; give inputs with at least one example"):
        trace(chain(), torch.randn(0, 4))


def test_inputs_on_which_the_module_does_not_run_are_refused() -> None:
    with pytest.raises(SymmetryError, match=r"torch.export cannot read the module .*; see that it runs on these inputs in eval mode"):
        trace(nn.Linear(3, 2), torch.randn(2, 4))


def test_a_stream_may_be_turned_once_the_gains_on_it_are_folded() -> None:
    class Gained(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.norm1, self.mix = nn.Linear(4, 6), nn.RMSNorm(6), nn.Linear(6, 6)
            self.norm2, self.head = nn.RMSNorm(6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x)
            x = x + self.mix(self.norm1(x))
            y: Tensor = self.head(F.dropout(self.norm2(x), training=self.training))
            return y

    spec = trace(Gained(), torch.randn(VECTORS))
    assert groups(spec) == {"embed 6 permutable sign"}
    assert spec.gains == {"norm1.weight": ("mix.weight",), "norm2.weight": ("head.weight",)}
    folded = trace_and_prove(Gained(), torch.randn(VECTORS)).folded
    assert folded.groups["embed"].symmetry == "orthogonal"
    proved = prove(folded, Gained(), torch.randn(VECTORS))
    assert proved.proved and not proved.notes and proved.groups["embed"].symmetry == "orthogonal"


def test_a_gain_before_a_tied_tensor_cannot_be_folded() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.norm, self.head = nn.Embedding(9, 6), nn.RMSNorm(6), nn.Linear(6, 9, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.head(self.norm(self.embed(x)))
            return y

    spec = trace(Tied(), torch.randint(0, 9, (2, 5)))
    assert spec.gains == {}
    assert spec.notes == ("group 'embed' would be orthogonal if the gain 'norm.weight' could be folded into what reads it",)


def test_attention_over_grouped_keys_repeats_them() -> None:
    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.o = nn.Linear(3, 24), nn.Linear(3, 8), nn.Linear(3, 8), nn.Linear(24, 2)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (layer(x).unflatten(-1, (-1, 4)).transpose(1, 2) for layer in (self.q, self.k, self.v))
            y: Tensor = self.o(F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2).flatten(2))
            return y

    module, inputs = Grouped(), torch.randn(SEQUENCES)
    spec = trace(module, inputs)
    assert table(spec, "q.bias", "k.bias", "v.bias", "o.weight") == {
        "q.bias": "(q.kv q.rep q.key)",
        "k.bias": "(q.kv q.key')",
        "v.bias": "(q.kv v)",
        "o.weight": "out (q.kv' q.rep' v')",
    }
    assert {g.name: g.per for g in spec.movable} == {"q.kv": None, "q.rep": "q.kv", "q.key": "q.kv", "v": "q.kv"}
    assert prove(spec, module, inputs).proved


def test_a_wider_projection_than_its_input_has_a_linear_state() -> None:
    class Projected(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.LSTM(3, 5, proj_size=2, batch_first=True), nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.head(self.layer(x)[0])
            return y

    module, inputs = Projected(), torch.randn(SEQUENCES)
    spec = trace(module, inputs)
    assert {(g.size, g.symmetry) for g in spec.movable} == {(5, "none"), (2, "linear")}
    assert prove(spec, module, inputs).proved


def test_scores_between_heads_leave_no_group_per_head() -> None:
    """Heads that are mixed belong to two indices at once: which of them a child would follow is open."""

    class Talking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.mix, self.head = nn.Linear(3, 12), nn.Parameter(torch.randn(3, 3)), nn.Linear(12, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = F.gelu(self.stem(x)).unflatten(-1, (3, 4))
            x = x + torch.einsum("bthd,gh->btgd", x, self.mix)
            y: Tensor = self.head(F.gelu(x.flatten(2)))
            return y

    module, inputs = Talking(), torch.randn(SEQUENCES)
    spec = trace(module, inputs)
    assert [g.per for g in spec.movable] == [None, None]
    assert spec.log2_order == pytest.approx(math.log2(6) + math.log2(24))
    assert prove(spec, module, inputs).proved
