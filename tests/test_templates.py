"""Names with variables: what they match, what they are filled in with, and which rows must be there."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weightspace.errors import SymmetryError
from weightspace.templates import Row, Template, escaped, expand, fill


class TestMatch:
    @pytest.mark.parametrize(
        ("template", "name", "bindings"),
        [
            ("layers.{i}.fc.weight", "layers.12.fc.weight", {"i": "12"}),
            ("layers.{i}.fc.weight", "layers.x.fc.weight", None),
            ("layers.{i}.fc.weight", "layers.01.fc.weight", None),
            ("layers.{i}.fc.weight", "layers.1.fc.weight.more", None),
            ("{tower:text|vision}.{i}", "vision.0", {"tower": "vision", "i": "0"}),
            ("{tower:text|vision}.{i}", "audio.0", None),
            ("a{i}.b{i}", "a1.b1", {"i": "1"}),
            ("a{i}.b{i}", "a1.b2", None),
            ("{*}.running_mean", "layer1.0.bn1.running_mean", {}),
            ("a{{i}}", "a{i}", {}),
            ("a.b", "axb", None),
        ],
    )
    def test_says_the_values(self, template: str, name: str, bindings: dict[str, str] | None) -> None:
        assert Template(template).match(name) == bindings

    @settings(deadline=None)
    @given(st.text())
    def test_escaped_name_stands_for_itself_alone(self, name: str) -> None:
        template = Template(escaped(name))
        assert template.is_plain and template.name == name and template.match(name) == {}

    def test_stray_brace_is_told(self) -> None:
        with pytest.raises(SymmetryError, match=re.escape("name 'a{i' has a '{' that is no variable; double it if it is meant")):
            Template("a{i").match("a1")

    @pytest.mark.parametrize(
        ("name", "prefix"), [("h.3.w", ""), ("model.h.3.w", "model."), ("a.b.h.3.w", "a.b."), ("xh.3.w", None), ("h.3.w.x", None)]
    )
    def test_what_stands_before(self, name: str, prefix: str | None) -> None:
        assert Template("h.{i}.w").ends(name) == prefix


class TestFill:
    @pytest.mark.parametrize(
        ("text", "made"), [("h{i} h{i-1}'", "h2 h1'"), ("h{i+10}", "h12"), ("{tower}.{i}", "text.2"), ("last{i!}", "last7"), ("3 x", "3 x")]
    )
    def test_counts(self, text: str, made: str) -> None:
        assert fill(text, {"i": "2", "tower": "text"}, {"i": 7}) == made

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("h{i-1}", "'h{i-1}' counts to 0-1 for i = 0; write a row of its own for that one"),
            ("h{j}", "'h{j}' has the variable 'j', which nothing gives a value; use it in the tensor's name"),
            ("h{", "'h{' has a '{' that is no variable; write '{i}', '{i+1}', '{i-1}' or '{i!}'"),
            ("h{{", "'h{{' has a '{' that is no variable"),
        ],
    )
    def test_mistakes_are_told(self, text: str, message: str) -> None:
        with pytest.raises(SymmetryError, match=re.escape(message)):
            fill(text, {"i": "0"})


def rows(**given: str) -> list[Row]:
    return [Row.of(name, axes) for name, axes in given.items()]


class TestExpand:
    def test_plain_rows_come_before_templates_and_those_in_order(self) -> None:
        given = {"l.{i}.w": "general", "l.1.w": "plain", "l.{i}.{x:w|v}": "later", "{*}?": "rest"}
        names = ["l.0.w", "l.1.w", "l.0.v", "l.1.v", "else"]
        made = expand([Row.of(name, axes) for name, axes in given.items()], names)
        assert made == {"l.0.w": "general", "l.1.w": "plain", "l.0.v": "later", "l.1.v": "later", "else": "rest"}

    def test_the_last_of_a_number(self) -> None:
        assert expand(rows(**{"s.{i}": "s{i}", "head": "s{i!}"}), ["head", "s.0", "s.10", "s.9"])["head"] == "s10"

    def test_optional_rows_may_be_absent(self) -> None:
        given = rows(**{"l.{i}.w": "h", "l.{i}.b?": "h", "bias?": "h"})
        assert set(expand(given, ["l.0.w", "l.1.w", "l.1.b"])) == {"l.0.w", "l.1.w", "l.1.b"}

    @pytest.mark.parametrize(
        ("given", "names", "message"),
        [
            ({"a": "h"}, ["b"], "the spec has a row for tensor 'a', which is not there"),
            ({"l.{i}": "h"}, ["b"], "the spec has a row for tensors 'l.{i}', and there is none; take"),
            ({"l.{i}.w": "h", "l.{i}.b": "h"}, ["l.0.w", "l.0.b", "l.1.w"], "'l.{i}.b', and there is none for i = 1, where 'l.1.w' is"),
            ({"l.{i}.w": "h", "l.{i}.{x:b|c}": "h"}, ["l.0.w", "l.0.b", "l.1.w"], "'l.{i}.{x:b|c}', and there is none for i = 1"),
        ],
    )
    def test_what_is_missing_is_told(self, given: dict[str, str], names: list[str], message: str) -> None:
        with pytest.raises(SymmetryError, match=re.escape(message)):
            expand(rows(**given), names)

    def test_an_exception_need_not_be_there_for_all(self) -> None:
        # The first block reads what came before; a shortcut stands where the stage changes alone.
        given = rows(**{"l1.{b}": "first", "l{s}.0": "changes", "l{s}.{b}": "same", "short{s}.0": "short"})
        assert expand(given, ["l1.0", "l1.1", "l2.0", "l2.1", "short2.0"])["l2.0"] == "changes"

    @settings(deadline=None)
    @given(st.text(), st.booleans())
    def test_question_marks_are_kept(self, name: str, is_optional: bool) -> None:
        row = Row.of(Row.named(name) + "?" * is_optional, "h")
        assert row.template.name == name and row.is_optional == is_optional
