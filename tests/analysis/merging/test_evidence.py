"""Fisher and Gram matrices, against brute force on tiny networks."""

from collections import OrderedDict
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from weightspace.analysis.merging import evidence
from weightspace.analysis.merging.method import methods
from weightspace.errors import TaskError, UnknownNameError
from weightspace.task import Task


def net() -> nn.Sequential:
    torch.manual_seed(0)
    made = nn.Sequential(
        OrderedDict(
            image=nn.Unflatten(1, (1, 4, 4)),
            conv=nn.Conv2d(1, 3, 3, padding=1),
            norm=nn.BatchNorm2d(3),
            relu=nn.ReLU(inplace=True),
            flat=nn.Flatten(),
            fc=nn.Linear(48, 4),
        )
    )
    made.norm.running_mean.normal_()  # type: ignore[union-attr, operator]
    return made.eval()


def task(module: nn.Module, batch_size: int = 5, examples: int = 11) -> Task:
    generator = torch.Generator().manual_seed(1)
    inputs, targets = torch.randn(examples, 16, generator=generator), torch.randint(4, (examples,), generator=generator)
    return Task.classification(module, inputs, targets, batch_size=batch_size)


def brute(task: Task, labels: str = "expected", examples: int | None = None) -> dict[str, Tensor]:
    """Loops over examples and classes, one backward pass each."""
    totals = {name: torch.zeros_like(one, dtype=torch.float64) for name, one in task.module.named_parameters()}
    inputs = torch.cat([batch[0] for batch in task.batches])[:examples]
    targets = torch.cat([batch[1] for batch in task.batches])[:examples]
    for example, target in zip(inputs, targets, strict=True):
        for label in range(4) if labels == "expected" else [int(target)]:
            task.module.zero_grad()
            found = task.module(example[None]).log_softmax(-1)[0, label]
            found.backward()
            share = float(found.detach().exp()) if labels == "expected" else 1.0
            for name, one in task.module.named_parameters():
                assert one.grad is not None
                totals[name] += share * one.grad.double() ** 2
    return {name: (one / len(inputs)).float() for name, one in totals.items()}


