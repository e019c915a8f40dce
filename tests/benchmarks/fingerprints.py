"""Fingerprints told apart: fine-tunes and orbits against independent networks, with the plain cosine of weights beside; and planted triggers by their strength.

Run it with `python -m tests.benchmarks.fingerprints`; real checkpoints are left out where there are none.
"""

import argparse
import itertools
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

import weightspace as ws
from tests.analysis.fingerprints.test_fingerprint import LSTM
from tests.analysis.screening.test_screen import table
from weightspace.analysis.fingerprints import fingerprint, similarity
from weightspace.analysis.screening import cross_validate
from weightspace.experiments.data import real_checkpoints
from weightspace.inference import infer_spec
from weightspace.spec import SymmetrySpec
from weightspace.symmetry import act
from weightspace.zoo.populations.digits import build_cnn, build_mlp, digits_cnn, digits_mlp, load_digits

Weights = dict[str, Tensor]
Pairs = Sequence[tuple[Weights, Weights]]

POPULATIONS: Mapping[str, tuple[Callable[..., object], Callable[..., nn.Module], Mapping[str, object]]] = {
    "digits, one hidden layer of 64": (digits_mlp, build_mlp, {"widths": (64,), "depths": (1,)}),
    "digits, two hidden layers of 32": (digits_mlp, build_mlp, {"widths": (32,), "depths": (2,)}),
    "digits, two convolutions": (digits_cnn, build_cnn, {"widths": (8,)}),
}


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=6, help="networks of each population")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    print("| networks | pairs | fingerprint, least | mean | most | plain cosine, mean |\n|---|---|---|---|---|---|")
    for name in POPULATIONS:
        for what, pairs in population(name, arguments.seeds).items():
            say(f"{name}: {what}", pairs)
    if real_checkpoints().is_dir():
        real()
    print("\n| strength of the trigger | AUC out of sample | p of 99 permutations |\n|---|---|---|")
    for strength in (0.0, 0.1, 0.2, 0.3, 0.5, 1.0):
        found = cross_validate(*table(strength, 120), permutations=99)
        print(f"| {strength:g} | {found.auc:.3f} | {found.p_value:.2f} |")
    print(f"\n{time.perf_counter() - started:.0f} s")


def say(name: str, pairs: Pairs, spec: SymmetrySpec | None = None) -> None:
    """Print the row of some pairs."""
    found = [similarity(fingerprint(one, spec), fingerprint(other, spec)) for one, other in pairs]
    plain = [similarity(flat(one), flat(other)) for one, other in pairs]
    print(
        f"| {name} | {len(found)} | {min(found):.3f} | {sum(found) / len(found):.3f} | {max(found):.3f} | {sum(plain) / len(plain):.3f} |"
    )


def flat(weights: Weights) -> Tensor:
    """All float tensors in a row."""
    return torch.cat([weights[name].double().flatten() for name in sorted(weights) if weights[name].is_floating_point()])


def population(name: str, seeds: int) -> dict[str, Pairs]:
    """Pairs of networks of one population."""
    train, build, shape = POPULATIONS[name]
    made = list(train(learning_rates=(0.1,), repeats=seeds, steps=(0, 300), **shape))  # type: ignore[call-overload]
    starts, ends = ([one for one in made if one.step == step] for step in (0, 300))
    networks: list[Weights] = [one.tensors for one in ends]
    generator = torch.Generator().manual_seed(0)
    spec = infer_spec(networks[0], "relu")
    return {
        "moved by a symmetry": [(one, act(spec.random(generator), one)) for one in networks],
        "fine-tuned, same task": [(one.tensors, tuned(build(one.recipe), one.tensors, 0)) for one in ends],
        "fine-tuned, classes renamed": [(one.tensors, tuned(build(one.recipe), one.tensors, 3)) for one in ends],
        "its own initialisation": [(one, start.tensors) for one, start in zip(networks, starts, strict=True)],
        "other seeds": list(itertools.combinations(networks, 2)),
        "other seeds, untrained": list(itertools.combinations([one.tensors for one in starts], 2)),
    }


def tuned(module: nn.Module, weights: Weights, shift: int) -> Weights:
    """A hundred steps at a fifth of the learning rate, to classes that are shifted."""
    images = load_digits()
    module.load_state_dict(weights)
    optimizer, generator = torch.optim.SGD(module.parameters(), lr=0.02, momentum=0.9), torch.Generator().manual_seed(1)
    for _ in range(100):
        batch = torch.randint(len(images.train), (64,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(images.train[batch]), (images.train_classes[batch] + shift) % 10).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def real() -> None:
    """Print the rows of the real checkpoints."""
    folder = real_checkpoints()
    read = {kind: [ws.open(file).state_dict() for file in sorted((folder / kind).glob(glob))] for kind, glob in _FILES.items()}
    orbit, base = read["inr_orbit"], ws.open(folder / "outlier-exposure" / "baseline_epoch_9.pt").state_dict()
    say("one implicit network in 256 forms", [(orbit[0], other) for other in orbit[1:]])
    for name in ("oe_tune_epoch_4", "oe_scratch_epoch_9"):
        say(f"outlier exposure: baseline and {name}", [(base, ws.open(folder / "outlier-exposure" / f"{name}.pt").state_dict())])
    spec = SymmetrySpec.parse(LSTM, sizes={"e": 100, "a": 128, "b": 128})
    texts = [{name.replace("_3/", "/"): tensor for name, tensor in one.items()} for one in read["textgenrnn"]]
    say("textgenrnn: base and fine-tunes", [(texts[0], other) for other in texts[1:]], spec)
    say("textgenrnn: two fine-tunes of one base", [(texts[1], texts[2])], spec)
    say("Tiny10: twelve seeds", list(itertools.combinations(read["drfrankenstein"], 2)))
    say("ACAS Xu: other tasks", list(itertools.combinations(read["acasxu"][:12], 2)))


_FILES = {"inr_orbit": "*.pth", "textgenrnn": "*.hdf5", "drfrankenstein": "tiny10_*.pt", "acasxu": "*.onnx"}


if __name__ == "__main__":
    main()
