"""A task evaluates any state dict of its module, gives its activations and gradients, and never changes the module."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from weightspace.checkpoint import Checkpoint
from weightspace.errors import ShapeMismatchError, TaskError, UnknownNameError
from weightspace.task import Task, call, logits_of, task_through


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 2))


def data(count: int = 10) -> tuple[Tensor, Tensor]:
    drawn = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, generator=drawn), torch.randint(2, (count,), generator=drawn)


def others(module: nn.Module) -> dict[str, Tensor]:
    """Other weights for a module than its own."""
    return {name: tensor + 0.3 if tensor.is_floating_point() else tensor for name, tensor in module.state_dict().items()}


@pytest.fixture
def task() -> Task:
    return Task.classification(net(), *data(), batch_size=4)


class Branches(nn.Module):
    """Calls one layer twice, another never, and hands on tuples and keywords."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.never, self.pair = nn.Linear(2, 2), nn.Linear(2, 2), Pair()

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.pair(value=self.twice(self.twice(x)))[0]
        return made


class Pair(nn.Module):
    def forward(self, value: Tensor) -> tuple[Tensor, str]:
        return value * 2, "rest"


class TestEvaluate:
    def test_mean_is_weighted_by_batch_size(self, task: Task) -> None:
        inputs, targets = data()
        whole = task.evaluate(others(task.module))
        together = Task.classification(task.module, inputs, targets).evaluate(others(task.module))
        assert whole == pytest.approx(together)
        reference = net().eval()
        reference.load_state_dict(others(task.module))
        logits = reference(inputs)
        assert whole["loss"] == pytest.approx(nn.functional.cross_entropy(logits, targets).item())
        assert whole["accuracy"] == pytest.approx((logits.argmax(1) == targets).double().mean().item())

    def test_the_module_is_left_as_it_was(self, task: Task) -> None:
        task.module.train()
        task.module[4].eval()  # type: ignore[index]
        before = {name: tensor.clone() for name, tensor in task.module.state_dict().items()}
        flags = [module.training for module in task.module.modules()]
        state_dict = others(task.module)
        given = {name: tensor.clone() for name, tensor in state_dict.items()}
        first = task.evaluate(state_dict)
        list(task.activations(state_dict, ["2"]))
        list(task.run(state_dict, batch_statistics=True))
        task.loss_of(state_dict, task.batches[0], batch_statistics=True)  # type: ignore[index]
        assert task.evaluate(state_dict) == first, "dropout and batch statistics are off"
        assert flags == [module.training for module in task.module.modules()]
        assert all(torch.equal(tensor, before[name]) for name, tensor in task.module.state_dict().items())
        assert all(torch.equal(tensor, given[name]) for name, tensor in state_dict.items())
        assert not any(module._forward_hooks for module in task.module.modules())

    def test_weights_that_hooks_compute_follow_the_state_dict(self) -> None:
        with pytest.warns(FutureWarning):
            module = nn.utils.weight_norm(nn.Linear(2, 1, bias=False))
        task = Task(module, [torch.ones(1, 2)], lambda out, _: out.mean())
        assert task.evaluate({"weight_g": torch.tensor([[5.0]]), "weight_v": torch.tensor([[3.0, 4.0]])})["loss"] == pytest.approx(7.0)

    def test_checkpoints_other_dtypes_and_prefixes_are_taken(self, task: Task) -> None:
        state_dict = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in others(task.module).items()}
        wrapped = Checkpoint.of({f"module.{name}": tensor for name, tensor in state_dict.items()})
        assert task.evaluate(wrapped) == task.evaluate(state_dict) == task.evaluate(others(task.module))

    def test_a_state_dict_that_lacks_a_tensor_is_refused_and_not_filled_from_the_module(self, task: Task) -> None:
        lacking = {name: tensor for name, tensor in others(task.module).items() if name != "4.bias"}
        with pytest.raises(TaskError, match=r"does not fit module Sequential: '4.bias' missing, none unexpected"):
            task.evaluate(lacking)

    def test_metrics_are_functions_of_outputs_and_batch(self) -> None:
        module = nn.Linear(1, 1, bias=False)
        batches = [(torch.tensor([[1.0], [2.0]]), torch.zeros(2, 1)), (torch.tensor([[6.0]]), torch.zeros(1, 1))]
        task = Task(
            module, batches, lambda out, batch: (out - batch[1]).square().mean(), {"mean": lambda out, _: out.mean(), "two": lambda *_: 2}
        )
        assert task.evaluate({"weight": torch.ones(1, 1)}) == pytest.approx({"loss": 41 / 3, "mean": 3.0, "two": 2.0})

    def test_own_weight_of_a_batch(self) -> None:
        batches = [torch.ones(1, 1), torch.full((1, 1), 4.0)]
        task = Task(nn.Linear(1, 1, bias=False), batches, lambda out, _: out.mean(), weight=lambda batch: batch.item())
        assert task.evaluate({"weight": torch.ones(1, 1)}) == pytest.approx({"loss": 17 / 5})

    def test_positions_and_ignored_targets(self) -> None:
        logits = torch.tensor([[[9.0, 0.0], [0.0, 9.0], [9.0, 0.0]]])
        task = Task.classification(nn.Identity(), logits, torch.tensor([[0, 0, -100]]))
        assert task.evaluate({})["accuracy"] == 0.5
        assert task.evaluate({})["loss"] == pytest.approx(4.5, abs=1e-3)


