"""The vocabulary of a merged language model: its tokens, and what stands for each of them in every input.

The rules are those of mergekit 0.1.5. An input that has a token keeps its own row for it. One that does not is given: the row of
the only input that has it; else the base's; else the mean over the inputs that have it; zeros where none has. Rows that no token
stands for are the mean of all others (Hewitt 2021, "Initializing new word embeddings for pretrained language models").

Where we depart: further tokens of a union follow in the order of the inputs and of their ids (mergekit's order changes from run to
run), and tokens without a row are left out for every input (there, for the base alone).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64

from weightspace.errors import MergeError, UnknownNameError, one_line
from weightspace.vocabulary import AddedToken, Vocabulary

MEAN, ZERO, PADDING = -1, -2, -3

Source = tuple[str, Vocabulary | None]
"""What a recipe calls an input, and its vocabulary; None where it has no tokenizer of its own: then it has the base's."""


@dataclass(frozen=True)
class Common:
    """One vocabulary for all inputs of a merge, and how each of them gets its rows.

    Attributes:
        names: of the inputs.
        origin: index of the input whose tokenizer this one starts from.
        ids: row of each token.
        added: the tokens among them that were added to a tokenizer.
        rows: of the embeddings, padding included.
        places: the row that each input has for each token of its own; -1 where it has none.
        donor: index of the input whose row the others take, or MEAN (over those that have one), ZERO or PADDING (the mean of all named rows).
        donor_row: of the donor.
        is_forced: rows that even inputs with one of their own take from the donor.
    """

    names: tuple[str, ...]
    origin: int
    ids: Mapping[str, int] = field(repr=False)
    added: Mapping[str, AddedToken] = field(repr=False)
    rows: int
    places: Int64[np.ndarray, "inputs rows"] = field(repr=False)
    donor: Int64[np.ndarray, " rows"] = field(repr=False)
    donor_row: Int64[np.ndarray, " rows"] = field(repr=False)
    is_forced: Bool[np.ndarray, " rows"] = field(repr=False)

    def kept(self, index: int) -> Int64[np.ndarray, " rows"]:
        """The row that an input keeps for each row; -1 where it takes one from elsewhere."""
        return np.where(self.is_forced, -1, self.places[index])

    def describe(self, index: int) -> str:
        """Say in words where an input's rows come from."""
        taken = self.donor[self.kept(index) < 0]
        named = {MEAN: "means over those that have them", ZERO: "zeros", PADDING: "padding"}
        kinds = [f"{count} {named[kind] if kind < 0 else f'from {self.names[kind]!r}'}" for kind, count in _counted(taken)]
        return ", ".join([f"{self.rows - len(taken)} rows of its own", *kinds])


def _counted(values: Int64[np.ndarray, " rows"]) -> list[tuple[int, int]]:
    kinds, counts = np.unique(values, return_counts=True)
    return [(int(kind), int(count)) for kind, count in zip(kinds, counts, strict=True)][::-1]


def common_vocabulary(
    sources: Sequence[Source],
    base: int | None = None,
    source: str = "union",
    tokens: Mapping[str, Any] | None = None,
    pad_to_multiple_of: int | None = None,
) -> Common:
    """Find the vocabulary that all inputs are brought to.

    Args:
        sources: all inputs, the base among them.
        base: index of the base; where there is none the first input's tokenizer takes its place, but its rows do not go first.
        source: `union` of all tokens, those of the `base`, or those of the input of this name.
        tokens: for some tokens, where their rows come from, in mergekit's form: `source` (a model; `{kind: model_token, model, token |
            token_id}`; `{kind: zero}`) and `force` (also where an input has its own). Tokens that no tokenizer has are added.
        pad_to_multiple_of: the embeddings' rows are rounded up to this.

    Raises:
        MergeError: a tokenizer is missing, or a token's setting cannot be followed.
        UnknownNameError: a model that is none of the inputs.
    """
    names = tuple(name for name, _ in sources)
    first = base or 0
    origin = first if source in ("union", "base") else _index(names, source, "tokenizer_source")
    vocabularies = _filled(sources, first, origin)
    ids, added = _union(vocabularies, origin) if source == "union" else (dict(vocabularies[origin].ids), dict(vocabularies[origin].added))
    settings = {token: _setting(token, given, names) for token, given in (tokens or {}).items()}
    for token in settings:
        if token not in ids:
            ids[token], added[token] = _next(ids), AddedToken()
    rows = _padded(_next(ids), pad_to_multiple_of)
    named = np.zeros(rows, bool)
    named[list(ids.values())] = True
    places = np.stack([_places(ids, vocabulary, rows) for vocabulary in vocabularies])
    donor, donor_row = _donors(places, base)
    donor[~named] = PADDING
    common = Common(names, origin, ids, added, rows, places, donor, donor_row, np.zeros(rows, bool))
    for token, setting in settings.items():
        _settle(common, token, setting, vocabularies)
    return common


