"""ONNX against the onnx package: every dtype and layout, external data, subgraphs, real exports, and hostile files."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import weightspace as ws
from weightspace import dtypes
from weightspace.errors import FormatError
from weightspace.formats import sniff as sniff_format
from weightspace.formats.onnx import sniff

FLOAT = TensorProto.FLOAT
VALUES = [0.0, 1.0, -2.0, 0.5, 3.0, -1.0]


def model(*initializers: Any, nodes: Any = (), **more: Any) -> Any:
    output = helper.make_tensor_value_info("y", FLOAT, ["batch", 2])
    inputs = [helper.make_tensor_value_info("x", FLOAT, [None, 3])]
    graph = helper.make_graph(list(nodes), "g", inputs, [output], initializer=list(initializers))
    return helper.make_model(graph, producer_name="test", opset_imports=[helper.make_opsetid("", 21)], **more)


def saved(made: Any, path: Path) -> Path:
    path.write_bytes(made.SerializeToString())
    return path


def array_of(checkpoint: ws.Checkpoint, name: str) -> np.ndarray[Any, Any]:
    info = checkpoint.info[name]
    raw = np.frombuffer(bytes(checkpoint.raw(name)), np.uint8)
    return dtypes.decode(raw, dtypes.dtype(info.dtype))[: info.numel].reshape(info.shape)


def tensor(name: str = "w", values: Any = VALUES, shape: tuple[int, ...] = (2, 3)) -> Any:
    return numpy_helper.from_array(np.array(values, np.float32).reshape(shape), name)


KINDS = sorted(set(TensorProto.DataType.values()) - {TensorProto.UNDEFINED, TensorProto.STRING})


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: TensorProto.DataType.Name(k))
@pytest.mark.parametrize("raw", [False, True], ids=["typed", "raw"])
def test_every_data_type_reads_as_the_onnx_package_reads_it(tmp_path: Path, kind: int, raw: bool) -> None:
    target = helper.tensor_dtype_to_np_dtype(kind)
    unsigned = np.dtype(target).kind == "u" or "uint" in str(target) or kind == TensorProto.FLOAT8E8M0
    array = np.abs(np.array(VALUES)).round() if unsigned or kind == TensorProto.BOOL else np.array(VALUES)
    if kind in (TensorProto.INT2, TensorProto.UINT2):
        array = np.clip(array, -2, 1 if kind == TensorProto.INT2 else 3)
    values = array.astype(target)
    one = numpy_helper.from_array(values.reshape(3, 2), "w") if raw else helper.make_tensor("w", kind, (3, 2), values.reshape(-1).tolist())
    assert one.HasField("raw_data") == raw
    found = ws.open(saved(model(one), tmp_path / "m.onnx"))
    expected = numpy_helper.to_array(one)
    exact = np.complex128 if expected.dtype.kind == "c" else np.float64
    np.testing.assert_array_equal(array_of(found, "w").astype(exact), expected.astype(exact))


def test_large_numbers_survive_the_varints(tmp_path: Path) -> None:
    big = np.array([-(2**63), 2**63 - 1, -1, 0, 300], np.int64)
    one = helper.make_tensor("w", TensorProto.INT64, (5,), big.tolist())
    small = helper.make_tensor("v", TensorProto.INT8, (3,), [-128, 127, -1])
    unsigned = helper.make_tensor("u", TensorProto.UINT64, (2,), [2**64 - 1, 7])
    found = ws.open(saved(model(one, small, unsigned), tmp_path / "m.onnx"))
    assert array_of(found, "w").tolist() == big.tolist()
    assert array_of(found, "v").tolist() == [-128, 127, -1]
    assert array_of(found, "u").tolist() == [2**64 - 1, 7]


def unpacked(number: int, kind: int, payloads: list[bytes]) -> bytes:
    return b"".join(bytes([number << 3 | kind]) + payload for payload in payloads)


@pytest.mark.parametrize(
    ("kind", "body", "expected"),
    [
        (TensorProto.FLOAT, unpacked(4, 5, [np.float32(v).tobytes() for v in (1.5, -2.0)]), [1.5, -2.0]),
        (TensorProto.DOUBLE, unpacked(10, 1, [np.float64(v).tobytes() for v in (1.5, -2.0)]), [1.5, -2.0]),
        (TensorProto.INT64, unpacked(7, 0, [b"\x05", b"\xac\x02"]), [5, 300]),
        (TensorProto.FLOAT, b"\x22\x04" + np.float32(1.5).tobytes() + b"\x22\x04" + np.float32(-2).tobytes(), [1.5, -2.0]),
    ],
)
def test_repeated_fields_may_be_unpacked_or_in_several_chunks(tmp_path: Path, kind: int, body: bytes, expected: list[float]) -> None:
    raw = b"\x08\x02\x10" + bytes([kind]) + body + b"\x42\x01w"
    initializer = b"\x2a" + bytes([len(raw)]) + raw
    path = tmp_path / "m.onnx"
    path.write_bytes(b"\x08\x08\x3a" + bytes([len(initializer)]) + initializer)
    onnx.load(str(path))
    assert array_of(ws.open(path), "w").tolist() == expected


def test_scalars_and_empty_tensors(tmp_path: Path) -> None:
    found = ws.open(saved(model(tensor("s", [4.0], ()), tensor("e", [], (0, 3))), tmp_path / "m.onnx"))
    assert found["s"].item() == 4.0 and found.info["e"].shape == (0, 3) and found["e"].shape == (0, 3)


def test_external_data_is_read_from_its_file(tmp_path: Path) -> None:
    first, second = np.arange(600, dtype=np.float32).reshape(20, 30), np.ones(700, np.float32)
    made = model(numpy_helper.from_array(first, "a"), numpy_helper.from_array(second, "b"))
    onnx.save_model(made, str(tmp_path / "m.onnx"), save_as_external_data=True, location="w.bin", size_threshold=0)
    found = ws.open(tmp_path / "m.onnx")
    np.testing.assert_array_equal(array_of(found, "a"), first)
    np.testing.assert_array_equal(array_of(found, "b"), second)
    assert found.files == (tmp_path / "m.onnx", tmp_path / "w.bin")
    inline = ws.open(saved(model(numpy_helper.from_array(first, "a"), numpy_helper.from_array(second, "b")), tmp_path / "i.onnx"))
    assert inline.id == found.id


def outside(**entries: str) -> Any:
    one = TensorProto(name="w", data_type=FLOAT, dims=[2, 3], data_location=TensorProto.EXTERNAL)
    for key, value in entries.items():
        one.external_data.add(key=key, value=value)
    return model(one)


@pytest.mark.parametrize(
    ("entries", "reason", "says"),
    [
        ({"location": "../secret.bin"}, "hostile", "outside its own folder"),
        ({"location": "/etc/hostname"}, "hostile", "outside its own folder"),
        ({}, "hostile", "outside its own folder"),
        ({"location": "gone.bin"}, "missing", "'gone.bin', which is not there"),
        ({"location": "w.bin", "offset": "20"}, "truncated", "expected 24 bytes at offset 20"),
        ({"location": "w.bin", "offset": "-1"}, "hostile", "at offset '-1'"),
        ({"location": "w.bin", "length": "9" * 18}, "truncated", "expected 999999999999999999 bytes"),
        ({"location": "w.bin", "length": "20"}, "corrupt", "needs 24 bytes, its file gives it 20"),
    ],
)
def test_external_data_outside_the_folder_or_its_file_is_refused(tmp_path: Path, entries: dict[str, str], reason: str, says: str) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(30))
    with pytest.raises(FormatError, match=says) as caught:
        ws.open(saved(outside(**entries), tmp_path / "m.onnx"))
    assert caught.value.reason == reason


def test_constants_with_more_than_one_element_are_tensors(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Constant", [], ["weights"], value=tensor("inner")),
        helper.make_node("Constant", [], ["scalar"], value=tensor("inner", [1.0], (1,))),
        helper.make_node("Constant", [], ["floats"], value_floats=[1.0, 2.5]),
        helper.make_node("Constant", [], ["ints"], value_ints=[1, -2, 300]),
        helper.make_node("Constant", [], ["one"], value_float=1.0),
        helper.make_node("ConstantOfShape", ["ints"], ["filled"], value=tensor("v", [1.0], (1,))),
    ]
    found = ws.open(saved(model(nodes=nodes), tmp_path / "m.onnx"))
    assert list(found) == ["weights", "floats", "ints"]
    assert array_of(found, "floats").tolist() == [1.0, 2.5] and array_of(found, "ints").tolist() == [1, -2, 300]


def test_subgraphs_and_functions_are_walked_with_their_path_in_the_name(tmp_path: Path) -> None:
    branches = {
        name: helper.make_graph([helper.make_node("Identity", ["w"], ["o"])], name, [], [], initializer=[tensor("w", [value] * 2, (2,))])
        for name, value in (("then_branch", 1.0), ("else_branch", 2.0))
    }
    function = helper.make_function(
        "local", "Act", ["a"], ["b"], [helper.make_node("Constant", [], ["k"], value=tensor())], [helper.make_opsetid("", 21)]
    )
    nodes = [helper.make_node("If", ["c"], ["y"], name="choose", **branches), helper.make_node("If", ["c"], ["z"], **branches)]
    found = ws.open(saved(model(tensor(), nodes=nodes, functions=[function]), tmp_path / "m.onnx"))
    assert set(found) == {
        "w", "choose.then_branch/w", "choose.else_branch/w", "If_1.then_branch/w", "If_1.else_branch/w", "Act/k",
    }  # fmt: skip
    assert array_of(found, "choose.else_branch/w").tolist() == [2.0, 2.0]


def test_training_information_stays_apart(tmp_path: Path) -> None:
    made = model(tensor())
    made.training_info.add().algorithm.CopyFrom(helper.make_graph([], "adam", [], [], initializer=[tensor("momentum")]))
    found = ws.open(saved(made, tmp_path / "m.onnx"))
    assert list(found) == ["w"] and list(found.extras) == ["training/momentum"]


def test_metadata_says_what_the_model_says_of_itself(tmp_path: Path) -> None:
    made = model(tensor())
    made.metadata_props.add(key="author", value="someone")
    assert ws.open(saved(made, tmp_path / "m.onnx")).metadata == {
        "ir_version": made.ir_version,
        "producer_name": "test",
        "graph": "g",
        "inputs": [{"name": "x", "dtype": "F32", "shape": [None, 3]}],
        "outputs": [{"name": "y", "dtype": "F32", "shape": ["batch", 2]}],
        "opset": {"": 21},
        "properties": {"author": "someone"},
    }


def sparse() -> Any:
    made = model()
    made.graph.sparse_initializer.add(values=tensor("w", [1.0], (1,)), indices=helper.make_tensor("i", 7, (1,), [2]), dims=[5])
    return made


def field(number: int, payload: bytes) -> bytes:
    length, raw = len(payload), b""
    while length > 127:
        raw, length = raw + bytes([length & 127 | 128]), length >> 7
    return bytes([number << 3 | 2]) + raw + bytes([length]) + payload


class Nested:
    """A Loop in a Loop in a Loop, deeper than the onnx package itself can build."""

    def SerializeToString(self) -> bytes:
        graph = field(2, b"leaf")
        for _ in range(40):
            graph = field(1, field(4, b"Loop") + field(5, field(1, b"body") + field(6, graph)))
        return b"\x08\x08" + field(7, graph)


def claiming(**fields: Any) -> Any:
    return model(TensorProto(**{"name": "w", "data_type": FLOAT, "dims": [2, 3], "raw_data": bytes(24)} | fields))


@pytest.mark.parametrize(
    ("made", "reason", "says"),
    [
        (lambda: model(tensor(), tensor()), "hostile", "the tensor 'w' stands twice"),
        (sparse, "unsupported", "has sparse initialisers; store them dense"),
        (Nested, "hostile", "graphs nest deeper than 32"),
        (lambda: claiming(data_type=99), "unsupported", "unknown data type 99"),
        (lambda: claiming(dims=[-1, 3]), "hostile", r"has shape \(-1, 3\)"),
        (lambda: claiming(dims=[1] * 70), "hostile", "has shape"),
        (lambda: claiming(dims=[2**40, 2**40]), "corrupt", "its file gives it 24"),
        (lambda: claiming(raw_data=None, dims=[2**40], float_data=[1.0]), "corrupt", "needs 1099511627776 numbers, its field 4 has 1"),
        (lambda: claiming(raw_data=None, data_type=7, int64_data=[1, 2]), "corrupt", "needs 6 numbers, its field 7 has 2"),
        (lambda: claiming(segment=TensorProto.Segment(begin=0, end=1)), "unsupported", "tensors in segments"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(tmp_path: Path, made: Any, reason: str, says: str) -> None:
    path = saved(made(), tmp_path / "m.onnx")
    with pytest.raises(FormatError, match=says) as caught:
        ws.open(path)
    assert caught.value.reason == reason and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_absurdly_many_fields_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weightspace.containers.wire.MAX_FIELDS", 20)
    path = saved(model(tensor("a"), tensor("b"), tensor("c"), tensor("d")), tmp_path / "m.onnx")
    with pytest.raises(FormatError, match="more than 20 protobuf fields"):
        ws.open(path)


def test_every_truncation_is_an_error(tmp_path: Path) -> None:
    whole = model(tensor("a"), tensor("b"), nodes=[helper.make_node("Relu", ["x"], ["y"], name="n")]).SerializeToString()
    path = tmp_path / "m.onnx"
    opset = whole.rindex(b"B")
    for length in range(opset):
        path.write_bytes(whole[:length])
        with pytest.raises(FormatError):
            ws.open(path)


def test_mutations_give_a_checkpoint_or_one_clear_error(tmp_path: Path) -> None:
    whole = bytearray(model(tensor("a"), helper.make_tensor("i", 7, (4,), [1, 2, 3, 400])).SerializeToString())
    random, path, refused = np.random.default_rng(0), tmp_path / "m.onnx", 0
    for _ in range(400):
        broken = bytearray(whole)
        for at in random.integers(0, len(whole), random.integers(1, 4)):
            broken[at] = random.integers(0, 256)
        path.write_bytes(broken)
        try:
            assert ws.open(path).id
        except FormatError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 50


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"plain text\nwith lines\n",
        b"1.0,2.0,3.0\n" * 20,
        b"\x1f\x8b\x08\x00" + bytes(40),
        b"\x89PNG\r\n\x1a\n" + bytes(60),
        b"\x80\x04\x95\x0a\x00" + bytes(40),
        b"\x08\x01\x12\x20\x0a\x06\x12\x04\xff\xfe\x00\x01" + bytes(30),  # a TensorFlow SavedModel begins alike
        b"\x08\x01\x00\x00\x00\x00\x00\x00{}",
        bytes(range(8, 200)),
    ],
)
def test_other_files_are_not_taken_for_onnx(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert not sniff(path, content[:4096])


def test_a_long_producer_text_before_the_graph_is_no_obstacle(tmp_path: Path) -> None:
    path = saved(model(tensor(), doc_string="words " * 2000), tmp_path / "noext")
    found = sniff_format(path)
    assert found is not None and found.name == "onnx" and list(ws.open(path)) == ["w"]


def test_real_exports_agree_with_the_onnx_package(real_checkpoints: Path) -> None:
    paths = sorted(real_checkpoints.rglob("*.onnx"))
    assert len(paths) == 29
    stated = {"ACASXU": "13.3k", "silero": "0.3M", "en": "1.0M"}
    for path in paths:
        found, reference = ws.open(path), onnx.load(str(path))
        for one in reference.graph.initializer:
            np.testing.assert_array_equal(array_of(found, one.name), numpy_helper.to_array(one))
        size = next(size for start, size in stated.items() if path.name.startswith(start))
        count = found.num_params
        assert size == (f"{count / 1e3:.1f}k" if size.endswith("k") else f"{count / 1e6:.1f}M"), path


def test_no_other_real_file_is_taken_for_onnx(real_checkpoints: Path) -> None:
    for path in real_checkpoints.rglob("*"):
        if path.is_file() and path.suffix != ".onnx":
            with path.open("rb") as stream:
                assert not sniff(path, stream.read(4096)), path
