"""A metanet trained on a catalog query: networks split by run, trained on, judged beside a guess."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weightspace.cli.left_out import LeftOut
from weightspace.cli.networks import Network, numbers_in, sound_weights, specs_for
from weightspace.errors import MetanetError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from weightspace.metanets import Examples, Predictor, Schedule
    from weightspace.metanets.training import State, Trained

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Request:
    """What is to be trained.

    Attributes:
        family: of the metanet.
        settings: of the family.
        head: regression, ranking or classification.
        target: the column of the rows that is to be told; classes may be words.
        beside: columns that the head sees beside the weights.
        schedule: of the training.
        seed: of the first parameters and of the split.
    """

    family: str
    settings: Mapping[str, Any]
    head: str
    target: str
    beside: Sequence[str]
    schedule: "Schedule"
    seed: int


@dataclass(frozen=True)
class Learned:
    """What training made, and how good it is on networks held out.

    Attributes:
        predictor: the metanet with its head.
        classes: their names, where the head tells classes.
        rows: how the predictor, then a guess, do on the networks held out.
        sizes: networks of each split.
        taught_by: ids of the networks that it was trained on.
        true: targets of the networks held out.
        predicted: what the predictor says of them.
        trained: how training went.
    """

    predictor: "Predictor"
    classes: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]
    sizes: Mapping[str, int]
    taught_by: tuple[str, ...]
    true: list[float]
    predicted: list[float]
    trained: "Trained"

    def plot(self, label: str) -> "Figure":
        """Draw predictions against the truth on the networks held out; of classes and rankings, how training went."""
        from weightspace.metanets.plotting import predicted_against_true

        if self.predictor.head_recipe["head"] in ("classification", "ranking"):
            return self.trained.plot()
        return predicted_against_true(self.true, self.predicted, half=self.predictor.interval(0.9), level=0.9, label=label)


def learn(networks: Sequence[Network], request: Request, state: Path, left_out: LeftOut) -> Learned:
    """Train a predictor.

    Args:
        networks: of a query.
        request: what is to be trained.
        state: the file to keep the state of training in, and to go on from where it exists.
        left_out: is told of networks that cannot be read, or have weights that are not finite.

    Raises:
        MetanetError: a split has no networks, the family does not read them, or the state is of another training.
    """
    import torch

    from weightspace.metanets import Examples, Predictor, build, train

    networks, weights = sound_weights(networks, left_out)
    if weights is None:
        left_out.report("examples", is_all=True)
        raise MetanetError("the query finds no networks that a metanet can read; widen --where, or give the architectures a spec")
    classes, targets = _targets(networks, request)
    covariates = torch.tensor([numbers_in(networks, name) for name in request.beside]).T if request.beside else None
    everything = Examples(weights, torch.tensor(targets), covariates)
    splits = _split(networks, request.seed, left_out)
    left_out.report("examples", is_all=False)
    parts = [everything.take(torch.tensor(at)) for at in splits.values()]
    torch.manual_seed(request.seed)
    net = build(request.family, specs_for(networks, request.family), **request.settings)
    settings = {"classes": len(classes)} if classes else {}
    predictor = Predictor(net, request.head, covariates=len(request.beside), **settings)
    asked = _digest(networks, request, targets, covariates)
    done = train(
        predictor,
        parts[0],
        parts[1],
        request.schedule,
        keep=lambda found: _keep({"asked": asked, "training": found}, state),
        state=_kept(state, asked),
    )
    rows = ({"predictor": request.family, **done.predictor.judge(parts[2])}, {"predictor": "a guess", **_guess(done.predictor, parts)})
    taught_by = tuple(str(networks[at].row["id"]) for at in splits["train"])
    sizes = {name: len(at) for name, at in splits.items()}
    predicted = done.predictor.predict(parts[2].networks, parts[2].covariates).tolist()
    return Learned(done.predictor, classes, rows, sizes, taught_by, parts[2].targets.tolist(), predicted, done)


def _digest(networks: Sequence[Network], request: Request, targets: Sequence[float], covariates: "Tensor | None") -> str:
    """Tells whether a training is the same: what is trained, how, and on what."""
    names = [str(one.row["name"]) for one in networks]
    said = [asdict(request), names, list(targets), [] if covariates is None else covariates.tolist()]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _targets(networks: Sequence[Network], request: Request) -> tuple[tuple[str, ...], list[float]]:
    """What is to be told, as numbers; of classes the number of each, in the order of their names."""
    if request.head != "classification":
        return (), numbers_in(networks, request.target)
    names = tuple(sorted({str(one.row[request.target]) for one in networks}, key=lambda name: (len(name), name)))
    return names, [float(names.index(str(one.row[request.target]))) for one in networks]


def _split(networks: Sequence[Network], seed: int, left_out: LeftOut) -> dict[str, list[int]]:
    """Networks of each split: the population's own, in which failed networks have none, else by run or datum."""
    from weightspace.metanets.examples import group_split

    own = [one.row["split"] for one in networks]
    if set(own) - {None} == set(SPLITS):
        for one in networks:
            if one.row["split"] is None:
                left_out(one.row["name"], MetanetError("is in no split of its population"))
        found = {name: [at for at, split in enumerate(own) if split == name] for name in SPLITS}
    else:
        drawn = group_split([one.group for one in networks], seed=seed)
        found = {name: [at for at, split in enumerate(drawn) if split == k] for k, name in enumerate(SPLITS)}
    for name, at in found.items():
        if not at:
            groups = len({one.group for one in networks})
            raise MetanetError(
                f"{len(networks)} networks of {groups} runs leave none for split '{name}'; widen --where to at least 10 runs"
            )
    return found


def _guess(predictor: "Predictor", parts: "Sequence[Examples]") -> dict[str, float]:
    """How the mean of the targets, or the most frequent class, does."""
    import torch

    train, test = parts[0].targets, parts[2].targets
    is_class = predictor.head_recipe["head"] == "classification"
    guess = Counter(train.tolist()).most_common(1)[0][0] if is_class else float(train.mean())
    return predictor.head.judge(torch.full_like(test, guess), test)


def _kept(path: Path, asked: str) -> "State | None":
    """The state to go on from, if there is one.

    Raises:
        MetanetError: it cannot be read, or is of another training.
    """
    import torch

    if not path.exists():
        return None
    try:
        found = torch.load(path, weights_only=True)
        is_same = found["asked"] == asked
    except Exception as error:  # whatever damage makes of an archive
        raise MetanetError(
            f"{path}: cannot be read as the state of a training ({type(error).__name__}); remove it to begin anew"
        ) from error
    if not is_same:
        raise MetanetError(
            f"{path}: is the state of another training, which was interrupted; remove it to begin anew, or write elsewhere by -o"
        )
    kept: State = found["training"]
    return kept


def _keep(state: dict[str, Any], path: Path) -> None:
    import torch

    fresh = path.with_suffix(".new")
    torch.save(state, fresh)
    fresh.replace(path)


__all__ = ["SPLITS", "Learned", "Request", "learn"]
