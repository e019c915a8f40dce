"""What kind of thing a pushed model is, as its card tells it: a network, a trained metanet, a generator of weights, a signature."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from weightspace.errors import one_line
from weightspace.provenance import told

MOST = 12  # settings that a card shows


@dataclass(frozen=True)
class Kind:
    """What a card says of a model because of its kind; plain text, which the card makes safe.

    Attributes:
        tag: for the Hub's search.
        what: sentences that say what it is.
        learned: sentences that say what it was made from, besides its parents.
        settings: by name.
        use: commands; `{repo}` stands for its address.
        limits: sentences.
    """

    tag: str | None = None
    what: Sequence[str] = ()
    learned: Sequence[str] = ()
    settings: Mapping[str, Any] | None = None
    use: Sequence[str] = ()
    limits: Sequence[str] = ()


def kind_of(said: Mapping[str, str], model: str) -> Kind:
    """Find out what a model is, by what its file says.

    Args:
        said: the file's metadata.
        model: what the catalog calls its kind.
    """
    recipe, _ = told(said)
    recipe = recipe or {}
    if "metanet" in said:
        return _metanet(said, recipe)
    if recipe.get("kind") == "generator":
        return _generator(recipe)
    if recipe.get("kind") == "signature":
        return _signature(recipe)
    if model == "adapter":
        return Kind("adapter", ["Low-rank updates of another model: it does nothing without its base."])
    return Kind()


def labels_of(said: Mapping[str, Any]) -> dict[str, str]:
    """The tags that a metanet or a generator has in the catalog, by which it is told from the networks that these read and make.

    Args:
        said: the file's metadata.
    """
    recipe, _ = told(said)
    if isinstance(said.get("metanet"), str):
        return {"metanet": one_line(str(_object(said["metanet"]).get("name", "unknown")), 120)}
    if (recipe or {}).get("kind") == "generator":
        return {"generator": one_line(str((recipe or {}).get("generator", "unknown")), 120)}
    return {}


def _metanet(said: Mapping[str, str], recipe: Mapping[str, Any]) -> Kind:
    net, head = _object(said.get("metanet")), _object(said.get("predictor"))
    family = str(net.get("name", "unknown"))
    target = said.get("target")
    what = [f"A metanet: a network that reads the weights of networks. Its family is {family}."]
    if head:
        what.append(f"Its head ({head.get('head')}) tells {target or 'a property'} of a network from its weights.")
    classes = _list(said.get("classes"))
    if classes:
        what.append(f"It tells {len(classes)} classes: {', '.join(map(str, classes[:20]))}.")
    sizes = recipe.get("networks")
    learned = []
    if isinstance(sizes, dict):
        counts = ", ".join(f"{sizes[name]} {name}" for name in ("train", "val", "test") if name in sizes)
        learned.append(f"Trained on networks that fit {recipe.get('where')}: {counts}, no run in two of these.")
    specs = net.get("specs")
    count = len(specs) if isinstance(specs, list) else 0
    use = ["weightspace embed --metanet {repo}", *(["weightspace predict MODEL --metanet {repo}"] if head else [])]
    limits = ["It was measured on networks held out of the same query; of other populations, data or trainings nothing is known."]
    if count:
        limits.insert(0, f"It reads {'the one architecture' if count == 1 else f'the {count} architectures'} that it was trained on.")
    if head and head.get("head") == "regression":
        limits.append("Its intervals hold for networks like those it was calibrated on.")
    settings = {
        **_object_of(net.get("settings")),
        **{key: recipe[key] for key in ("epochs", "learning_rate", "batch_size", "seed") if key in recipe},
    }
    return Kind("metanet", what, learned, settings, use, limits)


def _generator(recipe: Mapping[str, Any]) -> Kind:
    name = str(recipe.get("generator", "unknown"))
    what = [f"A generator of weights: it makes networks. Its kind is {name}."]
    conditions = _plain_list(recipe.get("conditions"))
    if conditions:
        what.append(f"What it makes is asked for by {', '.join(conditions)}.")
    taught = recipe.get("taught_by")
    learned = [f"Fitted on {len(taught)} networks."] if isinstance(taught, list) and taught else []
    like = _object_of(recipe.get("like"))
    if like.get("family") or like.get("population"):
        learned.append(f"They are of the population {like.get('family') or like.get('population')}.")
    target = _object_of(recipe.get("target"))
    shapes = target.get("shapes")
    limits = ["What it makes was judged, where at all, on the data of the networks that it learned from."]
    if isinstance(shapes, list):
        limits.insert(0, f"It makes networks of {len(shapes)} tensors with the names and shapes that it learned from.")
    use = ["weightspace hub pull {name}", "weightspace generate {name} --count 4"]
    return Kind("weight-generator", what, learned, _object_of(recipe.get("settings")), use, limits)


def _signature(recipe: Mapping[str, Any]) -> Kind:
    rows = recipe.get("tensors")
    count = len(rows) if isinstance(rows, list) else 0
    kept = f"codes of {recipe['bits']} bits ({recipe.get('quantiser')})" if recipe.get("bits") else "floats"
    what = [
        "A robust weight signature: what training on corrupted data adds to a model, to be put into others (arXiv:2302.12480).",
        f"It changes {count} tensors, and is stored as {kept}.",
    ]
    settings = {
        key: value for key, value in recipe.items() if key in ("layers", "batch_norms", "bits", "quantiser", "model_bytes", "composed")
    }
    use = ["weightspace signature show {repo}", "weightspace signature apply MODEL {repo} -o patched.safetensors"]
    limits = ["It fits models that have these tensors in these shapes, and their neurons in the order of the models it was extracted from."]
    return Kind("weight-signature", what, [], settings, use, limits)


def _object(text: str | None) -> dict[str, Any]:
    try:
        return _object_of(json.loads(text)) if text else {}
    except (ValueError, RecursionError):
        return {}


def _object_of(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(text: str | None) -> list[Any]:
    try:
        found = json.loads(text) if text else []
    except (ValueError, RecursionError):
        return []
    return found if isinstance(found, list) else []


def _plain_list(value: Any) -> list[str]:
    return [one_line(str(one), 120) for one in value] if isinstance(value, list) else []


__all__ = ["MOST", "Kind", "kind_of", "labels_of"]
