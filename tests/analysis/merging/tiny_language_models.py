"""Language models of a few rows, with real tokenizers beside them: folders as transformers has them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import weightspace as ws
from weightspace.analysis.merging.tokenizer import Common
from weightspace.analysis.merging.tokenizer_files import tokenizer_files


@dataclass(frozen=True)
class Tokens:
    """A byte-pair vocabulary: pieces in the order of their ids, merges, then special and plain added tokens."""

    pieces: Sequence[str]
    merges: Sequence[tuple[str, str]] = ()
    special: Sequence[str] = ()
    plain: Sequence[str] = field(default_factory=tuple)


LETTERS = list("abcdefgh")
# What mergekit's figures were recorded for; `a` has two spare rows.
A = Tokens([*LETTERS, "ab", "cd"], [("a", "b"), ("c", "d")], ["<s>", "</s>"])
B = Tokens([*LETTERS[::-1], "ab", "abcd", "cd", "ef"], [("a", "b"), ("c", "d"), ("ab", "cd"), ("e", "f")], ["</s>", "<s>", "<b>"], ["user"])
C = Tokens([*LETTERS, "cd", "ef", "gh"], [("c", "d"), ("e", "f"), ("g", "h")], ["<s>", "</s>", "<c>", "<b>"])


def tokenizer_of(tokens: Tokens) -> Any:
    """The tokenizers library's own object."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers

    made = Tokenizer(models.BPE(vocab={piece: row for row, piece in enumerate(tokens.pieces)}, merges=list(tokens.merges)))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens.special])
    made.add_tokens([AddedToken(token) for token in tokens.plain])
    return made


def write_tokenizer_of(tokens: Tokens, folder: Path, **config: Any) -> dict[str, int]:
    """Save a tokenizer with its config; gives its vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    made = tokenizer_of(tokens)
    made.save(str(folder / "tokenizer.json"))
    named = {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast", **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(named))
    vocabulary: dict[str, int] = made.get_vocab()
    return vocabulary


def write_embeddings(tokens: Tokens, folder: Path, start: float, spare: int = 0) -> None:
    """Save a model of nothing but an embedding, whose row r has the value `start + r` in its first place, and its negative as a head."""
    ids = write_tokenizer_of(tokens, folder)
    rows = len(ids) + spare
    (folder / "config.json").write_text(json.dumps({"vocab_size": rows, "bos_token_id": ids["<s>"], "eos_token_id": ids["</s>"]}))
    embedding = (start + torch.arange(rows, dtype=torch.float32))[:, None] + torch.arange(4) / 8
    ws.save({"lm_head.weight": -embedding, "model.embed_tokens.weight": embedding}, folder / "model.safetensors")


def write_three(root: Path) -> dict[str, Path]:
    """Save the models that mergekit's figures were recorded for: rows of `a` count from 100, of `b` from 200, of `c` from 300."""
    folders = {name: root / name for name in "abc"}
    for at, (name, tokens) in enumerate(zip("abc", (A, B, C), strict=True)):
        write_embeddings(tokens, folders[name], 100.0 * (at + 1), spare=2 if name == "a" else 0)
    return folders


def write_tokenizer(common: Common | None, folders: Mapping[str, Path | None], out: Path, **options: Any) -> None:
    """Write what `tokenizer_files` gives into a folder that is there."""
    for name, content in tokenizer_files(common, folders, **options).items():
        (out / name).write_bytes(content)