def close(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    assert one.keys() == two.keys()
    return all(torch.allclose(one[name], two[name], rtol=1e-4, atol=1e-8) for name in one)


@pytest.mark.parametrize("chunk", [None, 1, 3])
def test_expected_fisher_is_the_sum_over_examples_and_classes(chunk: int | None) -> None:
    judged = task(net())
    found = evidence.fisher(judged, judged.module.state_dict(), chunk=chunk)
    assert close(found, brute(judged)) and all(one.dtype == torch.float32 for one in found.values())


def test_empirical_fisher_is_that_of_the_targets() -> None:
    judged = task(net())
    found = evidence.fisher(judged, judged.module.state_dict(), labels="empirical", examples=7)
    assert close(found, brute(judged, "empirical", 7))
    assert not close(found, brute(judged))


@pytest.mark.parametrize("labels", ["expected", "sampled", "empirical"])
def test_how_data_are_batched_makes_no_difference(labels: evidence.Labels) -> None:
    """Unlike where gradients of a whole batch are squared: cross terms between examples do not vanish then."""
    module = net()
    made = [
        evidence.fisher(task(module, size), module.state_dict(), labels=labels, generator=torch.Generator().manual_seed(3))
        for size in (1, 4, 11)
    ]
    assert close(made[0], made[1]) and close(made[0], made[2])


def test_samples_average_to_the_expectation() -> None:
    module = net()
    judged = task(module)
    many = replace(judged, batches=[tuple(part.repeat_interleave(200, 0) for part in batch) for batch in judged.batches])
    found = evidence.fisher(many, module.state_dict(), labels="sampled", generator=torch.Generator().manual_seed(0))
    exact = brute(judged)
    for name, one in found.items():
        assert abs(float(one.sum() / exact[name].sum()) - 1) < 0.1
        assert torch.allclose(one, exact[name], rtol=0.5, atol=0.1 * float(exact[name].max()))


def test_positions_are_predictions_of_their_own() -> None:
    module = nn.Linear(3, 2, bias=False)
    generator = torch.Generator().manual_seed(0)
    tokens, classes = torch.randn(4, 5, 3, generator=generator), torch.randint(2, (4, 5), generator=generator)
    by_sequence = evidence.fisher(Task.classification(module, tokens, classes), module.state_dict())
    by_token = evidence.fisher(Task.classification(module, tokens.flatten(0, 1), classes.flatten()), module.state_dict())
    torch.testing.assert_close(by_sequence["weight"], 5 * by_token["weight"])


class Attention(nn.Module):
    """Tokens that see one another, by the fused kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.head = nn.Linear(8, 24), nn.Linear(8, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.qkv(tokens).view(len(tokens), -1, 2, 12).transpose(1, 2).chunk(3, -1)
        seen = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        made: Tensor = self.head(seen.transpose(1, 2).flatten(2))
        return made


@pytest.mark.parametrize("labels", ["expected", "sampled", "empirical"])
def test_attention_at_once_and_one_by_one(labels: evidence.Labels) -> None:
    torch.manual_seed(0)
    module = Attention()
    judged = Task.classification(module, torch.randn(3, 5, 8), torch.randint(4, (3, 5)))
    made = [
        evidence.fisher(judged, module.state_dict(), labels=labels, chunk=chunk, generator=torch.Generator().manual_seed(0))
        for chunk in (None, 1)
    ]
    assert close(*made)


def test_fisher_takes_batches_of_keywords_and_wrapped_names() -> None:
    module = nn.Linear(3, 2)
    batches = [{"input": torch.randn(4, 3, generator=torch.Generator().manual_seed(0))}]
    judged = Task(module, batches, lambda outputs, batch: outputs.mean())
    state_dict = {f"module.{name}": one for name, one in module.state_dict().items()}
    plain = evidence.fisher(judged, module.state_dict())
    assert close(evidence.fisher(judged, state_dict), {f"module.{name}": one for name, one in plain.items()})


def test_fisher_says_what_is_missing() -> None:
    module = nn.Linear(3, 2)
    judged = Task.classification(module, torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(TaskError, match=r"labels are to be sampled, and there is no generator to draw them from; give a torch\.Generator"):
        evidence.fisher(judged, module.state_dict(), labels="sampled")
    with pytest.raises(TaskError, match="the task has no batches, and a Fisher needs data; give it some"):
        evidence.fisher(replace(judged, batches=[]), module.state_dict())


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # where what is padded is not symmetric
@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(6, 3),
        nn.Conv1d(2, 3, 3, padding=2, stride=2),
        nn.Conv1d(2, 3, 4, padding="same"),
        nn.Conv2d(2, 3, (2, 3), padding="valid", dilation=(1, 2)),
        nn.Conv2d(2, 3, 3, padding=(1, 2), padding_mode="circular", bias=False),
    ],
    ids=str,
)
def test_gram_tells_the_squared_change_of_the_outputs(layer: nn.Module) -> None:
    """For any change of the weights, `tr(D G D^T)` is the mean square by which outputs move."""
    generator = torch.Generator().manual_seed(0)
    sizes = {nn.Linear: (7, 6), nn.Conv1d: (7, 2, 9), nn.Conv2d: (7, 2, 6, 8)}[type(layer)]
    inputs = torch.randn(sizes, generator=generator)
    judged = Task(layer, [inputs[:3], inputs[3:]], lambda outputs, batch: outputs.mean())
    found = evidence.gram(judged, layer.state_dict())
    change = torch.randn(layer.weight.shape, generator=generator)  # type: ignore[arg-type]
    state = {**layer.state_dict(), "weight": layer.weight + change}  # type: ignore[operator]
    moved = torch.func.functional_call(layer, state, (inputs,)) - layer(inputs)
    width = change.flatten(1).shape[1]
    assert found.keys() == {"weight"} and found["weight"].shape == (width, width)
    per_row = moved.detach().square().sum(-1 if isinstance(layer, nn.Linear) else 1).mean()
    torch.testing.assert_close((change.flatten(1) @ found["weight"] @ change.flatten(1).T).trace(), per_row)


def test_gram_leaves_out_layers_without_a_matrix_of_their_own() -> None:
    module = nn.Sequential(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 1, groups=2), nn.ConvTranspose2d(4, 2, 1), nn.BatchNorm2d(2))
    judged = Task(module, [torch.randn(3, 2, 4, 4)], lambda outputs, batch: outputs.mean())
    assert evidence.gram(judged, module.state_dict()).keys() == {"0.weight"}
    with pytest.raises(TaskError, match="layer '1' is a Conv2d, which has no Gram matrix; name a linear layer or a convolution"):
        evidence.gram(judged, module.state_dict(), ["1"])
    with pytest.raises(UnknownNameError, match="no submodule named '9'"):
        evidence.gram(judged, module.state_dict(), ["9"])


def test_gram_of_a_layer_that_is_never_called() -> None:
    module = nn.MultiheadAttention(4, 2, batch_first=True)
    judged = Task(
        module, [torch.randn(2, 3, 4)], lambda outputs, batch: outputs[0].mean(), forward=lambda module, batch: module(batch, batch, batch)
    )
    assert evidence.gram(judged, module.state_dict()) == {}
    with pytest.raises(TaskError, match="layer 'out_proj' is not called when the module runs, so it has no Gram matrix; leave it out"):
        evidence.gram(judged, module.state_dict(), ["out_proj"])


def test_gram_of_transposed_layers_says_so() -> None:
    pytorch_utils = pytest.importorskip("transformers.pytorch_utils")
    layer: Any = pytorch_utils.Conv1D(3, 3)
    inputs = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    judged = Task(layer, [inputs], lambda outputs, batch: outputs.mean())
    found = evidence.gram(judged, layer.state_dict())["weight"]
    torch.testing.assert_close(found, (inputs.T @ inputs / 10)[None])
    # RegMean then finds the layer that is nearest in its outputs, though the weight is square and stored input first.
    other = torch.randn(3, 3, generator=torch.Generator().manual_seed(1))
    weights = [layer.weight.detach(), other]
    made = methods["regmean"](weights, evidence={"gram": [found, torch.zeros_like(found)]}, ratio=1.0)
    torch.testing.assert_close(made, weights[0], atol=1e-4, rtol=0)