class TestBatches:
    @pytest.mark.parametrize(
        ("batch", "expected"), [((2, "target"), 2), ([1, 2, "target"], 3), ((5,), 5), (7, 7), ({"x": 1, "y": 3}, 4)], ids=str
    )
    def test_what_a_module_is_called_with(self, batch: Any, expected: int) -> None:
        class Adds(nn.Module):
            def forward(self, x: int, y: int = 0) -> int:
                return x + y

        assert call(Adds(), batch) == expected

    def test_dicts_and_a_forward_of_ones_own(self) -> None:
        module = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
        batches = [{"inputs": {"x": [torch.ones(3, 2)]}, "labels": torch.zeros(3)}]
        task = Task(
            module,
            batches,
            lambda out, batch: (out[:, 0] - batch["labels"]).mean(),
            forward=lambda net, batch: net.get_submodule("0")(batch["inputs"]["x"][0]),
        )
        own = others(module)
        expected = nn.functional.linear(torch.ones(3, 2), own["0.weight"], own["0.bias"])[:, 0].mean().item()
        assert task.evaluate(own) == pytest.approx({"loss": expected})

    def test_loaders_can_be_iterated_over_again(self, task: Task) -> None:
        loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data()), batch_size=4)
        loaded = Task(task.module, loader, task.loss)
        assert loaded.evaluate(others(task.module)) == loaded.evaluate(others(task.module))
        assert loaded.evaluate(others(task.module))["loss"] == pytest.approx(task.evaluate(others(task.module))["loss"])

    def test_a_generator_is_refused_at_once(self) -> None:
        def once() -> Iterator[Tensor]:
            yield torch.ones(1, 3)

        with pytest.raises(
            TaskError, match=r"batches is a generator, which can be iterated over only once, .*; give a list or a DataLoader"
        ):
            Task(net(), once(), lambda out, _: out.mean())

    def test_no_batches(self) -> None:
        with pytest.raises(TaskError, match=r"the task has no batches"):
            Task(net(), [], lambda out, _: out.mean()).evaluate(net().state_dict())

    def test_a_batch_without_a_size(self) -> None:
        task = Task(nn.Linear(1, 1), [{"n": 1}], lambda *_: torch.tensor(0.0), forward=lambda *_: None)
        with pytest.raises(TaskError, match=r"a batch of type dict holds no tensor with a dimension; give the task `weight`"):
            task.evaluate(task.module.state_dict())

    def test_as_many_inputs_as_targets(self) -> None:
        with pytest.raises(ShapeMismatchError, match=r"2 inputs but 3 targets"):
            Task.classification(net(), torch.ones(2, 3), torch.zeros(3, dtype=torch.long))

    @pytest.mark.parametrize(
        ("value", "found"),
        [(torch.ones(2), r"a tensor of shape \(2,\)"), ("low", "a str"), (None, "a NoneType")],
        ids=["tensor", "str", "none"],
    )
    def test_a_metric_that_is_no_number(self, value: Any, found: str) -> None:
        task = Task(net(), [data()], lambda out, _: out.mean(), {"odd": lambda *_: value})
        with pytest.raises(TaskError, match=f"'odd' returned {found}, expected one number; return the mean over the batch"):
            task.evaluate(net().state_dict())

    def test_no_metric_is_named_loss(self) -> None:
        with pytest.raises(TaskError, match=r"a metric is named 'loss'"):
            Task(net(), [data()], lambda out, _: out.mean(), {"loss": lambda *_: 0.0})

    def test_batch_norms_need_more_than_one_example(self) -> None:
        task = Task.classification(net(), *data(1))
        with pytest.raises(TaskError, match=r"a batch of one example has no statistics"):
            list(task.run(net().state_dict(), batch_statistics=True))
        with pytest.raises(TaskError, match=r"a batch of one example has no statistics"):
            task.loss_of(net().state_dict(), data(1), batch_statistics=True)

    def test_other_errors_of_a_module_pass_as_they_are(self) -> None:
        def broken(module: nn.Module, batch: Any) -> Any:
            raise ValueError("of the user's own")

        with pytest.raises(ValueError, match=r"^of the user's own$"):
            Task(net(), [data()], lambda out, _: out.mean(), forward=broken).evaluate(net().state_dict())


