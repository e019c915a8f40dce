"""Vocabularies read as data: what they hold is what the tokenizers library says they do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from weightspace import vocabulary as module
from weightspace.errors import FormatError
from weightspace.vocabulary import AddedToken, Vocabulary

LETTERS = {letter: row for row, letter in enumerate("abcdef")}


def _models() -> dict[str, Callable[[], Any]]:
    from tokenizers import models

    return {
        "BPE": lambda: models.BPE(vocab={**LETTERS, "ab": 6}, merges=[("a", "b")]),
        "WordPiece": lambda: models.WordPiece(vocab={**LETTERS, "##b": 6}, unk_token="a"),
        "WordLevel": lambda: models.WordLevel(vocab={**LETTERS, "word": 6}, unk_token="a"),
        "Unigram": lambda: models.Unigram([*((letter, -1.0) for letter in LETTERS), ("ab", -1.5)], unk_id=0),
    }


@pytest.mark.parametrize("kind", ["BPE", "WordPiece", "WordLevel", "Unigram"])
def test_the_tokens_of_a_tokenizer_file_are_those_that_the_library_has(kind: str, tmp_path: Path) -> None:
    from tokenizers import AddedToken as Theirs
    from tokenizers import Tokenizer

    tokenizer = Tokenizer(_models()[kind]())
    tokenizer.add_special_tokens([Theirs("<s>", special=True, normalized=False), "f"])
    tokenizer.add_tokens([Theirs("user", single_word=True, lstrip=True, rstrip=True)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text('{"vocab_size": 16}')
    read = Vocabulary.read(tmp_path)
    assert read is not None
    assert dict(read.ids) == tokenizer.get_vocab()
    assert dict(read.added) == {
        "<s>": AddedToken(normalized=False, special=True),
        "f": AddedToken(normalized=False, special=True),
        "user": AddedToken(single_word=True, lstrip=True, rstrip=True),
    }
    assert (read.size, read.rows, read.tokens[7]) == (9, 16, "<s>")
    assert repr(read) == "<Vocabulary: 9 tokens, 3 added, 16 rows>"


def test_a_token_that_the_model_has_under_another_id_keeps_that_one_as_in_the_library(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models

    content = json.loads(Tokenizer(models.BPE(vocab=LETTERS, merges=[])).to_str())
    content["added_tokens"] = [{"id": 9, "content": "c", "special": True, "normalized": False}]
    for flag in ("single_word", "lstrip", "rstrip"):
        content["added_tokens"][0][flag] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    read = Vocabulary.read(tmp_path)
    assert read is not None and dict(read.ids) == Tokenizer.from_file(str(tmp_path / "tokenizer.json")).get_vocab()


def test_tokens_are_found_in_older_files(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\nold\nnew\n")
    assert (read := Vocabulary.read(tmp_path)) and read.ids == {"[PAD]": 0, "old": 1, "new": 2}
    (tmp_path / "vocab.json").write_text('{"a": 0, "b": 1}')
    (tmp_path / "added_tokens.json").write_text('{"<x>": 2, "a": 5}')
    decoder = {"2": {"content": "<x>", "special": True}, "3": {"content": "<y>", "special": True, "normalized": False}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
    (tmp_path / "config.json").write_text('{"text_config": {"vocab_size": 8}}')
    read = Vocabulary.read(tmp_path)
    assert read is not None and read.ids == {"a": 0, "b": 1, "<x>": 2, "<y>": 3}
    assert read.added == {"<x>": AddedToken(), "<y>": AddedToken(normalized=False, special=True)}
    assert read.rows == 8


def test_a_folder_without_a_tokenizer_has_no_vocabulary(tmp_path: Path) -> None:
    assert Vocabulary.read(tmp_path) is None


def test_tokens_without_a_row_are_not_used() -> None:
    read = Vocabulary({"a": 0, "b": 1, "<x>": 2}, {"<x>": AddedToken()}, rows=2)
    assert read.used() == Vocabulary({"a": 0, "b": 1}, {}, rows=2)
    fitting = Vocabulary({"a": 0}, rows=4)
    assert fitting.used() is fitting
    assert Vocabulary({}).size == 0


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("tokenizer.model", "\x0a", "a sentencepiece model, which is not read; save the tokenizer once with transformers"),
        ("tokenizer.json", '{"model": {"vocab"', "its JSON is damaged"),
        ("tokenizer.json", "{}", "damaged ('model'); copy or download it again"),
        ("tokenizer.json", '{"model": {"vocab": {"a": "0"}}}', "token 'a' has the id '0', expected a whole number up to 16777216"),
        ("tokenizer.json", '{"model": {"vocab": [["a", 0], ["b"]]}}', "damaged (not enough values to unpack"),
        ("tokenizer.json", '{"model": {"vocab": {}}, "added_tokens": [{"id": -1, "content": "a"}]}', "token 'a' has the id -1"),
        ("vocab.json", '{"a": 99999999999}', "token 'a' has the id 99999999999"),
        ("vocab.json", '{"a": 1, "a": 2}', "the key 'a' stands twice"),
        ("vocab.json", "[]", "expected a JSON object, found list"),
    ],
)
def test_damage_is_said_in_one_line(file: str, content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text(content)
    with pytest.raises(FormatError) as caught:
        Vocabulary.read(tmp_path)
    assert str(caught.value).startswith(str(tmp_path / file)) and said in str(caught.value) and "\n" not in str(caught.value)


def test_a_config_must_give_a_number_of_rows(tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    (tmp_path / "config.json").write_text('{"vocab_size": "many"}')
    with pytest.raises(FormatError, match="vocab_size is 'many', expected a whole number up to 16777216; copy or download it again"):
        Vocabulary.read(tmp_path)


def test_files_that_are_too_large_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vocab.txt").write_text("word\n" * 8)
    monkeypatch.setattr(module, "MAX_BYTES", 16)
    with pytest.raises(FormatError, match="has 40 bytes, expected a tokenizer file of at most 16; do not load this model"):
        Vocabulary.read(tmp_path)