def _filled(sources: Sequence[Source], first: int, origin: int) -> list[Vocabulary]:
    """All vocabularies, without the tokens that have no row."""
    for index in (first, origin):
        if sources[index][1] is None:
            raise MergeError(
                f"model '{sources[index][0]}' has no tokenizer beside its weights, which the merged one starts from; "
                "put its tokenizer.json there, or name another model as tokenizer_source"
            )
    instead = sources[first][1]
    assert instead is not None
    return [(vocabulary or instead).used() for _, vocabulary in sources]


def _union(vocabularies: Sequence[Vocabulary], first: int) -> tuple[dict[str, int], dict[str, AddedToken]]:
    """The first's tokens under their ids, then those of the others: the plain ones, then the added ones."""
    ordered = [vocabularies[first], *(one for i, one in enumerate(vocabularies) if i != first)]
    added: dict[str, AddedToken] = {}
    for vocabulary in ordered:
        added |= {token: vocabulary.added[token] for token in _in_order(vocabulary) if token in vocabulary.added and token not in added}
    ids = dict(vocabularies[first].ids)
    following = _next(ids)
    for token in (*(token for vocabulary in ordered for token in _in_order(vocabulary) if token not in added), *added):
        if token not in ids:
            ids[token] = following
            following += 1
    return ids, added


def _in_order(vocabulary: Vocabulary) -> list[str]:
    return sorted(vocabulary.ids, key=vocabulary.ids.__getitem__)


def _next(ids: Mapping[str, int]) -> int:
    return max(ids.values(), default=-1) + 1


