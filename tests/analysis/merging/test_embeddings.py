"""Embeddings under a common vocabulary: the function stays that of the inputs, however their rows were ordered."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import weightspace as ws
from tests.analysis.merging.tiny_language_models import LETTERS, Tokens, write_tokenizer, write_tokenizer_of
from weightspace.analysis.merging.embeddings import Gathered, vocabulary_tensors, with_one_vocabulary, with_vocabulary
from weightspace.analysis.merging.tokenizer import Source, common_vocabulary
from weightspace.checkpoint import Checkpoint
from weightspace.errors import MergeError
from weightspace.vocabulary import Vocabulary

NAMES = ("model.embed_tokens.weight", "lm_head.weight")
TEXT = "<s> abcd efgh head cab </s>"


def _vocabulary(tokens: str, rows: int | None = None) -> Vocabulary:
    return Vocabulary({token: row for row, token in enumerate(tokens)}, rows=rows)


def _numbered(rows: int, start: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return ((start + torch.arange(rows))[:, None] + torch.arange(4) / 4).to(dtype)


def _llama(folder: Path, tokens: Tokens, seed: int, order: np.ndarray | None = None, *, tied: bool = False) -> Path:
    """A tiny Llama with a tokenizer; `order` lays its rows, and the ids of its pieces, otherwise: the same function of text."""
    from transformers import LlamaConfig, LlamaForCausalLM

    ids = write_tokenizer_of(tokens, folder)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(ids),
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            tie_word_embeddings=tied,
            bos_token_id=ids["<s>"],
            eos_token_id=ids["</s>"],
        )
    ).double()
    if order is not None:
        pieces = [tokens.pieces[old] for old in order]
        write_tokenizer_of(replace(tokens, pieces=pieces), folder)
        rows = torch.from_numpy(np.concatenate([order, np.arange(len(order), len(ids))]))
        with torch.no_grad():
            for table in {id(one.weight): one for one in (model.model.embed_tokens, model.lm_head)}.values():
                table.weight.copy_(table.weight[rows])
    model.save_pretrained(folder)
    return folder


def _logits(checkpoint: Checkpoint, folder: Path) -> torch.Tensor:
    """Of the text, with the tokenizer of a folder; columns by the tokens of the byte-pair vocabulary in alphabetical order."""
    from tokenizers import Tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = tokenizer.get_vocab()
    config = LlamaConfig(vocab_size=len(ids), hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2)
    model = LlamaForCausalLM(config).double().eval()
    state = dict(checkpoint.state_dict())
    state.setdefault("lm_head.weight", state["model.embed_tokens.weight"])
    model.load_state_dict(state)
    encoded = torch.tensor([tokenizer.encode(TEXT).ids])
    with torch.no_grad():
        logits: torch.Tensor = model(encoded).logits[0]
    return logits[:, [ids[token] for token in sorted(ids)]]


def _average(checkpoints: tuple[Checkpoint, ...]) -> Checkpoint:
    return Checkpoint.of({name: torch.stack([one[name] for one in checkpoints]).mean(0) for name in checkpoints[0]})


TOKENS = Tokens([*LETTERS, "ab", "cd", "abcd"], [("a", "b"), ("c", "d"), ("ab", "cd")], ["<s>", "</s>"])


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("source", ["union", "base"])
def test_merging_with_a_model_of_permuted_vocabulary_gives_the_function_that_merging_unpermuted_gives(
    source: str, tied: bool, tmp_path: Path
) -> None:
    order = np.random.default_rng(0).permutation(len(TOKENS.pieces))
    folders = {name: _llama(tmp_path / name, TOKENS, seed, tied=tied) for seed, name in enumerate(("a", "b"))}
    moved = _llama(tmp_path / "moved", TOKENS, 1, order, tied=tied)
    sources: list[Source] = [(name, Vocabulary.read(folder)) for name, folder in (("a", folders["a"]), ("moved", moved))]
    common = common_vocabulary(sources, 0, source)
    inputs = [ws.open(folder) for folder in (folders["a"], moved)]
    merged = _average(with_one_vocabulary(inputs, sources, common)[0])
    out = tmp_path / "out"
    out.mkdir()
    write_tokenizer(common, {"a": folders["a"], "moved": moved}, out)
    expected = _average((inputs[0], ws.open(folders["b"])))
    assert not torch.equal(inputs[1]["model.embed_tokens.weight"], ws.open(folders["b"])["model.embed_tokens.weight"])
    assert torch.equal(_logits(merged, out), _logits(expected, folders["a"]))


def test_a_model_merged_with_itself_under_another_order_keeps_its_function(tmp_path: Path) -> None:
    order = np.random.default_rng(1).permutation(len(TOKENS.pieces))
    own = _llama(tmp_path / "own", TOKENS, 0)
    moved = _llama(tmp_path / "moved", TOKENS, 0, order)
    sources: list[Source] = [("moved", Vocabulary.read(moved)), ("own", Vocabulary.read(own))]
    common = common_vocabulary(sources)
    inputs = [ws.open(moved), ws.open(own)]
    merged = _average(with_one_vocabulary(inputs, sources, common)[0])
    out = tmp_path / "out"
    out.mkdir()
    write_tokenizer(common, {"moved": moved, "own": own}, out)
    assert torch.equal(_logits(merged, out), _logits(inputs[1], own))
    # Without a common vocabulary rows of different tokens are averaged: another function.
    plain = _average((inputs[0], inputs[1]))
    assert not torch.allclose(_logits(plain, own), _logits(inputs[1], own), atol=1e-2)


def test_tied_embeddings_stay_tied_and_nothing_is_read_before_it_is_wanted(tmp_path: Path) -> None:
    embedding = _numbered(3, 0)
    tied = Checkpoint.of({NAMES[0]: embedding, NAMES[1]: embedding, "norm.weight": torch.ones(3)})
    sources: list[Source] = [("a", _vocabulary("xyz")), ("b", _vocabulary("zw"))]
    common = common_vocabulary(sources, 0)
    other = Checkpoint.of({NAMES[0]: _numbered(2, 10), NAMES[1]: _numbered(2, 20)})
    (made, second), notes = with_one_vocabulary([tied, other], sources, common)
    assert made.info[NAMES[1]].alias_of == NAMES[0] and made.info[NAMES[1]].shape == (4, 4)
    assert made.storages[NAMES[1]] is made.storages[NAMES[0]] and isinstance(made.storages[NAMES[0]], Gathered)
    assert made[NAMES[0]][:, 0].tolist() == [0, 1, 2, 11] and made.state_dict()[NAMES[1]] is not None
    assert second.info[NAMES[1]].alias_of is None and second[NAMES[1]][:, 0].tolist() == [0, 1, 20, 21]
    assert "norm.weight" in notes[1] and notes == (
        "vocabulary of 'a': 3 rows of its own, 1 from 'b'",
        "'a': as many rows as the vocabulary, but no embedding by its name, and left as it is: norm.weight",
        "vocabulary of 'b': 2 rows of its own, 2 from 'a'",
    )


def test_rows_of_a_head_that_a_file_leaves_out_are_those_of_the_embedding() -> None:
    sources: list[Source] = [("a", _vocabulary("xy")), ("b", _vocabulary("yz"))]
    inputs = [Checkpoint.of({NAMES[0]: _numbered(2, 0)}), Checkpoint.of({NAMES[0]: _numbered(2, 10), NAMES[1]: _numbered(2, 20)})]
    made = with_vocabulary(inputs[1], common_vocabulary(sources, 0), 1, inputs, NAMES)
    assert made[NAMES[1]][:, 0].tolist() == [0, 20, 21]


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_rows_are_copied_bit_for_bit_in_the_wider_dtype_and_means_are_rounded_once(dtype: torch.dtype, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    tables = [torch.randn(rows, 5, generator=generator).to(dtype) for rows in (4, 3, 3)]
    inputs = [ws.open(ws.save({NAMES[0]: table}, tmp_path / f"{at}.safetensors")) for at, table in enumerate(tables)]
    sources: list[Source] = [(str(at), _vocabulary(tokens)) for at, tokens in enumerate(("wxyz", "zvu", "vuz"))]
    common = common_vocabulary(sources, pad_to_multiple_of=7)
    made = with_vocabulary(inputs[0], common, 0, inputs, NAMES[:1])[NAMES[0]]
    wide = [table.double() for table in tables]
    assert made.dtype == dtype and torch.equal(made[:4], tables[0])
    assert torch.equal(made[4:6], torch.stack([(wide[1][1] + wide[2][0]) / 2, (wide[1][2] + wide[2][1]) / 2]).to(dtype))
    assert torch.equal(made[6], made[:6].double().mean(0).to(dtype))
    mixed = [inputs[0], Checkpoint.of({NAMES[0]: tables[1].double()}), inputs[2]]
    assert with_vocabulary(mixed[0], common, 0, mixed, NAMES[:1]).info[NAMES[0]].dtype == "F64"
    assert torch.equal(with_vocabulary(mixed[1], common, 1, mixed, NAMES[:1])[NAMES[0]][:1], tables[0][:1].double())


def test_runs_of_rows_are_what_the_whole_is_whatever_holds_the_input(tmp_path: Path) -> None:
    order = np.random.default_rng(2).permutation(40)
    table = torch.randn(40, 3, generator=torch.Generator().manual_seed(1))
    path = ws.save({NAMES[0]: table}, tmp_path / "a.safetensors")
    torch.save({NAMES[0]: table.T.contiguous().T}, tmp_path / "b.pt")  # strided: held as a whole
    words = [f"t{i}" for i in range(40)]
    sources: list[Source] = [
        ("a", Vocabulary({word: row for row, word in enumerate(words)})),
        ("b", Vocabulary({words[old]: row for row, old in enumerate(order)})),
    ]
    common = common_vocabulary(sources, 1, pad_to_multiple_of=64)
    for inputs in ([ws.open(path)] * 2, [ws.open(tmp_path / "b.pt")] * 2):
        made = with_vocabulary(inputs[0], common, 0, inputs, NAMES[:1])
        whole, storage = made[NAMES[0]], made.storages[NAMES[0]]
        assert torch.equal(whole[:40], table[torch.from_numpy(order)])
        assert isinstance(storage, Gathered)
        reader = storage.reader()
        assert torch.equal(torch.cat([reader(start, min(start + 7, 64)) for start in range(0, 64, 7)]), whole)
        assert b"".join(bytes(block) for block in storage.blocks(100)) == bytes(made.raw(NAMES[0]))


def test_embeddings_are_found_by_name_and_rows() -> None:
    tensors = {
        "bert.embeddings.word_embeddings.weight": torch.zeros(6, 4),
        "bert.embeddings.position_embeddings.weight": torch.zeros(6, 4),
        "cls.predictions.decoder.weight": torch.zeros(6, 4),
        "cls.predictions.bias": torch.zeros(6),
        "encoder.output.weight": torch.zeros(5, 4),
        "mask": torch.zeros(6, 6, 6),
    }
    names, others = vocabulary_tensors(Checkpoint.of(tensors), _vocabulary("abc", rows=6))
    assert names == ("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight", "cls.predictions.bias")
    assert others == ("bert.embeddings.position_embeddings.weight", "mask")
    # Where no config says how many rows there are: the fewest that hold all tokens.
    assert vocabulary_tensors(Checkpoint.of({"wte.weight": torch.zeros(4, 2)}), _vocabulary("abc")) == (("wte.weight",), ())
    shared = torch.zeros(4, 2)
    tied = Checkpoint.of({"my.table": shared, "lm_head.weight": shared})
    assert vocabulary_tensors(tied, _vocabulary("abc"))[0] == ("my.table", "lm_head.weight")


def test_a_model_without_an_embedding_is_refused() -> None:
    with pytest.raises(
        MergeError, match=r"a model: expected an embedding with 3 rows or more, found none among \{'wte.weight': 2\}; leave"
    ):
        vocabulary_tensors(Checkpoint.of({"wte.weight": torch.zeros(2, 2)}), _vocabulary("abc"))
    with pytest.raises(MergeError, match="expected an embedding with 9 rows, as its config says, found none among"):
        vocabulary_tensors(Checkpoint.of({"wte.weight": torch.zeros(3, 2)}), _vocabulary("abc", rows=9))


def test_inputs_that_rows_cannot_be_taken_from_are_refused() -> None:
    common = common_vocabulary([("a", _vocabulary("xy")), ("b", _vocabulary("yz"))], 0)
    whole = Checkpoint.of({NAMES[0]: _numbered(2, 0), "lm_head.bias": torch.zeros(2)})
    narrow = Checkpoint.of({NAMES[0]: torch.zeros(2, 3)})
    with pytest.raises(MergeError, match=r"has rows of shape \(3,\) in 'b' but \(4,\) in 'a'; merge models of one architecture"):
        with_vocabulary(whole, common, 0, [whole, narrow], NAMES[:1])
    with pytest.raises(MergeError, match=r"model 'b' has no tensor 'lm_head\.bias', of which others take rows; merge models of one"):
        with_vocabulary(whole, common, 0, [whole, narrow], ("lm_head.bias",))
    whole_numbers = Checkpoint.of({NAMES[0]: torch.zeros(2, 4, dtype=torch.int64)})
    with pytest.raises(MergeError, match="has dtype I64, whose rows cannot be moved; save its values as F16 first"):
        with_vocabulary(whole, common, 0, [whole, whole_numbers], NAMES[:1])
