"""The common vocabulary of a merge: what each input's rows become is what mergekit 0.1.5 made of the same models."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import weightspace as ws
from tests.analysis.merging.tiny_language_models import write_three
from weightspace.analysis.merging.embeddings import vocabulary_tensors, with_vocabulary
from weightspace.analysis.merging.tokenizer import MEAN, ZERO, Source, common_vocabulary, config_changes, vocabulary_problems
from weightspace.errors import MergeError, UnknownNameError
from weightspace.vocabulary import AddedToken, Vocabulary

TOKENS = {
    "<b>": {"source": "c"},
    "cd": {"source": "b", "force": True},
    "<new>": {"source": {"kind": "model_token", "model": "b", "token": "user"}},
    "ef": {"source": {"kind": "zero"}},
    "gh": {"source": {"kind": "zero"}, "force": True},
    "user": {"source": {"kind": "model_token", "model": "a", "token_id": 13}, "force": True},
}
# What mergekit 0.1.5 made of the three models with each of these settings: the first value in the row of each token, in the order
# of the words in front, of the inputs a, b and c; then the value in the padding rows. (With weight 1 on that input and 0 on the others.)
_OWN = "a b c d e f g h ab cd <s> </s>"
_A, _B, _C = (
    [100, 101, 102, 103, 104, 105, 106, 107, 108, 109, 110, 111],
    [207, 206, 205, 204, 203, 202, 201, 200, 208, 210, 213, 212],
    [300, 301, 302, 303, 304, 305, 306, 307, 108, 308, 311, 312],
)
_UNION = f"{_OWN} abcd ef gh <b> user <c>"
_REST = "h g f e d c b a ab abcd cd ef </s> <s> <b> user"
RECORDED: dict[str, tuple[dict[str, Any], str, tuple[Sequence[float], ...], tuple[float, ...]]] = {
    "union with a base": (
        {"base": 0},
        _UNION,
        ([*_A, 209, 260, 310, 264, 215, 313], [*_B, 209, 211, 310, 214, 215, 313], [*_C, 209, 309, 310, 314, 215, 313]),
        (),
    ),
    "union without a base": (
        {},
        _UNION,
        (
            [*_A, 209, 260, 310, 264, 215, 313],
            [*_B, 209, 211, 310, 214, 215, 313],
            [*_C[:8], 158, *_C[9:], 209, 309, 310, 314, 215, 313],
        ),
        (),
    ),
    "of a model": (
        {"base": 0, "source": "b"},
        _REST,
        (
            [107, 106, 105, 104, 103, 102, 101, 100, 108, 209, 109, 260, 111, 110, 264, 215],
            list(range(200, 216)),
            [307, 306, 305, 304, 303, 302, 301, 300, 108, 209, 308, 309, 312, 311, 314, 215],
        ),
        (),
    ),
    "of the base": ({"base": 0, "source": "base"}, _OWN, (_A, _B, _C), ()),
    "tokens by hand": (
        {"base": 0, "tokens": TOKENS, "pad_to_multiple_of": 8},
        f"{_OWN} abcd ef gh <c> <b> user <new>",
        (
            [*_A[:9], 210, 110, 111, 209, 0, 0, 313, 314, 113, 215],
            [*_B, 209, 211, 0, 313, 214, 113, 215],
            [*_C[:9], 210, 311, 312, 209, 309, 0, 313, 314, 113, 215],
        ),
        (133.2105, 197.1579, 254.8421),
    ),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_three(tmp_path_factory.mktemp("models"))


def _sources(folders: Mapping[str, Path]) -> list[Source]:
    return [(name, Vocabulary.read(folder)) for name, folder in folders.items()]


@pytest.mark.parametrize("setting", list(RECORDED))
def test_every_row_is_what_mergekit_made_it(setting: str, folders: dict[str, Path]) -> None:
    options, words, values, padding = RECORDED[setting]
    sources, checkpoints = _sources(folders), [ws.open(folder) for folder in folders.values()]
    common = common_vocabulary(sources, **options)
    assert sorted(common.ids) == sorted(words.split())
    for index, (checkpoint, expected) in enumerate(zip(checkpoints, values, strict=True)):
        vocabulary = sources[index][1]
        assert vocabulary is not None
        names, others = vocabulary_tensors(checkpoint, vocabulary)
        assert (set(names), others) == ({"model.embed_tokens.weight", "lm_head.weight"}, ())
        made = with_vocabulary(checkpoint, common, index, checkpoints, names)
        embedding = made["model.embed_tokens.weight"]
        found = [round(embedding[common.ids[word], 0].item(), 4) for word in words.split()]
        assert found == list(expected)
        assert [round(value, 4) for value in embedding[len(common.ids) :, 0].tolist()] == [*padding[index : index + 1]] * (
            common.rows - len(common.ids)
        )
        assert (made["lm_head.weight"] == -embedding).all()


def test_the_base_keeps_its_ids_and_further_tokens_follow_in_order(folders: dict[str, Path]) -> None:
    sources = _sources(folders)
    common = common_vocabulary(sources, 2)
    assert sources[2][1] is not None
    assert {token: common.ids[token] for token in sources[2][1].ids} == sources[2][1].ids
    # Plain pieces of `a` and `b` in the order of their ids, then what was added there.
    assert sorted(set(common.ids) - set(sources[2][1].ids), key=common.ids.__getitem__) == ["ab", "abcd", "user"]
    assert [common.ids[token] for token in ("ab", "abcd", "user")] == [15, 16, 17]
    assert common.added["user"] == AddedToken() and common.added["<c>"].special


def test_where_rows_come_from_is_said_in_words(folders: dict[str, Path]) -> None:
    common = common_vocabulary(_sources(folders), 0, tokens=TOKENS, pad_to_multiple_of=8)
    assert common.describe(0) == "11 rows of its own, 2 from 'c', 3 from 'b', 1 from 'a', 2 zeros, 5 padding"
    assert common_vocabulary(_sources(folders)).describe(2) == "15 rows of its own, 2 from 'b', 1 means over those that have them"


def test_tokens_without_a_row_are_as_if_they_were_not_there() -> None:
    sources = [("a", Vocabulary({"x": 0, "y": 1, "<late>": 2}, rows=2)), ("b", Vocabulary({"y": 0, "<late>": 1}))]
    common = common_vocabulary(sources, 0)
    assert common.ids == {"x": 0, "y": 1, "<late>": 2}
    assert common.places.tolist() == [[0, 1, -1], [-1, 0, 1]]
    assert common.donor.tolist() == [0, 0, 1] and common.donor_row.tolist() == [0, 1, 1]


def test_an_input_without_a_tokenizer_has_that_of_the_base() -> None:
    common = common_vocabulary([("a", Vocabulary({"x": 0, "y": 1})), ("b", None)], 0)
    assert common.places.tolist() == [[0, 1], [0, 1]]


def test_a_token_that_nobody_has_is_zero_and_one_without_a_source_follows_the_usual_rule() -> None:
    sources = [(name, Vocabulary(ids)) for name, ids in (("a", {"x": 0}), ("b", {"y": 0}), ("c", {"x": 1, "y": 0}))]
    common = common_vocabulary(sources, tokens={"new": {}, "y": {"source": None}})
    assert common.ids == {"x": 0, "y": 1, "new": 2}
    assert common.donor.tolist() == [MEAN, MEAN, ZERO]


def test_ids_in_a_config_move_with_their_tokens(folders: dict[str, Path]) -> None:
    sources = _sources(folders)
    own = sources[0][1]
    assert own is not None
    config = {"vocab_size": 14, "bos_token_id": 10, "eos_token_id": [11, 8], "pad_token_id": None, "sep_token_id": 13, "hidden_size": 10}
    common = common_vocabulary(sources, 0, "b")
    assert config_changes(common, config, own) == {"vocab_size": 16, "bos_token_id": 13, "eos_token_id": [12, 8]}
    assert config_changes(common, {"text_config": config, "image_token_id": 9}, own) == {
        "text_config": {**config, "vocab_size": 16, "bos_token_id": 13, "eos_token_id": [12, 8]},
        "image_token_id": 10,
    }
    gone = common_vocabulary([("a", Vocabulary({"x": 0, "<pad>": 1})), ("b", Vocabulary({"x": 0}))], 0, "b")
    assert config_changes(gone, {"vocab_size": 1, "pad_token_id": 1, "eos_token_id": [0, 1]}, Vocabulary({"x": 0, "<pad>": 1})) == {
        "pad_token_id": None,
        "eos_token_id": [0],
    }


@given(st.lists(st.permutations("abcdef").flatmap(lambda tokens: st.integers(1, 6).map(lambda n: tokens[:n])), min_size=1, max_size=4))
def test_a_union_has_every_token_once_and_every_row_a_donor_that_has_it(orders: list[list[str]]) -> None:
    sources: list[Source] = [(f"m{at}", Vocabulary({token: row for row, token in enumerate(order)})) for at, order in enumerate(orders)]
    common = common_vocabulary(sources, 0)
    assert sorted(common.ids.values()) == list(range(len({token for order in orders for token in order}))) == list(range(common.rows))
    for token, row in common.ids.items():
        having = [at for at, order in enumerate(orders) if token in order]
        assert [at for at in range(len(orders)) if common.kept(at)[row] >= 0] == having
        assert all(common.kept(at)[row] == orders[at].index(token) for at in having)
        expected = 0 if 0 in having else having[0] if len(having) == 1 else MEAN
        assert common.donor[row] == expected
        if expected != MEAN:
            assert common.donor_row[row] == orders[expected].index(token)
    assert not np.isin(common.donor, [ZERO]).any()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tokens": {"x": "a"}}, "tokenizer, tokens, 'x' is 'a'; expected a mapping with source, and force: true or false"),
        ({"tokens": {"x": {"from": "a"}}}, "tokenizer, tokens, 'x' is {'from': 'a'}; expected a mapping with source, and force"),
        ({"tokens": {"x": {"force": True}}}, "tokenizer, tokens, 'x': source is None; expected a model, {kind: model_token"),
        ({"tokens": {"x": {"source": {"kind": "one"}}}}, "source is {'kind': 'one'}; expected a model"),
        (
            {"tokens": {"x": {"source": {"kind": "model_token", "model": "a", "token": "x", "token_id": 0}}}},
            "'x': a model_token has exactly one of token (a word) and token_id (a whole number); keep one of them",
        ),
        ({"tokens": {"y": {"source": "a"}}}, "tokenizer, tokens, 'y': model 'a' has no token 'y'; name a token that it has"),
        (
            {"tokens": {"new": {"source": {"kind": "model_token", "model": "b", "token_id": 7}}}},
            "tokenizer, tokens, 'new': model 'b' has no row 7 (of 2); name a token that it has, or another model",
        ),
        ({"pad_to_multiple_of": 0}, "tokenizer: pad_to_multiple_of is 0; expected a whole number of at least 1"),
        ({"source": "c"}, "model 'c' has no tokenizer beside its weights, which the merged one starts from; put its tokenizer.json there"),
    ],
)
def test_what_cannot_be_followed_is_said_in_one_line(options: dict[str, Any], said: str) -> None:
    sources: list[Source] = [("a", Vocabulary({"x": 0})), ("b", Vocabulary({"x": 0, "y": 1})), ("c", None)]
    with pytest.raises(MergeError) as caught:
        common_vocabulary(sources, 0, **options)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_model_that_is_not_of_the_recipe_is_not_known() -> None:
    with pytest.raises(UnknownNameError, match=r"no model of the recipe \(tokenizer_source\) named 'bsae'; did you mean 'base-1'\?"):
        common_vocabulary([("base-1", Vocabulary({"x": 0}))], 0, "bsae")
    with pytest.raises(UnknownNameError, match=r"no model of the recipe \(tokenizer, tokens, 'x'\) named 'q'"):
        common_vocabulary([("a", Vocabulary({"x": 0}))], 0, tokens={"x": {"source": "q"}})


@pytest.mark.parametrize(
    ("ids", "rows", "said"),
    [
        ({"x": 0, "y": 1}, 2, ""),
        ({"x": 0}, 2, ""),  # a spare row, to which only the other gave a name
        ({"x": 0, "y": 1, "z": 2}, None, "2 and 3 rows, 1 token ('z') only in 'b'"),
        ({"x": 0, "y": 1}, 64, "2 and 64 rows"),
        ({"y": 0, "x": 1}, None, "2 rows each, 2 tokens in other rows ('x': 0 and 1)"),
        ({"x": 0, "z": 1}, None, "2 rows each, 1 token ('y') only in 'a', 1 token ('z') only in 'b'"),
        ({f"<{i}>": i for i in range(4)}, None, "2 and 4 rows, 2 tokens ('x', 'y') only in 'a', 4 tokens ('<0>', '<1>', …) only in 'b'"),
    ],
)
def test_vocabularies_that_do_not_fit_are_told_of_before_any_work(ids: dict[str, int], rows: int | None, said: str) -> None:
    sources: list[Source] = [("none", None), ("a", Vocabulary({"x": 0, "y": 1}, rows=2)), ("b", Vocabulary(ids, rows=rows))]
    expected = [f"models 'a' and 'b' have different vocabularies: {said}; write tokenizer_source: union"] if said else []
    assert vocabulary_problems(sources) == expected