def _padded(rows: int, multiple: int | None) -> int:
    if multiple is None:
        return rows
    if type(multiple) is not int or multiple < 1:
        raise MergeError(f"tokenizer: pad_to_multiple_of is {multiple!r}; expected a whole number of at least 1")
    return -(-rows // multiple) * multiple


def _places(ids: Mapping[str, int], vocabulary: Vocabulary, rows: int) -> Int64[np.ndarray, " rows"]:
    places = np.full(rows, -1, np.int64)
    for token, row in ids.items():
        if token in vocabulary.ids:
            places[row] = vocabulary.ids[token]
    return places


def _donors(places: Int64[np.ndarray, "inputs rows"], base: int | None) -> tuple[Int64[np.ndarray, " rows"], Int64[np.ndarray, " rows"]]:
    has = places >= 0
    count = has.sum(0)
    donor = np.full(count.shape, MEAN, np.int64)
    if base is not None:
        donor[has[base]] = base
    donor[count == 1] = has.argmax(0)[count == 1]
    donor[count == 0] = ZERO
    return donor, np.take_along_axis(places, donor.clip(0)[None], 0)[0]


@dataclass(frozen=True)
class _Setting:
    """What a recipe says of one token: whose row it has, under which token or id there, and whether all inputs must take it."""

    model: int | None = None
    token: str | None = None
    token_id: int | None = None
    force: bool = False


def _setting(token: str, given: Any, names: Sequence[str]) -> _Setting:
    where = f"tokenizer, tokens, '{one_line(str(token), 60)}'"
    if not isinstance(given, Mapping) or not set(given) <= {"source", "force"} or not isinstance(given.get("force", False), bool):
        raise MergeError(f"{where} is {one_line(repr(given), 80)}; expected a mapping with source, and force: true or false")
    source, force = given.get("source"), given.get("force", False)
    if isinstance(source, str):
        return _Setting(_index(names, source, where), token, force=force)
    if source is None and not force:
        return _Setting()
    if isinstance(source, Mapping) and source.get("kind") == "zero":
        return _Setting(ZERO, force=force)
    if isinstance(source, Mapping) and source.get("kind") == "model_token" and isinstance(source.get("model"), str):
        by_name, by_id = source.get("token"), source.get("token_id")
        if (by_name is None) != (by_id is None) and isinstance(by_name, str | None) and type(by_id) in (int, type(None)):
            return _Setting(_index(names, source["model"], where), by_name, by_id, force)
        raise MergeError(f"{where}: a model_token has exactly one of token (a word) and token_id (a whole number); keep one of them")
    raise MergeError(
        f"{where}: source is {one_line(repr(source), 80)}; expected a model, {{kind: model_token, model: ..., token: ...}} or {{kind: zero}}"
    )


def _settle(common: Common, token: str, setting: _Setting, vocabularies: Sequence[Vocabulary]) -> None:
    """Write one token's setting into the arrays, where any input needs it."""
    row = common.ids[token]
    if setting.model is None or (not setting.force and bool((common.places[:, row] >= 0).all())):
        return
    common.is_forced[row] = setting.force
    common.donor[row] = setting.model
    if setting.model == ZERO:
        return
    vocabulary = vocabularies[setting.model]
    found = setting.token_id if setting.token is None else vocabulary.ids.get(setting.token)
    rows = vocabulary.size if vocabulary.rows is None else vocabulary.rows
    if found is None or not 0 <= found < rows:
        what = f"token '{setting.token}'" if found is None else f"row {found} (of {rows})"
        name = common.names[setting.model]
        raise MergeError(f"tokenizer, tokens, '{token}': model '{name}' has no {what}; name a token that it has, or another model")
    common.donor_row[row] = found


def _index(names: Sequence[str], name: str, where: str) -> int:
    if name not in names:
        raise UnknownNameError.of(f"model of the recipe ({where})", name, names)
    return names.index(name)


def vocabulary_problems(sources: Sequence[Source]) -> list[str]:
    """Say, in a line each, which inputs cannot be merged row by row, because rows stand for different tokens.

    Inputs whose embeddings have equally many rows fit where no row stands for two tokens and no token for two rows: fine-tunes
    that gave names to some of their base's spare rows are merged as they are. Inputs without a tokenizer are passed over.
    """
    known = [(name, vocabulary) for name, vocabulary in sources if vocabulary is not None]
    return [line for name, vocabulary in known[1:] if (line := _difference(known[0][0], known[0][1], name, vocabulary))]


def _difference(a: str, left: Vocabulary, b: str, right: Vocabulary) -> str:
    moved = [token for token, row in left.ids.items() if right.ids.get(token, row) != row]
    renamed = [token for token, row in left.ids.items() if token not in right.ids and row in right.tokens]
    sizes = [one.size if one.rows is None else one.rows for one in (left, right)]
    if sizes[0] == sizes[1] and not moved and not renamed:
        return ""
    said = [f"{sizes[0]} and {sizes[1]} rows" if sizes[0] != sizes[1] else f"{sizes[0]} rows each"]
    for own, other, name in ((left, right, a), (right, left, b)):
        if only := [token for token in own.ids if token not in other.ids]:
            said.append(f"{_some(only)} only in '{name}'")
    if moved:
        token = moved[0]
        said.append(f"{len(moved)} tokens in other rows ('{one_line(token, 40)}': {left.ids[token]} and {right.ids[token]})")
    return f"models '{a}' and '{b}' have different vocabularies: {', '.join(said)}; write tokenizer_source: union"


def _some(tokens: Sequence[str]) -> str:
    shown = ", ".join(f"'{one_line(token, 40)}'" for token in tokens[:2])
    return f"{len(tokens)} token{'s' * (len(tokens) != 1)} ({shown}{', …' * (len(tokens) > 2)})"


def config_changes(common: Common, config: Mapping[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
    """What a config (or generation config) must say otherwise under the common vocabulary.

    Ids of tokens (`bos_token_id`, `eos_token_id`, ...) move with their tokens and are None where a token is gone; mergekit leaves
    them as they were.

    Args:
        common: the vocabulary of the result.
        config: that of one input.
        vocabulary: of the same input.
    """
    changes: dict[str, Any] = {"vocab_size": common.rows} if config.get("vocab_size", common.rows) != common.rows else {}

    def moved(row: int) -> int | None:
        return common.ids.get(vocabulary.tokens[row]) if row in vocabulary.tokens else row

    for key, value in config.items():
        if key == "text_config" and isinstance(value, Mapping):
            if inner := config_changes(common, value, vocabulary):
                changes[key] = {**value, **inner}
        elif key.endswith("_token_id") and type(value) is int and moved(value) != value:
            changes[key] = moved(value)
        elif key.endswith("_token_id") and isinstance(value, list):
            new = [row for one in value if type(one) is int and (row := moved(one)) is not None]
            changes |= {key: new} if new != value else {}
    return changes