class TestActivations:
    def test_inputs_and_outputs_of_submodules_batch_by_batch(self, task: Task) -> None:
        state_dict = others(task.module)
        taken = list(task.activations(state_dict, ["0", "2"]))
        assert [part["2"].shape for part in taken] == [(4, 4), (4, 4), (2, 4)]
        inputs = torch.cat([part["0"] for part in task.activations(state_dict, ["0"], of="input")])
        assert torch.equal(inputs, data()[0])
        expected = nn.functional.linear(inputs, state_dict["0.weight"], state_dict["0.bias"])
        assert torch.allclose(torch.cat([part["0"] for part in taken]), expected)
        assert not any(tensor.requires_grad for part in taken for tensor in part.values())

    def test_two_iterations_at_once_do_not_meet(self, task: Task) -> None:
        state_dict = others(task.module)
        for one, two in zip(task.activations(state_dict, ["2"]), task.activations(task.module.state_dict(), ["2"]), strict=True):
            assert one["2"].shape == two["2"].shape and not torch.equal(one["2"], two["2"])

    def test_calls_are_joined_and_tuples_and_keywords_seen(self) -> None:
        module, inputs = Branches(), torch.randn(3, 2)
        task = Task(module, [inputs], lambda out, _: out.mean())
        [taken] = task.activations(module.state_dict(), ["twice", "pair"])
        [fed] = task.activations(module.state_dict(), ["pair"], of="input")
        assert torch.allclose(taken["twice"], torch.cat([module.twice(inputs), module.twice(module.twice(inputs))]))
        assert torch.allclose(taken["pair"], 2 * fed["pair"])

    def test_what_is_written_over_in_place_afterwards_is_seen_as_it_was(self) -> None:
        module = nn.Sequential(nn.Identity(), nn.ReLU(inplace=True))
        task = Task(module, [torch.tensor([[-1.0, 2.0]])], lambda out, _: out.mean(), forward=lambda net, batch: net(batch.clone()))
        [taken] = task.activations({}, ["0"])
        assert taken["0"].tolist() == [[-1.0, 2.0]]

    def test_a_hook_may_replace_what_a_submodule_gives(self) -> None:
        module, inputs = Branches(), torch.randn(3, 2)
        task = Task(module, [inputs], lambda out, _: out.mean())
        [(_, outputs)] = task.run(module.state_dict(), {"pair": lambda _, made: torch.zeros_like(made)})
        assert torch.equal(outputs, torch.zeros(3, 2))

    def test_unknown_and_idle_submodules(self) -> None:
        module = Branches()
        task = Task(module, [torch.ones(1, 2)], lambda out, _: out.mean())
        with pytest.raises(UnknownNameError, match=r"no submodule named 'twics'; did you mean 'twice'?"):
            next(task.activations(module.state_dict(), ["twics"]))
        with pytest.raises(TaskError, match=r"submodule 'never' is not called when the module runs; name one that is"):
            next(task.activations(module.state_dict(), ["never"]))

    def test_submodules_without_tensors_cannot_be_watched(self) -> None:
        class Empty(nn.Module):
            def forward(self, x: Tensor) -> str:
                return "nothing"

        module = nn.Sequential(nn.Linear(1, 1), Empty())
        task = Task(module, [torch.ones(1, 1)], lambda *_: torch.tensor(0.0))
        with pytest.raises(TaskError, match=r"a submodule of type Empty takes or gives no tensor"):
            next(task.activations(module.state_dict(), ["1"]))

    def test_outputs_in_which_nothing_can_be_replaced(self) -> None:
        class Mapped(nn.Module):
            def forward(self, x: Tensor) -> dict[str, Tensor]:
                return {"x": x}

        module = nn.Sequential(Mapped())
        task = Task(module, [torch.ones(1, 1)], lambda *_: torch.tensor(0.0))
        with pytest.raises(TaskError, match=r"a submodule of type Mapped returns a dict, in which no tensor can be replaced"):
            next(task.run({}, {"0": lambda _, made: made}))

    def test_outputs_of_each_batch(self, task: Task) -> None:
        assert [outputs.shape for outputs in task.outputs(others(task.module))] == [(4, 2), (4, 2), (2, 2)]


