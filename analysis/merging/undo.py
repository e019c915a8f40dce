"""Undoing a merge: models that went into it come back bit for bit, and it can be made again as if one had never been there.

Taking a scaled task vector off a merge again (task arithmetic's own undo, Ilharco et al., arXiv:2212.04089, section 3) gives the
base up to rounding only, and holds for that method alone. What is kept here are differences of the stored words between each
parent and the result (`weightspace.differences`): exact, small where the models are near each other, and the same for every
method, with alignment, repair and rounding in between. A task vector is `parent - base` of two models that came back.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from weightspace.analysis.merging.recipe import Recipe
from weightspace.checkpoint import Checkpoint
from weightspace.differences import apply_difference, write_difference
from weightspace.errors import FormatError, MergeError, UnknownNameError, guarded, one_line
from weightspace.formats.safetensors import parse_json
from weightspace.storage import inside

INDEX = "kept.json"
UNDO = "undo"
VERSION = 1
Merge = Callable[[Recipe, Mapping[str, Checkpoint]], Checkpoint]


@dataclass(frozen=True)
class Kept:
    """What a merge kept of its parents.

    Attributes:
        merged: id of the result.
        recipe: of the merge.
        files: the difference of each kept parent from the result, by the name that the recipe has for it.
    """

    merged: str
    recipe: Recipe
    files: Mapping[str, Path]


def undo_folder(merged: Checkpoint) -> Path:
    """Where the differences lie that a merge kept: in its folder, or beside its file.

    Raises:
        MergeError: it kept nothing.
    """
    path = merged.path
    found = None if path is None else path / UNDO if path.is_dir() else path.with_name(f"{path.stem}.{UNDO}")
    if found is None or not found.is_dir():
        raise MergeError(
            f"'{one_line(str(path), 120)}' kept none of its parents; say keep: base or keep: all in the recipe and merge again"
        )
    return found


def keep_parents(merged: Checkpoint, recipe: Recipe, inputs: Mapping[str, Checkpoint], folder: str | Path) -> tuple[Path, ...]:
    """Write, for each parent that the recipe keeps, its difference from the result.

    Args:
        merged: the result as it was written.
        recipe: whose `keep` says which parents.
        inputs: the models as they went in (adapters applied, nothing aligned), by `str(source)`.
        folder: where the differences go, and an index of them, which is written last; made where there is none.

    Returns:
        The differences written.

    Raises:
        MergeError: the recipe keeps a base that it does not name.
        FormatError: a file that cannot be written.
    """
    if recipe.keep == "none":
        return ()
    if recipe.keep == "base" and recipe.base_model is None:
        raise MergeError("the recipe says keep: base and names no base_model; name one, or say keep: all")
    sources = (recipe.base_model,) if recipe.keep == "base" else recipe.sources
    place, parents = Path(folder), [str(one) for one in sources]
    try:
        place.mkdir(parents=True, exist_ok=True)
        (place / INDEX).unlink(missing_ok=True)  # an index vouches for the files beside it
        written = [write_difference(inputs[name], merged, place / f"{at}.difference") for at, name in enumerate(parents)]
        files = {name: path.name for name, path in zip(parents, written, strict=True)}
        index = {"version": VERSION, "merged": merged.id, "recipe": recipe.to_dict(), "files": files}
        unfinished = place / f".{INDEX}.tmp"
        unfinished.write_text(json.dumps(index, indent=1) + "\n", "utf-8")
        unfinished.replace(place / INDEX)
    except OSError as error:
        advice = "check the folder, its permissions and the free space"
        raise FormatError(f"{place}: cannot be written ({error.strerror})", reason="unreadable", advice=advice) from None
    return tuple(written)


def kept(folder: str | Path) -> Kept:
    """Look up what a merge kept.

    Raises:
        MergeError: nothing.
        FormatError: the index is damaged.
    """
    index = Path(folder) / INDEX
    if not index.is_file():
        raise MergeError(f"{folder}: the merge kept none of its parents; write keep: base or keep: all into its recipe and merge again")
    return guarded(_kept, index)


def _kept(index: Path) -> Kept:
    found = parse_json(index.read_bytes(), index)
    if found.get("version") != VERSION:
        said = one_line(str(found.get("version", "none")), 40)
        raise FormatError(f"{index}: expected version {VERSION}, found {said}", reason="unsupported", advice="update weightspace")
    files = {name: inside(index.parent, file, index) for name, file in found["files"].items()}
    return Kept(str(found["merged"]), Recipe.read(found["recipe"]), files)


def unmerge(merged: Checkpoint, folder: str | Path, parent: str) -> Checkpoint:
    """Get a parent back from the result of a merge, exactly; its tensors are restored when they are read.

    Args:
        merged: the result, unchanged.
        folder: what `keep_parents` wrote.
        parent: as the recipe names it, adapters included (`model+adapter`).

    Raises:
        MergeError: the parent was not kept.
        UnknownNameError: the merge has no such parent.
        FormatError: another result, or damaged files.
    """
    return _restored(merged, kept(folder), parent)


def _restored(merged: Checkpoint, found: Kept, parent: str) -> Checkpoint:
    if parent not in found.files:
        _expect_named(found.recipe, parent)
        names = ", ".join(f"'{one_line(one, 80)}'" for one in found.files)
        raise MergeError(f"the merge kept {names} and not '{one_line(parent, 80)}'; write keep: all into its recipe and merge again")
    return apply_difference(merged, found.files[parent])


def _expect_named(recipe: Recipe, name: str) -> None:
    named = [str(one) for one in recipe.sources]
    if name not in named:
        raise UnknownNameError.of("parent of the merge", name, named)


def merge_without(merged: Checkpoint, folder: str | Path, parent: str, merge_checkpoints: Merge) -> Checkpoint:
    """Make the merge as it would have been without one of its models: the others come back, and the recipe is run again.

    Args:
        merged: the result, unchanged.
        folder: what `keep_parents` wrote, of a recipe that says `keep: all`.
        parent: which model to leave out, as the recipe names it.
        merge_checkpoints: runs a recipe on models by `str(source)`.

    Raises:
        MergeError: a model that is needed was not kept, or the recipe means nothing without the one left out.
        UnknownNameError: the merge has no such parent.
        FormatError: another result, or damaged files.
    """
    found = kept(folder)
    recipe = without(found.recipe, parent)
    inputs = {str(one): _restored(merged, found, str(one)) for one in recipe.sources}
    return merge_checkpoints(recipe, inputs)


def without(recipe: Recipe, parent: str) -> Recipe:
    """The recipe with one of its models left out.

    Raises:
        MergeError: the others come from it, are aligned to it, or it is all that some layers are made of.
        UnknownNameError: the recipe names no such model.
    """
    _expect_named(recipe, parent)
    bases = [recipe.base_model, *(slice.base for slice in recipe.slices)]
    if parent in map(str, filter(None, bases)):
        raise _needed(parent, "the base that the others are compared with")
    if recipe.align is not None and str(recipe.align.to) == parent:
        raise _needed(parent, "what the others are aligned to")
    if parent in (recipe.tokenizer_source, recipe.tokenizer.get("source"), recipe.chat_template):
        raise _needed(parent, "where the tokenizer or its chat template comes from")
    made = recipe.only({one for one in recipe.sources if str(one) != parent})
    if not all(slice.inputs for slice in made.slices):
        raise _needed(parent, "all that some of the layers are made of")
    return made


def _needed(parent: str, part: str) -> MergeError:
    return MergeError(f"'{one_line(parent, 80)}' cannot be left out: it is {part}; write a recipe without it and merge again")
