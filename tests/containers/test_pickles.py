"""The static pickle reader: faithful to plain data of every protocol, and unmoved by hostile ones."""

import argparse
import collections
import datetime
import os
import pathlib
import pickle
import struct
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weightspace.containers import pickle_safety, pickled_numpy, pickles
from weightspace.containers.pickles import Call, Global, Opaque
from weightspace.errors import FormatError

PROTOCOLS = range(6)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
keys = st.text() | st.integers() | st.booleans() | st.none() | st.tuples(st.integers(), st.text())
plain = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4) | st.lists(inner, max_size=4).map(tuple),
    max_leaves=20,
)


@given(plain, st.sampled_from(PROTOCOLS))
@settings(max_examples=150, deadline=None)
def test_plain_data_reads_as_pickle_loads_it(value: Any, protocol: int) -> None:
    found = pickles.read(pickle.dumps(value, protocol))
    assert found.value == value
    assert found.end == len(pickle.dumps(value, protocol))
    assert all(pickle_safety.is_inert(one) for one in found.globals)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_containers_and_shared_objects(protocol: int) -> None:
    shared = [1, 2]
    value = {"o": collections.OrderedDict([("a", shared), ("b", shared)]), "d": collections.defaultdict(list, x=[3]), "s": {1, 2}}
    found = pickles.read(pickle.dumps(value, protocol)).value
    assert found["o"] == {"a": [1, 2], "b": [1, 2]}
    assert found["o"]["a"] is found["o"]["b"]
    assert found["d"] == {"x": [3]}
    made = found["s"]
    assert isinstance(made, Call) and sorted(made.items or made.args[0]) == [1, 2]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_objects_stay_descriptions(protocol: int) -> None:
    found = pickles.read(pickle.dumps(argparse.Namespace(lr=0.1, layers=[1, 2]), protocol))
    assert isinstance(found.value, Call)
    assert found.value.function == Global("argparse", "Namespace")
    assert found.value.state == {"lr": 0.1, "layers": [1, 2]}
    path = pickles.read(pickle.dumps(pathlib.PurePosixPath("a/b"), protocol)).value
    assert path.function.name == "PurePosixPath" and path.args == ("a", "b")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_numpy_arrays_and_scalars(protocol: int) -> None:
    for array in (np.arange(6, dtype=">f4").reshape(2, 3), np.asfortranarray(np.arange(6).reshape(2, 3)), np.array(True), np.zeros((0, 3))):
        found = pickles.read(pickle.dumps(array, protocol)).value
        assert pickled_numpy.is_array(found)
        np.testing.assert_array_equal(pickled_numpy.array(found), array)
        assert pickled_numpy.array(found).shape == array.shape
    number = pickles.read(pickle.dumps(np.float32(1.5), protocol)).value
    assert pickled_numpy.is_scalar(number) and pickled_numpy.scalar(number) == 1.5


def test_python_2_strings_that_are_not_text_stay_bytes() -> None:
    assert pickles.read(b"(U\x03abcU\x02\xff\x00t.").value == ("abc", b"\xff\x00")
    assert pickles.read(b"S'a\\x62'\n.").value == "ab"
    assert pickles.read(b"(lp0\nI01\naI00\naI7\naL8L\naF1.5\na.").value == [True, False, 7, 8, 1.5]