class TestGradients:
    def test_loss_is_differentiable_in_the_state_dict(self, task: Task) -> None:
        state_dict = {name: t.requires_grad_() if t.is_floating_point() else t for name, t in others(task.module).items()}
        watched = state_dict["0.weight"]
        [gradient] = torch.autograd.grad(task.loss_of(state_dict, data()), [watched])
        direction, step = torch.randn(4, 3, generator=torch.Generator().manual_seed(1)), 1e-3
        with torch.no_grad():
            ends = [task.loss_of({**state_dict, "0.weight": watched + sign * step * direction}, data()).item() for sign in (1, -1)]
        assert (gradient * direction).sum().item() == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-2)

    def test_gradients_of_single_examples_as_fisher_needs_them(self, task: Task) -> None:
        own, (inputs, targets) = others(task.module), data()

        def loss(weight: Tensor, x: Tensor, y: Tensor) -> Tensor:
            return task.loss_of({**own, "4.weight": weight}, (x[None], y[None]))

        each = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))(own["4.weight"], inputs, targets)
        whole = torch.func.grad(lambda weight: task.loss_of({**own, "4.weight": weight}, (inputs, targets)))(own["4.weight"])
        assert each.shape == (10, 2, 4)
        assert torch.allclose(each.mean(0), whole, atol=1e-6)

    def test_statistics_of_the_batch_on_demand(self, task: Task) -> None:
        own = others(task.module)
        reference = net().train()
        reference[3].eval()
        reference.load_state_dict(own)
        expected = nn.functional.cross_entropy(reference(data()[0]), data()[1]).item()
        assert task.loss_of(own, data(), batch_statistics=True).item() == pytest.approx(expected)
        assert task.loss_of(own, data()).item() != pytest.approx(expected)


class TestPlaces:
    def test_buffers_outside_the_state_follow_the_module(self) -> None:
        class Offset(nn.Module):
            offset: Tensor

            def __init__(self) -> None:
                super().__init__()
                self.register_buffer("offset", torch.ones(1), persistent=False)

            def forward(self, x: Tensor) -> Tensor:
                return x + self.offset

        module = Offset()
        task = Task(module, [torch.zeros(1, 1)], lambda out, _: out.mean())
        before = task.evaluate({})
        module.double()
        module.offset.fill_(5)  # what moving a module does: buffers are replaced
        assert (before["loss"], task.evaluate({})["loss"]) == (1.0, 5.0)

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    def test_state_dicts_and_batches_follow_the_module_to_its_device(self, task: Task) -> None:
        on_cpu = task.evaluate(others(task.module))
        own = others(task.module)
        task.module.cuda()
        assert task.device.type == "cuda"
        assert task.evaluate(own) == pytest.approx(on_cpu, abs=1e-5)
        assert next(task.activations(own, ["2"]))["2"].is_cuda

    def test_a_module_without_tensors_is_on_the_cpu(self) -> None:
        assert Task(nn.Identity(), [torch.ones(1)], lambda out, _: out.mean()).device.type == "cpu"


