"""Specs as text: reading back what was written, templates and sizes filled in from a checkpoint, and messages for what is malformed."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

import weightspace as ws
from weightspace.axes import Leaf, show
from weightspace.errors import ShapeMismatchError, SymmetryError, UnknownNameError, WeightSpaceError
from weightspace.spec import NeuronGroup, SymmetrySpec
from weightspace.spec_text import read, write

GROUPS = st.sampled_from(["h", "_", "layers.0.mlp", "a1", "yes", "null", "n.1e3"])
FIELDS = st.fixed_dictionaries(
    {"size": st.integers(0, 5)},
    optional={
        "kind": st.sampled_from(["permutable", "fixed"]),
        "symmetry": st.sampled_from(["none", "sign", "scale", "orthogonal", "linear"]),
    },
)


@st.composite
def drafts(draw: st.DrawFn) -> dict[str, Any]:
    """What `SymmetrySpec.parse` takes: groups of most symmetries, axes of all forms, names of all characters."""
    groups = draw(st.dictionaries(GROUPS, FIELDS, min_size=1))
    leaf = st.sampled_from([*groups, *(f"{name}'" for name in groups)]) | st.integers(1, 9).map(str)
    axis = st.recursive(
        leaf, lambda inner: st.tuples(inner, inner).map(lambda p: f"({p[0]} {p[1]})") | st.tuples(inner, inner).map(" + ".join)
    )
    tensors = draw(st.dictionaries(st.text(max_size=8), st.lists(axis, max_size=3).map(" ".join), min_size=1, max_size=4))
    owners = st.sampled_from(list(tensors))
    return {
        "tensors": tensors,
        "groups": groups,
        "aliases": draw(st.dictionaries(st.text(max_size=8).filter(lambda name: name not in tensors), owners, max_size=2)),
        "statistics": draw(st.lists(owners, max_size=2)),
        "gains": draw(st.dictionaries(owners, st.lists(owners, max_size=2, unique=True), max_size=2)),
    }


class TestRoundTrip:
    @settings(deadline=None)
    @example({"tensors": {"\x85a": "3"}}, [])  # a line break to YAML alone
    @given(drafts(), st.lists(st.text(max_size=5), max_size=1))
    def test_what_was_written_reads_back_equal(self, draft: dict[str, Any], notes: list[str]) -> None:
        spec = replace(SymmetrySpec.parse(**draft), notes=tuple(notes))
        again = read(write(spec))
        assert again == spec and again.notes == spec.notes
        assert list(again.tensors) == list(spec.tensors) and list(again.groups) == list(spec.groups)

    @settings(deadline=None)
    @given(drafts())
    def test_what_was_written_is_json_too(self, draft: dict[str, Any]) -> None:
        spec = SymmetrySpec.parse(**draft)
        assert read(json.dumps(yaml.safe_load(write(spec)))) == spec

    def test_a_spec_of_no_tensors(self) -> None:
        for spec in (SymmetrySpec.parse({}), SymmetrySpec.parse({}, groups={"h": {"size": 3}})):
            assert read(write(spec)) == spec and not spec.tensors

    def test_text_of_one_line_is_no_path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        spec = SymmetrySpec.parse({"a": "h"}, sizes={"h": 2})
        text = "{groups: {h: 2}, tensors: {a: h}}"
        assert read(text) == read(f" {text}") == read(f"--- {text}") == spec
        assert not read("tensors: {}").tensors
        with pytest.raises(SymmetryError, match="the spec has no rows under 'tensors'"):
            read(f"groups: {{h: {'x' * 5000}}}")  # longer than a name of a file may be
        monkeypatch.chdir(tmp_path)
        (tmp_path / "a: b").write_text(write(spec))
        assert read("a: b") == spec

    def test_nested_groups_and_rotations(self) -> None:
        spec = SymmetrySpec.parse(
            {"q": "(kv rep (f + f)) d'", "k": "(kv (f' + f')) d'"},
            sizes={"d": 4},
            groups={
                "kv": {"size": 2}, "rep": {"size": 3, "per": "kv"}, "f": {"size": 2, "kind": "fixed", "symmetry": "rotation", "per": "kv"},
            },
        )  # fmt: skip
        assert read(write(spec)) == spec

    def test_a_file_cannot_claim_a_proof(self) -> None:
        spec = SymmetrySpec({"h": NeuronGroup("h", 2)}, {"b": (Leaf("h"),)}, proved=True)
        assert "proved: true" in write(spec) and not read(write(spec)).proved

    def test_groups_stand_on_a_line_each_and_tensors_too(self) -> None:
        spec = SymmetrySpec.parse({"a": "h 3", "b": "2 h'"}, sizes={"h": 8})
        assert write(spec) == "groups:\n  h: {size: 8}\ntensors:\n  a: h 3\n  b: 2 h'\n"

    def test_reads_a_file(self, tmp_path: Path) -> None:
        spec = SymmetrySpec.parse({"a": "h"}, sizes={"h": 8})
        (tmp_path / "spec.yaml").write_text(write(spec))
        assert read(tmp_path / "spec.yaml") == read(str(tmp_path / "spec.yaml")) == spec
        assert SymmetrySpec.from_yaml(tmp_path / "spec.yaml") == spec


def state(**shapes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


MLP = state(**{"l.0.w": (8, 3), "l.0.b": (8,), "l.1.w": (5, 8), "l.2.w": (2, 5)})


class TestCheckpoint:
    def test_templates_sizes_and_blanks_come_from_it(self) -> None:
        spec = read("groups: {'h{i}': {}}\ntensors:\n  l.0.w: h0 _\n  l.2.w: _ h1'\n  l.{i}.w: h{i} h{i-1}'\n  l.{i}.b?: h{i}\n", MLP)
        assert {name: show(axes) for name, axes in spec.tensors.items()} == {
            "l.0.w": "h0 3", "l.0.b": "h0", "l.1.w": "h1 h0'", "l.2.w": "2 h1'",
        }  # fmt: skip
        assert spec.sizes == {"h0": 8, "h1": 5}

    @pytest.mark.parametrize(
        ("axes", "shape", "sizes"),
        [
            ("(a b)", (12,), {"a": 3, "b": 4}),
            ("a + b", (12,), {"a": 3, "b": 9}),
            ("(a (b + b))", (12,), {"a": 3, "b": 2}),
            ("b + a + b", (13,), {"a": 3, "b": 5}),
            ("(b b)", (16,), {"a": 3, "b": 4}),
            ("(a _ b)", (12,), {"a": 3, "b": 2}),
        ],
    )
    def test_sizes_are_solved(self, axes: str, shape: tuple[int, ...], sizes: Mapping[str, int]) -> None:
        more = ["b"] if "_" in axes else []
        given = {"t": torch.zeros(shape), "a": torch.zeros(3)} | dict.fromkeys(more, torch.zeros(2))
        document = {"groups": {"a": {}, "b": {}}, "tensors": {"t": axes, "a": "a"} | dict.fromkeys(more, "b")}
        spec = read(json.dumps(document), given)
        assert dict(spec.sizes) == dict(sizes)

    def test_as_large_as_another_group(self) -> None:
        spec = read("groups: {a: 4, p: {size: q}, q: {}}\ntensors: {x: a, y: p + a + q}\n", state(x=(4,), y=(10,)))
        assert spec.sizes == {"a": 4, "p": 3, "q": 3}

    def test_a_group_without_members_is_left_out(self) -> None:
        spec = read("groups: {a: 4, b: {}}\ntensors: {x: a, y: a + b}\n", state(x=(4,), y=(4,)))
        assert spec.sizes == {"a": 4} and show(spec.tensors["y"]) == "a"

    def test_configuration_tells_what_shapes_do_not(self, tmp_path: Path) -> None:
        text = "groups: {head: {size: [num_heads, width * share / text.depth]}, dk: {}}\ntensors: {q: (head dk)}\n"
        assert read(text, state(q=(12,)), {"num_heads": 3}).sizes == {"head": 3, "dk": 4}
        assert read(text, state(q=(12,)), {"width": 24, "share": 0.25, "text": {"depth": 3}}).sizes == {"head": 2, "dk": 6}
        assert read(text, state(q=(12,)), {"head": 6}).sizes == {"head": 6, "dk": 2}
        path = ws.save(state(q=(12,)), tmp_path / "model.safetensors", {})
        (tmp_path / "config.json").write_text('{"num_heads": 4}')
        spec = read(text, ws.open(path))
        assert spec.sizes == {"head": 4, "dk": 3} and spec.notes == ("configuration: num_heads = 4",)

    def test_symmetry_by_the_configuration(self) -> None:
        text = "groups: {h: {symmetry: {act: {relu: scale, tanh: sign}}}}\ntensors: {b: h}\n"
        found = [
            read(text, state(b=(3,)), config).groups["h"].symmetry for config in ({"act": "relu"}, {"act": "tanh"}, {"act": "gelu"}, {})
        ]
        assert found == ["scale", "sign", "none", "none"]

    def test_ties_make_groups_one(self) -> None:
        text = "groups: {d: {}, t: {}}\ntensors:\n  e: _ d\n  h: t d'\n  o?: _ t'\naliases: {o: e}\n"
        weight = torch.zeros(7, 4)
        tied = read(text, {"e": weight, "h": torch.zeros(4, 4), "o": weight})
        assert dict(tied.aliases) == {"o": "e"} and list(tied.groups) == ["d"] and show(tied.tensors["h"]) == "d d'"
        absent = read(text, {"e": weight, "h": torch.zeros(4, 4)})
        assert list(absent.groups) == ["d"] and not absent.aliases
        untied = read(text, {"e": weight, "h": torch.zeros(4, 4), "o": weight.clone()})
        assert list(untied.groups) == ["d", "t"] and not untied.aliases

    def test_statistics_by_template(self) -> None:
        spec = read(
            'groups: {h: {}}\ntensors: {"{*}": h}\nstatistics: ["{*}.running_mean"]\n', state(**{"a.running_mean": (3,), "a.gain": (3,)})
        )
        assert spec.statistics == {"a.running_mean"}

    def test_gains_by_template(self) -> None:
        text = (
            "groups: {d: {}, m: {}}\n"
            "tensors:\n  l.{i}.norm: d\n  l.{i}.up: m d'\n  last: d\n  e: _ d'\n  o?: _ d'\naliases: {o: e}\n"
            "gains: {'l.{i}.norm': ['l.{i}.up'], last: [o, e]}\n"
        )
        shapes = {"l.0.norm": (2,), "l.0.up": (3, 2), "l.1.norm": (2,), "l.1.up": (3, 2), "last": (2,), "e": (5, 2)}
        spec = read(text, state(**shapes))
        assert dict(spec.gains) == {"l.0.norm": ("l.0.up",), "l.1.norm": ("l.1.up",), "last": ("e",)}
        assert read(write(spec)) == spec

    def test_statistics_of_an_optional_row_may_be_absent(self) -> None:
        text = "groups: {h: {}}\ntensors:\n  a: h\n  b?: h\nstatistics: [b]\n"
        assert read(text, state(a=(2,), b=(2,))).statistics == {"b"}
        assert not read(text, state(a=(2,))).statistics

    def test_integer_tensors_need_no_row(self) -> None:
        assert read("groups: {h: {}}\ntensors: {b: h}\n", state(b=(3,)) | {"n": torch.tensor(3)}).sizes == {"h": 3}


PLAIN = "groups: {h: 2}\n"
MALFORMED: dict[str, tuple[str, str]] = {
    "not yaml": ("a: [\n", "the spec is neither YAML nor JSON (while parsing"),
    "code": ("tensors: !!python/object/apply:os.system [ls]\n", "could not determine a constructor for the tag"),
    "two names": (PLAIN + "tensors: {a: h, a: h}\n", "the spec: 'a' comes twice; remove one"),
    "two names in JSON": ('{"tensors": {"a": "h", "a": "h"}}', "the spec: 'a' comes twice; remove one"),
    "a list": ("- 1\n- 2\n", "the spec holds a list; expected a mapping with 'groups' and 'tensors'"),
    "nothing": ("\n", "the text of the spec is empty; give the path of a YAML or JSON file, or its text"),
    "two documents": ("a: 1\n---\nb: 1\n", "the spec holds 2 documents; expected one spec"),
    "unknown part": (
        PLAIN + "tensor: {a: h}\n",
        "the spec has a part 'tensor'; expected groups, tensors, aliases, statistics, gains, notes, proved",
    ),
    "no rows": (PLAIN + "tensors:\n", "the spec has no rows under 'tensors'; write the axes of each tensor there"),
    "rows as a list": (PLAIN + "tensors: [a, b]\n", "the spec: 'tensors' is a list; expected names with what is said of them"),
    "a number for a name": (PLAIN + "tensors: {1: h}\n", "the spec: a name under 'tensors' is 1; expected text, so put it into quotes"),
    "a list for axes": (PLAIN + "tensors: {a: [h, h]}\n", "the axes of tensor 'a' are ['h', 'h']; expected text such as 'h in'"),
    "axes": (PLAIN + "tensors: {a: (h}\n", "axes '(h' have a '(' that nothing closes; add ')'"),
    "unknown field": ("groups: {h: {sise: 2}}\ntensors: {a: h}\n", "group 'h' has a field 'sise'; expected size, kind, symmetry or per"),
    "field": (
        "groups: {h: {size: 2.5}}\ntensors: {a: h}\n",
        "'size' of group 'h' is 2.5; expected a whole number, or names of the configuration",
    ),
    "group as text": (
        "groups: {h: big}\ntensors: {a: h}\n",
        "group 'h' is 'big'; expected its size, or a mapping of size, kind, symmetry and per",
    ),
    "kind": ("groups: {h: {size: 2, kind: loose}}\ntensors: {a: h}\n", "'kind' of group 'h' is 'loose'; expected permutable or fixed"),
    "no size": ("groups: {h: {}}\ntensors: {a: h}\n", "nothing tells the size of group 'h'; write 'size:', or give a checkpoint"),
    "template": (PLAIN + 'tensors: {"a{i}": h}\n', "the row of tensor 'a{i}' has variables; give a checkpoint to fill it in from"),
    "optional": (PLAIN + "tensors:\n  a?: h\n", "the row of tensor 'a' is optional; give a checkpoint to fill it in from"),
    "blank": (PLAIN + "tensors: {a: h _}\n", "the row of tensor 'a' has a blank '_'; give a checkpoint to fill it in from"),
    "statistics": (PLAIN + "tensors: {a: h}\nstatistics: a\n", "'statistics' is a str; expected a list of tensor names"),
    "empty": ("", "the text of the spec is empty; give the path of a YAML or JSON file, or its text"),
    "comments": ("# a\n# b\n", "the spec holds 0 documents; expected one spec"),
    "unknown statistics": (PLAIN + "tensors: {a: h}\nstatistics: [b]\n", "no tensor (of 'statistics') named 'b' (known: a)"),
    "notes": (PLAIN + "tensors: {a: h}\nnotes: 3\n", "the spec: 'notes' is 3; expected a list of lines"),
    "gains": (PLAIN + "tensors: {a: h}\ngains: [a]\n", "the spec: 'gains' is a list; expected names with what is said of them"),
    "readers": (PLAIN + "tensors: {a: h}\ngains: {a: b}\n", "the spec: gain 'a' is a str; expected a list of tensor names"),
    "unknown reader": (PLAIN + "tensors: {a: h}\ngains: {a: [b]}\n", "gain 'a' is read by tensors of which 'b' has no row in the spec"),
    "power": (PLAIN + "tensors: {a: h^99999}\n", "axes 'h^99999' have the power 99999 at 'h'; expected at most 8"),
    "alias": (PLAIN + "tensors: {a: h}\naliases: {b: c}\n", "tensor 'b' is tied to 'c', which needs a row in the spec"),
}


class TestMessages:
    @pytest.mark.parametrize("case", MALFORMED)
    def test_what_is_malformed_is_told_in_one_line(self, case: str) -> None:
        text, message = MALFORMED[case]
        with pytest.raises(WeightSpaceError, match=re.escape(message)) as error:
            read(text)
        assert "\n" not in str(error.value)

    def test_deep_nesting_is_told(self) -> None:
        with pytest.raises(SymmetryError, match="neither YAML nor JSON"):
            read("{" + "[" * 100_000)

    def test_unknown_group_is_told(self) -> None:
        with pytest.raises(UnknownNameError, match=r"no neuron group .*named 'g'.*known: h"):
            read(PLAIN + "tensors: {a: g}\n")
        with pytest.raises(UnknownNameError, match=re.escape("no neuron group (the spec) named 'g'")):
            read(PLAIN + "tensors: {a: g}\n", state(a=(2,)))

    def test_missing_file_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(SymmetryError, match=r"gone.yaml cannot be read as a spec \(No such file or directory\); give the path"):
            read(tmp_path / "gone.yaml")
        (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\xff")
        with pytest.raises(SymmetryError, match=r"cannot be read as a spec \(not UTF-8 text\)"):
            read(tmp_path / "bytes.yaml")

    @pytest.mark.parametrize(
        ("groups", "axes", "kind", "message"),
        [
            ({"a": 5, "b": {}}, "(a b)", ShapeMismatchError, "tensor 't' axis 0 ('(a b)') has size 12, which no size of 'b' gives with a = 5"),
            ({"a": {}, "b": {}}, "(a b)", SymmetryError, "the shapes do not tell the size of group 'a'; write its size, or give sizes={'a': ...}"),
            ({"a": {"size": "heads"}, "b": {}}, "(a b)", SymmetryError, "'heads' is in no config.json beside it: add one, or give sizes={'heads': ...}"),
            ({"a": 12}, "a a", ShapeMismatchError, "tensor 't' has 1 axes (shape [12]), but the spec says 'a a'; correct the spec"),
            ({"a": 3}, "(a _ _)", SymmetryError, "tensor 't' axis 0 ('(a _ _)') has 2 blanks; give all but one a name"),
            ({"a": 11}, "a", ShapeMismatchError, "tensor 't' axis 0 ('a') has size 12, but the spec says 11; correct the sizes"),
        ],
    )  # fmt: skip
    def test_sizes_that_do_not_fit_are_told(self, groups: Mapping[str, Any], axes: str, kind: type[WeightSpaceError], message: str) -> None:
        with pytest.raises(kind, match=re.escape(message)):
            read(json.dumps({"groups": groups, "tensors": {"t": axes}}), state(t=(12,)))

    def test_configuration_that_is_no_number_is_told(self) -> None:
        text = "groups: {a: {size: width / n}, b: {}}\ntensors: {t: (a b)}\n"
        with pytest.raises(SymmetryError, match="'width' is 'wide' in the configuration; expected a number"):
            read(text, state(t=(12,)), {"width": "wide", "n": 1})
        with pytest.raises(SymmetryError, match="'n' is 0 in the configuration, and 'width / n' divides by it; correct it"):
            read(text, state(t=(12,)), {"width": 4, "n": 0})

    def test_damaged_configuration_is_told(self, tmp_path: Path) -> None:
        path = ws.save(state(t=(12,)), tmp_path / "model.safetensors", {})
        (tmp_path / "config.json").write_text("{")
        with pytest.raises(WeightSpaceError, match=r"config\.json cannot be read as JSON"):
            read("groups: {a: {size: heads}, b: {}}\ntensors: {t: (a b)}\n", ws.open(path))

    def test_tied_rows_of_another_form_are_told(self) -> None:
        weight = torch.zeros(4, 4)
        with pytest.raises(SymmetryError, match="tensor 'b' is tied to 'a', but their axes differ in form"):
            read("groups: {d: {}, t: {}}\ntensors: {a: _ d, b: t d}\n", {"a": weight, "b": weight})
