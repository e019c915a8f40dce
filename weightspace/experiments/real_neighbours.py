"""Real checkpoints read by metanets that know any architecture: neighbours by family, ACAS Xu's label, one network in 256 forms.

    python -m weightspace.experiments.real_neighbours --folder REAL_CHECKPOINTS

Neighbours: how often a network's nearest by cosine is of its own family, and of the ResNets, how often the nearest among networks of
other architectures is a ResNet. ACAS Xu: the previous advisory, told by leaving one out, with the p value of permuted labels. Forms:
how far apart the vectors of one network are whose hidden neurons are permuted and flipped.

Metanets are read as they are initialised, over several draws, and after they learned to tell the accuracy of small perceptrons of many
shapes, so that no real checkpoint was seen.
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import weightspace as ws
from weightspace.cli.left_out import LeftOut
from weightspace.cli.networks import networks_of, weights_of
from weightspace.errors import WeightSpaceError
from weightspace.experiments.tables import Estimate, Row, report
from weightspace.metanets import Examples, MetaNet, Predictor, Schedule, WeightBatch, build, embed, metanets, train
from weightspace.metanets.examples import group_split
from weightspace.metanets.families.statistics import statistics
from weightspace.spec import SymmetrySpec
from weightspace.zoo.populations.filling import fill
from weightspace.zoo.zoo import Zoo

READERS = ("gmn", "neural_graph", "scalegmn", "deepsets", "names")
DRAWS = 3
FORMS = 8  # of the one network in `inr_orbit`, among the neighbours
PERMUTATIONS = 999
RESNET = "ResNet"
SIREN = SymmetrySpec.parse(
    {
        "seq.0.weight": "h0 in",
        "seq.0.bias": "h0",
        "seq.1.weight": "h1 h0'",
        "seq.1.bias": "h1",
        "seq.2.weight": "out h1'",
        "seq.2.bias": "out",
    },
    groups={
        "h0": {"size": 32, "symmetry": "sign"},
        "h1": {"size": 32, "symmetry": "sign"},
        "in": {"size": 2, "kind": "fixed"},
        "out": {"size": 1, "kind": "fixed"},
    },
)


@dataclass(frozen=True)
class Real:
    """A real network."""

    file: str
    family: str
    state: Mapping[str, Tensor]
    spec: SymmetrySpec


class Siren(nn.Module):
    """What the networks of `inr_orbit` are."""

    def __init__(self) -> None:
        super().__init__()
        self.seq = nn.ModuleList([nn.Linear(2, 32), nn.Linear(32, 32), nn.Linear(32, 1)])

    def forward(self, x: Tensor) -> Tensor:
        """Run it; the last layer has no sine."""
        made: Tensor = self.seq[2](torch.sin(30 * self.seq[1](torch.sin(30 * self.seq[0](x)))))
        return made


def read(folder: Path) -> list[Real]:
    """All networks whose spec can be told, of `inr_orbit` a few; what cannot be is counted."""
    found, left_out = [], Counter[str]()
    for path in sorted(folder.glob("*/*")):
        if path.suffix in ("", ".md", ".csv", ".gz") or (path.parent.name == "inr_orbit" and int(path.stem[-3:]) >= FORMS):
            continue
        family = RESNET if path.stem.startswith("resnet") else "Tiny10" if path.stem.startswith("tiny10") else path.parent.name
        try:
            checkpoint = ws.open(path)
            spec = SIREN if family == "inr_orbit" else ws.spec_for(checkpoint)
            state = {name: tensor for name, tensor in checkpoint.state_dict().items() if tensor.is_floating_point()}
            found.append(Real(path.name, family, state, spec))
        except WeightSpaceError:
            left_out[family] += 1
    print("read: ", dict(Counter(one.family for one in found)), "; no spec or no weights: ", dict(left_out), sep="", flush=True)
    return found


def pupils() -> tuple[Examples, Examples]:
    """Small perceptrons of many shapes with their accuracy, to learn from and to judge by."""
    with tempfile.TemporaryDirectory() as folder:
        zoo = Zoo(Path(folder))
        fill(zoo, "mlps", count=150, data="digits", widths=(8, 16), depths=(1, 2, 3), steps=(100,), jobs=1)
        networks = networks_of(zoo, "test_accuracy is not null", LeftOut(), asked={"target": "test_accuracy"})
        everything = Examples(weights_of(networks), torch.tensor([one.row["target"] for one in networks]))
    split = torch.tensor(group_split([one.group for one in networks], (0.8, 0.2)))
    return everything.take((split == 0).nonzero()[:, 0]), everything.take((split == 1).nonzero()[:, 0])


def vectors(net: MetaNet, networks: Sequence[Real]) -> np.ndarray:
    """Vectors of unit length, one network at a time: some are large."""
    made = embed(net, [one.state for one in networks], [one.spec for one in networks], batch_size=1).double().numpy()
    return np.asarray(made / np.linalg.norm(made, axis=1, keepdims=True))


def own_family(found: np.ndarray, networks: Sequence[Real]) -> float:
    """How often the nearest neighbour is of the same family; families of one network are only neighbours."""
    cosine = found @ found.T
    np.fill_diagonal(cosine, -np.inf)
    counts = Counter(one.family for one in networks)
    nearest = cosine.argmax(1)
    return float(np.mean([networks[j].family == one.family for one, j in zip(networks, nearest, strict=True) if counts[one.family] > 1]))


def other_depths(found: np.ndarray, networks: Sequence[Real]) -> float:
    """How often the nearest network of another architecture is a ResNet, of the ResNets."""
    cosine, hits = found @ found.T, []
    for at, one in enumerate(networks):
        if one.family == RESNET:
            others = [j for j, other in enumerate(networks) if other.spec != one.spec]
            hits.append(networks[max(others, key=lambda j: cosine[at, j])].family == RESNET)
    return float(np.mean(hits))


def told(features: np.ndarray, labels: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Accuracy of ridge regression on standardised features, leaving one out, and the p value of permuted labels."""
    scaled = (features - features.mean(0)) / np.maximum(features.std(0), 1e-9)
    gram = scaled @ scaled.T / scaled.shape[1]
    centre = np.eye(len(gram)) - 1 / len(gram)
    hat = centre @ gram @ centre @ np.linalg.inv(centre @ gram @ centre + 0.1 * np.eye(len(gram))) + 1 / len(gram)

    def accuracy(given: np.ndarray) -> float:
        wanted = np.eye(int(given.max()) + 1)[given]
        residual = (wanted - hat @ wanted) / (1 - np.diag(hat))[:, None]  # of each, had it been left out
        return float(np.mean((wanted - residual).argmax(1) == given))

    draw, reached = np.random.default_rng(seed), accuracy(labels)
    at_least = sum(accuracy(draw.permutation(labels)) >= reached for _ in range(PERMUTATIONS))
    return reached, (1 + at_least) / (1 + PERMUTATIONS)