class Runs:
    """Unpickling it would call the given function."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.args


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("function", [os.system, eval, exec, open, getattr, subprocess.check_output, __import__, os.mkdir])
def test_nothing_runs_and_the_function_is_named(protocol: int, function: Any, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    argument = {open: str(canary), os.mkdir: str(canary), eval: f"open({str(canary)!r}, 'w')", exec: f"open({str(canary)!r}, 'w')"}
    data = pickle.dumps({"w": Runs(function, argument.get(function, f"touch {canary}"), *(["w"] if function is open else []))}, protocol)
    found = pickles.read(data)
    assert not canary.exists()
    with pytest.raises(FormatError, match=f"would run code: .*{function.__name__}") as caught:
        pickle_safety.refuse_code(found)
    assert caught.value.reason == "needs-code"


@pytest.mark.parametrize(
    ("module", "name", "dangerous"),
    [
        ("os", "system", True),
        ("torch.serialization", "os.system", True),
        ("builtins", "object.__subclasses__", True),
        ("builtins", "getattr", True),
        ("torch.hub", "load", True),
        ("torch", "load", True),
        ("torch.storage", "_load_from_bytes", True),
        ("types", "FunctionType", True),
        ("functools", "partial", True),
        ("builtins", "list", False),
        ("types", "SimpleNamespace", False),
        ("my.callbacks", "Callback", False),
        ("torch", "bfloat16", False),
        ("torch", "float4_e2m1fn_x2", False),
        ("torch._utils", "_rebuild_tensor_v2", False),
    ],
)
def test_what_is_dangerous(module: str, name: str, dangerous: bool) -> None:
    assert pickle_safety.is_dangerous(Global(module, name)) is dangerous


def test_unknown_functions_are_code_and_unknown_classes_are_foreign() -> None:
    called = pickles.read(b"cmy.code\nmake_thing\n(I1\ntR.")
    with pytest.raises(FormatError, match=r"would run code: my.code.make_thing; do not load it"):
        pickle_safety.refuse_code(called)
    inert = pickles.read(pickle.dumps({"when": datetime.date(2020, 1, 1), "log": Runs}))
    pickle_safety.refuse_code(inert)
    assert pickle_safety.foreign(inert) == [f"{__name__}.Runs"]


def test_calling_what_was_computed_is_code() -> None:
    data = b"cmy.code\nFactory\n(tR(tR."  # Factory()()
    with pytest.raises(FormatError, match="computed function"):
        pickle_safety.refuse_code(pickles.read(data))


def test_copyreg_extensions_are_code() -> None:
    with pytest.raises(FormatError, match=r"copyreg.extension 7"):
        pickle_safety.refuse_code(pickles.read(b"\x80\x02\x82\x07."))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "truncated"),
        (b"\x80\x02}q", "truncated"),
        (b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\xff", "truncated"),
        (b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc.", "truncated"),
        (b"\x80\x02\x8b\xff\xff\xff\xffabc.", "truncated"),
        (b".", "corrupt"),
        (b"\x80\x09.", "corrupt"),
        (b"\xf3.", "corrupt"),
        (b"h\x05.", "corrupt"),
        (b"I" + b"9" * 5000 + b"\n.", "corrupt"),
        (b"(I1\nd.", "corrupt"),
        (b"I1\nI2\nR.", "corrupt"),
        (b"N" * 200 + b"0" * 300 + b".", "corrupt"),
    ],
)
def test_damaged_pickles(data: bytes, reason: str) -> None:
    with pytest.raises(FormatError, match="its pickle") as caught:
        pickles.read(data)
    assert caught.value.reason == reason


def test_endless_pickles_are_stopped() -> None:
    with pytest.raises(FormatError, match="more than 1,000 steps") as caught:
        pickles.read(b"N0" * 1000 + b".", max_steps=1000)
    assert caught.value.reason == "hostile"


def test_a_huge_memo_index_costs_nothing() -> None:
    assert pickles.read(b"]r\xff\xff\xff\xff.").value == []
    assert pickles.read(b"]p99999999999\n.").value == []


def test_deep_keys_do_not_exhaust_the_stack() -> None:
    deep = b")" + b"\x85" * 200_000  # a tuple of a tuple of a tuple ...; hashing it would overflow the C stack
    (key,) = pickles.read(b"}" + deep + b"Ns.").value
    assert isinstance(key, Opaque)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_mutated_pickles_read_or_fail_in_one_line(data: st.DataObject) -> None:
    value = {"a": [1, 2.5, "x", b"y", (1, 2, 3)], "n": argparse.Namespace(k=np.arange(3)), "o": collections.OrderedDict(a=1)}
    raw = bytearray(pickle.dumps(value, data.draw(st.sampled_from(PROTOCOLS))))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    start = time.monotonic()
    try:
        pickles.read(bytes(raw))
    except FormatError as error:
        assert "\n" not in str(error) and error.reason in FormatError.REASONS
    assert time.monotonic() - start < 5


def test_named_lists_globals_as_far_as_a_pickle_can_be_read() -> None:
    data = pickle.dumps([collections.OrderedDict, struct.Struct])
    assert [one.name for one in pickles.named(data[:-3] + b"\xf3")] == ["OrderedDict", "Struct"]
