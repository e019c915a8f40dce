"""Tokenizer files of a merged model: they load, give every token its row, and cut text as the one that they started from."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.analysis.merging.tiny_language_models import A, B, C, Tokens, write_three, write_tokenizer, write_tokenizer_of
from weightspace.analysis.merging.chat_templates import CHAT_TEMPLATES
from weightspace.analysis.merging.tokenizer import Common, Source, common_vocabulary
from weightspace.analysis.merging.tokenizer_files import chat_template_of, tokenizer_files
from weightspace.errors import FormatError, MergeError
from weightspace.vocabulary import Vocabulary

TEXTS = ("abcdefgh", "cab fed ghab", "<s> head </s>", "cdcdab ef gh", "quick 9 é")


def _common(folders: dict[str, Path], base: int | None = 0, **options: Any) -> Common:
    sources: list[Source] = [(name, Vocabulary.read(folder)) for name, folder in folders.items()]
    return common_vocabulary(sources, base, **options)


def _written(common: Common, folders: dict[str, Path], out: Path, **options: Any) -> Any:
    from tokenizers import Tokenizer

    out.mkdir()
    write_tokenizer(common, {**folders}, out, **options)
    return Tokenizer.from_file(str(out / "tokenizer.json"))


def _cut(tokenizer: Any, text: str) -> list[str]:
    return [tokenizer.id_to_token(row) for row in tokenizer.encode(text).ids]


@pytest.mark.parametrize(("source", "name"), [("base", "a"), ("b", "b")])
def test_the_files_of_a_model_are_copied_as_they_are(source: str, name: str, tmp_path: Path) -> None:
    folders = write_three(tmp_path)
    (folders[name] / "chat_template.jinja").write_text("{{ messages }}")
    (folders[name] / "vocab.json").write_text("{}")
    files = tokenizer_files(_common(folders, source=source), {**folders})
    expected = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "vocab.json"}
    assert files == {file: (folders[name] / file).read_bytes() for file in expected}
    assert tokenizer_files(None, {**folders}, origin=name) == files
    assert tokenizer_files(None, {"x": None, **folders}) == {}


def test_a_union_loads_gives_each_token_its_row_and_cuts_text_as_its_base(tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    folders = write_three(tmp_path)
    common = _common(folders)
    made = _written(common, folders, tmp_path / "out")
    base = Tokenizer.from_file(str(folders["a"] / "tokenizer.json"))
    assert made.get_vocab() == common.ids
    for text in TEXTS:
        assert made.encode(text).tokens == base.encode(text).tokens
    # What mergekit 0.1.5 writes cuts the first text into abcd, ef and gh: the base was never trained on those.
    assert made.encode("abcdefgh").tokens == ["ab", "cd", "e", "f", "g", "h"]
    assert made.encode("a<b>user<c>").tokens == ["a", "<b>", "user", "<c>"]
    assert made.decode(made.encode("a<b>h").ids) == "a h"  # the flag came along: special tokens are no text
    loaded = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert loaded.get_vocab() == common.ids and loaded.eos_token_id == common.ids["</s>"]
    assert loaded("<s> cab")["input_ids"] == [common.ids[token] for token in ("<s>", "c", "ab")]


def test_tokens_of_a_recipe_are_found_in_text(tmp_path: Path) -> None:
    folders = {"a": tmp_path / "a"}
    write_tokenizer_of(A, folders["a"])
    common = _common(folders, source="base", tokens={"<|im_start|>": {"source": {"kind": "model_token", "model": "a", "token": "<s>"}}})
    made = _written(common, folders, tmp_path / "out")
    assert made.token_to_id("<|im_start|>") == 12
    assert made.encode("ab<|im_start|>cd").tokens == ["ab", "<|im_start|>", "cd"]


def _unigram(letters: str, pieces: dict[str, float]) -> Any:
    from tokenizers import models

    return models.Unigram([("<unk>", 0.0), *((letter, -4.0) for letter in letters), *pieces.items()], unk_id=0)


def _pieces(words: str) -> Any:
    from tokenizers import models

    return models.WordPiece(vocab={piece: row for row, piece in enumerate(["[UNK]", *words.split()])}, unk_token="[UNK]")


def _words(words: str) -> Any:
    from tokenizers import models

    return models.WordLevel(vocab={word: row for row, word in enumerate(["[UNK]", *words.split()])}, unk_token="[UNK]")


@pytest.mark.parametrize(
    ("first", "second", "known", "new"),
    [
        (
            lambda: _unigram("abcd", {"ab": -5.0, "abcd": -11.5}),
            lambda: _unigram("dcbaz", {"bc": -1.0, "abcd": -1.0, "cz": -1.0}),
            {"abcd": ["abcd"], "abcab": ["ab", "c", "ab"], "bcbc": ["b", "c", "b", "c"]},
            {"az": ["a", "z"]},
        ),
        (
            lambda: _pieces("ab a ##b ##c"),
            lambda: _pieces("abcb b ##c"),
            {"ab": ["ab"], "abb": ["ab", "##b"], "ac": ["a", "##c"]},
            {"abcb": ["abcb"], "bc": ["b", "##c"]},
        ),
        (lambda: _words("one two"), lambda: _words("two three"), {"one two": ["one", "two"], "four": ["[UNK]"]}, {"three": ["three"]}),
    ],
    ids=["Unigram", "WordPiece", "WordLevel"],
)
def test_other_kinds_of_tokenizer_are_extended_too(
    first: Callable[[], Any], second: Callable[[], Any], known: dict[str, list[str]], new: dict[str, list[str]], tmp_path: Path
) -> None:
    from tokenizers import Tokenizer, pre_tokenizers

    folders = {name: tmp_path / name for name in "ab"}
    for name, model in (("a", first()), ("b", second())):
        folders[name].mkdir()
        tokenizer = Tokenizer(model)
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer.add_special_tokens([f"<{name}>"])
        tokenizer.save(str(folders[name] / "tokenizer.json"))
    base = Tokenizer.from_file(str(folders["a"] / "tokenizer.json"))
    made = _written(common := _common(folders), folders, tmp_path / "out")
    assert made.get_vocab() == common.ids
    for text, tokens in known.items():
        assert _cut(made, text) == _cut(base, text) == tokens
    for text, tokens in new.items():
        assert _cut(made, text) == tokens != _cut(base, text)
    assert _cut(made, "<b>") == ["<b>"]


def test_ids_that_no_token_has_do_not_move_those_that_follow(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    folders = {name: tmp_path / name for name in "ab"}
    for name, model in (("a", _unigram("ab", {})), ("b", _unigram("ac", {}))):
        folders[name].mkdir()
        Tokenizer(model).save(str(folders[name] / "tokenizer.json"))
    (folders["a"] / "added_tokens.json").write_text('{"<far>": 5}')
    made = _written(common := _common(folders), folders, tmp_path / "out")
    assert common.ids == {"<unk>": 0, "a": 1, "b": 2, "c": 6, "<far>": 5}
    assert {token: made.token_to_id(token) for token in common.ids} == common.ids


def test_configs_beside_the_tokenizer_stay_in_line_with_it(tmp_path: Path) -> None:
    decoder = {
        "10": {"content": "<s>", "special": True, "normalized": False},
        "11": {"content": "</s>", "special": True, "normalized": False},
    }
    folders = {"a": tmp_path / "a", "c": tmp_path / "c"}
    more = {"additional_special_tokens": ["<s>", "<gone>"], "pad_token": {"content": "<gone>"}, "unk_token": None}
    write_tokenizer_of(A, folders["a"], added_tokens_decoder=decoder, model_max_length=8, **more)
    (folders["a"] / "special_tokens_map.json").write_text(
        json.dumps({"eos_token": "</s>", "extra_special_tokens": {"x": "<gone>", "y": "<s>"}})
    )
    write_tokenizer_of(C, folders["c"])
    files = tokenizer_files(_common(folders), {**folders})
    config = json.loads(files["tokenizer_config.json"])
    assert {int(row): one["content"] for row, one in config["added_tokens_decoder"].items()} == {
        10: "<s>",
        11: "</s>",
        14: "<c>",
        15: "<b>",
    }
    assert config["additional_special_tokens"] == ["<s>"] and "pad_token" not in config
    assert (config["eos_token"], config["unk_token"], config["model_max_length"]) == ("</s>", None, 8)
    assert json.loads(files["special_tokens_map.json"]) == {"eos_token": "</s>", "extra_special_tokens": {"y": "<s>"}}


def test_tokens_that_the_embeddings_have_no_row_for_are_left_out_with_their_merges(tmp_path: Path) -> None:
    folders = {"a": tmp_path / "a"}
    tokens = Tokens(["a", "b", "c", "ab", "abc"], [("a", "b"), ("ab", "c")])
    write_tokenizer_of(tokens, folders["a"])
    (folders["a"] / "config.json").write_text('{"vocab_size": 4}')
    made = _written(_common(folders, source="base"), folders, tmp_path / "out")
    assert made.get_vocab() == {"a": 0, "b": 1, "c": 2, "ab": 3}
    assert made.encode("abc").tokens == ["ab", "c"]


def test_a_tokenizer_without_its_json_cannot_be_extended(tmp_path: Path) -> None:
    folders = {"a": tmp_path / "a", "b": tmp_path / "b"}
    folders["a"].mkdir()
    (folders["a"] / "vocab.txt").write_text("x\ny\n")
    write_tokenizer_of(B, folders["b"])
    assert set(tokenizer_files(_common(folders, source="base"), {**folders})) == {"vocab.txt"}
    with pytest.raises(MergeError, match=r"tokens are to be added, for which its tokenizer\.json is needed, and it has none; save its"):
        tokenizer_files(_common(folders), {**folders})


def test_a_damaged_tokenizer_is_named(tmp_path: Path) -> None:
    folders = {"a": tmp_path / "a", "b": tmp_path / "b"}
    for name, tokens in (("a", A), ("b", B)):
        write_tokenizer_of(tokens, folders[name])
    common = _common(folders)
    content = json.loads((folders["a"] / "tokenizer.json").read_text())
    content["model"]["merges"] = [["a"]]
    (folders["a"] / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(FormatError, match=r"tokenizer\.json: damaged \(not enough values to unpack"):
        tokenizer_files(common, {**folders})


@pytest.fixture
def talking(tmp_path: Path) -> dict[str, Path | None]:
    folders: dict[str, Path | None] = {"none": None, **{name: tmp_path / name for name in "abcd"}}
    templates: dict[str, Any] = {
        "a": "{{ 'a' }}",
        "b": "{{ 'b' }}\n",
        "c": [{"name": "default", "template": "{{ 'b' }}"}, {"name": "tool"}],
    }
    for name in "abcd":
        write_tokenizer_of(A, tmp_path / name, **({"chat_template": templates[name]} if name in templates else {}))
    return folders


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (None, "{{ 'a' }}"),
        ("auto", "{{ 'b' }}"),
        ("b", "{{ 'b' }}\n"),
        ("c", "{{ 'b' }}"),
        ("chatml", CHAT_TEMPLATES["chatml"]),
        ("{{ messages }}", "{{ messages }}"),
    ],
)
def test_the_chat_template_is_the_one_that_a_recipe_wants(
    setting: str | None, expected: str, talking: dict[str, Path | None], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    write_tokenizer(None, talking, out, origin="a", chat_template=setting)
    assert chat_template_of(out) == expected


def test_a_template_in_a_file_of_its_own_goes_first_and_gives_way(talking: dict[str, Path | None], tmp_path: Path) -> None:
    folder = talking["d"]
    assert folder is not None and chat_template_of(folder) is None
    assert tokenizer_files(None, {"d": folder}, chat_template="auto") == tokenizer_files(None, {"d": folder})
    (folder / "chat_template.json").write_text('{"chat_template": "{{ 1 }}"}')
    assert chat_template_of(folder) == "{{ 1 }}"
    (folder / "chat_template.jinja").write_text("{{ 2 }}")
    assert chat_template_of(folder) == "{{ 2 }}"
    files = tokenizer_files(None, talking, origin="d", chat_template="a")
    assert "chat_template.jinja" not in files and json.loads(files["tokenizer_config.json"])["chat_template"] == "{{ 'a' }}"


def test_a_chat_template_that_is_none_is_refused(talking: dict[str, Path | None]) -> None:
    with pytest.raises(MergeError, match="chat_template: model 'd' has none; name another model, or write the template itself"):
        tokenizer_files(None, talking, origin="a", chat_template="d")
    with pytest.raises(MergeError, match="chat_template is 'llama'; expected auto, a model of the recipe, one of alpaca, chatml, exaone,"):
        tokenizer_files(None, talking, origin="a", chat_template="llama")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("alpaca", "Be brief.\n\n### Instruction:\nHi\n\n### Response:\nHo\n\n### Instruction:\nBye\n\n### Response:\n"),
        (
            "chatml",
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHo<|im_end|>\n"
            "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n",
        ),
        ("exaone", "[|system|]Be brief.[|endofturn|]\n[|user|]Hi\n[|assistant|]Ho[|endofturn|]\n[|user|]Bye\n[|assistant|]"),
        (
            "llama3",
            "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nHo<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        ("mistral", "<s> [INST] Be brief.\n\nHi [/INST] Ho</s> [INST] Bye [/INST]"),
    ],
)
def test_a_named_chat_template_writes_turns_as_its_family_does(name: str, said: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folders: dict[str, Path | None] = {"a": tmp_path / "a"}
    write_tokenizer_of(A, tmp_path / "a")
    out = tmp_path / "out"
    out.mkdir()
    write_tokenizer(None, folders, out, chat_template=name)
    turns = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Ho"), ("user", "Bye")]
    conversation = [{"role": role, "content": content} for role, content in turns]
    loaded = AutoTokenizer.from_pretrained(out)
    assert loaded.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True) == said