def test_logits_are_a_tensor_or_an_attribute() -> None:
    class Output:
        logits = torch.ones(2)

    assert logits_of(Output()) is Output.logits
    with pytest.raises(TaskError, match=r"expected logits, found outputs of type tuple; give the task a `forward` that returns the logits"):
        logits_of((torch.ones(1),))


class Counted(nn.Linear):
    """Counts how often it is called."""

    calls = 0

    def forward(self, inputs: Tensor) -> Tensor:
        Counted.calls += 1
        return super().forward(inputs)


def test_several_networks_are_measured_side_by_side_as_each_alone() -> None:
    task = Task.classification(Counted(3, 2), torch.randn(9, 3), torch.arange(9) % 2, batch_size=4)
    stacked = {"weight": torch.randn(5, 2, 3)}
    bias = {"bias": torch.randn(2)}
    alone = [task.evaluate({"weight": weight, **bias}) for weight in stacked["weight"]]
    Counted.calls = 0
    together = task.evaluate_many(stacked, lambda own: {**own, **bias})
    assert Counted.calls == 3  # once a batch
    assert [one["accuracy"] for one in together] == [one["accuracy"] for one in alone]
    assert [one["loss"] for one in together] == pytest.approx([one["loss"] for one in alone])


def test_networks_that_cannot_run_side_by_side_are_measured_one_after_the_other() -> None:
    def named(module: nn.Module, batch: Any) -> Any:
        return {"made": module(batch[0])}

    def by_value(module: nn.Module, batch: Any) -> Any:
        made = module(batch[0])
        return made if made.sum() > 0 else 2 * made

    stacked = {"weight": torch.randn(3, 1, 2), "bias": torch.zeros(3, 1)}

    def loss(made: Any, batch: Any) -> Tensor:
        found: Tensor = made["made"] if isinstance(made, dict) else made
        return found.square().mean()

    for forward in (named, by_value):
        task = Task(nn.Linear(2, 1), [(torch.randn(4, 2), torch.zeros(4, 1))], loss, forward=forward)
        alone = [task.evaluate({name: tensor[at] for name, tensor in stacked.items()}) for at in range(3)]
        assert task.evaluate_many(stacked) == alone


def test_what_does_not_fit_is_said_of_several_networks_too() -> None:
    task = Task.classification(nn.Linear(3, 2), torch.randn(4, 3), torch.arange(4) % 2)
    with pytest.raises(TaskError, match="'bias' missing"):
        task.evaluate_many({"weight": torch.randn(2, 2, 3)})


def test_a_checkpoint_runs_through_the_module_of_a_task_or_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    task = Task.classification(module, torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 2)
    fitting = Checkpoint.of(module.state_dict())
    own = {
        "smooth": nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)),
        "wide": nn.Sequential(nn.Linear(4, 5)),
        "long": nn.Linear(9, 2),
    }
    wide = Checkpoint.of(own["wide"].state_dict())
    assert task_through(task, fitting) is task and task_through(task, fitting, is_own=True) is task, "no other module is known"
    with pytest.raises(ShapeMismatchError, match=r"in module Sequential; give a module of the same architecture"):
        task_through(task, Checkpoint.of({name: torch.zeros(2, 2) for name in module.state_dict()}))
    with pytest.raises(TaskError, match="does not fit module Sequential"):
        task_through(task, wide)

    def known(name: str) -> None:
        monkeypatch.setattr("weightspace.task.module_for", lambda checkpoint, load: own[name])

    known("smooth")
    assert task_through(task, fitting) is task
    through = task_through(task, fitting, is_own=True)
    assert through.module is own["smooth"] and through.batches is task.batches, "equal shapes, but another activation"
    monkeypatch.setattr("weightspace.task.module_for", lambda checkpoint, load: nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))
    assert task_through(task, fitting, is_own=True) is task, "the same module once more"
    known("wide")
    assert task_through(task, wide).module is own["wide"]
    known("long")
    with pytest.raises(
        TaskError, match=r"Linear, the model's own module, does not run on the batches of the task \(.*\); compare models of one data set"
    ):
        task_through(task, Checkpoint.of(own["long"].state_dict()))
