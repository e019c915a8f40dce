"""A vocabulary: which token each row of a language model's embeddings stands for, read as data from the files beside the weights."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from weightspace.errors import FormatError, guarded, one_line

MAX_BYTES = 1 << 27  # of a tokenizer file: those with a quarter of a million tokens and their merges take about a quarter of it
MAX_ID = 1 << 24
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_AGAIN = "copy or download it again"


@dataclass(frozen=True)
class AddedToken:
    """How a token that was added to a tokenizer is looked for in text, before the rest is cut into pieces.

    Attributes:
        single_word: only where it stands as a word of its own.
        lstrip: together with the white space before it.
        rstrip: together with that after it.
        normalized: in text as the normalizer leaves it, rather than as it was given.
        special: whether it is no text at all, and is left out when tokens are turned back into text.
    """

    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = True
    special: bool = False


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of a model and the rows that they stand for.

    Attributes:
        ids: row of each token.
        added: the tokens among them that were added to the tokenizer, special ones included.
        rows: of the embeddings, as the model's config says; more than there are tokens where they are padded.
    """

    ids: Mapping[str, int] = field(repr=False)
    added: Mapping[str, AddedToken] = field(default_factory=dict, repr=False)
    rows: int | None = None

    @property
    def size(self) -> int:
        """Rows that tokens stand for: one more than the largest id."""
        return max(self.ids.values(), default=-1) + 1

    @cached_property
    def tokens(self) -> Mapping[int, str]:
        """Token of each row; the first where one row has two."""
        return {row: token for token, row in reversed(list(self.ids.items()))}

    def __repr__(self) -> str:
        padded = f", {self.rows} rows" if self.rows is not None else ""
        return f"<Vocabulary: {len(self.ids)} tokens, {len(self.added)} added{padded}>"

    def used(self) -> "Vocabulary":
        """The same without the tokens that the embeddings have no row for."""
        if self.rows is None or self.size <= self.rows:
            return self
        ids = {token: row for token, row in self.ids.items() if row < self.rows}
        return replace(self, ids=ids, added={token: one for token, one in self.added.items() if token in ids})

    @classmethod
    def read(cls, folder: Path) -> "Vocabulary | None":
        """Read the vocabulary of a model folder; None where there is no tokenizer in it.

        It is found in `tokenizer.json`, else `vocab.json`, else `vocab.txt`; tokens that `added_tokens.json` and
        `tokenizer_config.json` add are added. Nothing is executed.

        Raises:
            FormatError: a file that is damaged or too large, or a tokenizer that is only there as a sentencepiece model.
        """
        read = next((one for name, one in _READERS.items() if (folder / name).is_file()), None)
        if read is None:
            if found := next((name for name in _SENTENCEPIECE if (folder / name).is_file()), None):
                raise FormatError(
                    f"{folder / found}: a sentencepiece model, which is not read",
                    reason="unsupported",
                    advice="save the tokenizer once with transformers, which writes tokenizer.json beside it",
                )
            return None
        ids, added = read(folder)
        for beside, reader in (("added_tokens.json", _added_plainly), ("tokenizer_config.json", _added_by_config)):
            if (folder / beside).is_file():
                for token, (row, how) in guarded(reader, folder / beside).items():
                    if ids.setdefault(token, row) == row:
                        added.setdefault(token, how)
        return cls(ids, added, _rows(folder / "config.json"))


def _rows(path: Path) -> int | None:
    config = read_object(path) if path.is_file() else {}
    inner = config.get("text_config")
    found = config.get("vocab_size", inner.get("vocab_size") if isinstance(inner, dict) else None)
    if found is None or (type(found) is int and 0 < found <= MAX_ID):
        return found
    raise FormatError(f"{path}: vocab_size is {one_line(repr(found), 40)}, expected a whole number up to {MAX_ID}", advice=_AGAIN)


_Read = tuple[dict[str, int], dict[str, AddedToken]]


def _fast(folder: Path) -> _Read:
    """What the tokenizers library writes: one file with the model's own tokens, and those added to it."""
    return guarded(_tokenizer_json, folder / "tokenizer.json")


def _tokenizer_json(path: Path) -> _Read:
    content = read_object(path)
    own = content["model"]["vocab"]
    if isinstance(own, list):  # Unigram: pairs of a piece and its log probability, in the order of their ids
        own = {piece: row for row, (piece, _) in enumerate(own)}
    ids = _checked(own, path)
    added: dict[str, AddedToken] = {}
    for one in content.get("added_tokens") or ():
        # The library gives a token that the model has already the id that it has there.
        ids |= _checked({one["content"]: ids.get(one["content"], one["id"])}, path)
        added[one["content"]] = _how(one)
    return ids, added


def _pieces(folder: Path) -> _Read:
    return guarded(lambda path: _checked(read_object(path), path), folder / "vocab.json"), {}


def _lines(folder: Path) -> _Read:
    """One token a line, as BERT has it; where one comes twice the last counts."""

    def read(path: Path) -> dict[str, int]:
        _expect_small(path)
        return _checked({token: row for row, token in enumerate(path.read_text("utf-8").removesuffix("\n").split("\n"))}, path)

    return guarded(read, folder / "vocab.txt"), {}


_READERS: dict[str, Callable[[Path], _Read]] = {"tokenizer.json": _fast, "vocab.json": _pieces, "vocab.txt": _lines}
_SENTENCEPIECE = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")


def _added_plainly(path: Path) -> dict[str, tuple[int, AddedToken]]:
    return {token: (row, AddedToken()) for token, row in _checked(read_object(path), path).items()}


def _added_by_config(path: Path) -> dict[str, tuple[int, AddedToken]]:
    listed = read_object(path).get("added_tokens_decoder") or {}
    rows = _checked({one["content"]: int(row) for row, one in listed.items()}, path)
    return {one["content"]: (rows[one["content"]], _how(one)) for one in listed.values()}


def _how(written: Mapping[str, Any]) -> AddedToken:
    return AddedToken(**{flag: bool(written.get(flag, getattr(AddedToken, flag))) for flag in _FLAGS})


def _checked(ids: Mapping[Any, Any], path: Path) -> dict[str, int]:
    wrong: Iterable[tuple[Any, Any]] = (
        (token, row) for token, row in ids.items() if not (isinstance(token, str) and type(row) is int and 0 <= row <= MAX_ID)
    )
    for token, row in wrong:
        raise FormatError(
            f"{path}: token '{one_line(str(token), 80)}' has the id {one_line(repr(row), 40)}, expected a whole number up to {MAX_ID}",
            advice=_AGAIN,
        )
    return dict(ids)


def read_object(path: Path) -> dict[str, Any]:
    """Read the JSON object from a tokenizer's file.

    Raises:
        FormatError: it is damaged, not an object, or too large.
    """
    # Imported here: the formats package loads every format.
    from weightspace.formats.safetensors import parse_json

    _expect_small(path)
    return parse_json(path.read_bytes(), path)


def _expect_small(path: Path) -> None:
    if path.stat().st_size > MAX_BYTES:
        raise FormatError(
            f"{path}: has {path.stat().st_size} bytes, expected a tokenizer file of at most {MAX_BYTES}",
            reason="hostile",
            advice="do not load this model",
        )