def acas_rows(networks: Sequence[Real], made: Mapping[str, np.ndarray]) -> list[Row]:
    """How well the previous advisory is told, by each kind of feature."""
    at = [k for k, one in enumerate(networks) if one.family == "acasxu"]
    labels = np.array([int(networks[k].file.split("_")[2]) - 1 for k in at])
    batch = WeightBatch.stack([networks[k].state for k in at], networks[at[0]].spec)
    features = {"statistics of tensors": statistics(batch).numpy(), "raw weights": batch.flat().numpy()} | {
        name: found[at] for name, found in made.items()
    }
    rows: list[Row] = []
    for name, found in features.items():
        reached, p = told(found.astype(float), labels)
        rows.append({"features": name, "accuracy": reached, "p": p})
    return rows


def orbit_rows(folder: Path) -> list[Row]:
    """How far apart the vectors of all forms of one network are, family by family."""
    files = sorted((folder / "inr_orbit").glob("orbit_*.pth"))
    batch = WeightBatch.stack([ws.open(file).state_dict() for file in files], SIREN, module=Siren().eval())
    rows: list[Row] = []
    for name, family in sorted(metanets.items()):
        torch.manual_seed(0)
        try:
            net = build(name, SIREN).eval()
        except WeightSpaceError:  # it reads adapters
            continue
        with torch.no_grad():
            found = net(batch).double()
        apart = float((found - found[0]).norm(dim=1).max() / found[0].norm())
        honours = family.reads != "weights" or "sign" in family.honours
        rows.append(
            {
                "family": name,
                "honours signs": "yes" if honours else "no",
                "largest distance": f"{apart:.1e}",
                "one vector to 1e-4": "yes" if apart < 1e-4 else "no",
            }
        )
    return rows


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="of the real checkpoints")
    parser.add_argument("--out", type=Path, help="folder for the tables")
    options = parser.parse_args()
    networks, (learn, judge) = read(options.folder), pupils()
    one = next(real.spec for real in networks if real.family == "Tiny10")  # what metanets of any architecture are built for
    rows: list[Row] = []
    kept: dict[str, np.ndarray] = {}
    for name in READERS:
        for trained in (False, True):
            near, far, tau = [], [], float("nan")
            for seed in range(1 if trained else DRAWS):
                torch.manual_seed(seed)
                net = build(name, one)
                if trained:
                    done = train(Predictor(net), learn, judge, Schedule(epochs=20, learning_rate=3e-3))
                    net, tau = done.predictor.net, done.predictor.judge(judge)["tau"]
                found = vectors(net, networks)
                near.append(own_family(found, networks))
                far.append(other_depths(found, networks))
                if name != "names" and seed == 0:
                    kept[f"{name}, {'trained' if trained else 'as initialised'}"] = found
            label = f"trained on perceptrons (tau {tau:.2f})" if trained else f"as initialised, {DRAWS} draws"
            rows.append({"family": name, "parameters": label, "own family": Estimate.of(near), "ResNets of other depths": Estimate.of(far)})
    sizes = Counter(real.family for real in networks)
    chance = sum(n * (n - 1) for n in sizes.values()) / (sum(sizes.values()) - 1) / sum(n for n in sizes.values() if n > 1)
    rows.append({"family": "chance", "parameters": "", "own family": chance, "ResNets of other depths": ""})
    report(rows, "nearest neighbours", options.out)
    report(acas_rows(networks, kept), "ACAS Xu, previous advisory", options.out)
    report(orbit_rows(options.folder), "one network in 256 forms", options.out)


if __name__ == "__main__":
    main()
