import math
import sys
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from weightspace import dtypes, identity
from weightspace.checkpoint import Checkpoint, TensorInfo
from weightspace.dtypes import DTYPES
from weightspace.storage import FileSpan, Memory, SourceFile, Storage
from weightspace.zoo import measure as module
from weightspace.zoo.measure import Measure, Statistics, measure, measure_many
from weightspace.zoo.moments import ROW

PLAIN = sorted(name for name, kind in DTYPES.items() if kind.kind != "quantized")
# Summed in float32 over rows of 8192 in long blocks: at worst some hundred roundings of 6e-8 follow one another, as when one outlier
# outweighs all the rest of its row.
ROUNDED = {"F32": 2e-5, "F16": 2e-5, "BF16": 2e-5}
numpy_dtypes = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}


def bf16(values: npt.ArrayLike) -> bytes:
    return (np.asarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()


def encode(values: npt.ArrayLike, name: str) -> bytes:
    with np.errstate(over="ignore"):
        return bf16(values) if name == "BF16" else np.asarray(values).astype(numpy_dtypes[name]).tobytes()


def of(raw: bytes, name: str, count: int) -> Measure:
    return measure(TensorInfo("w", name, (count,)), Memory(raw))


def of_values(values: npt.ArrayLike, name: str = "F32") -> Statistics:
    return of(encode(values, name), name, np.size(values)).statistics


def numbers(raw: bytes, name: str, count: int) -> npt.NDArray[Any]:
    kind = dtypes.dtype(name)
    data = np.frombuffer(raw, np.uint8)
    return (data != 0 if kind.kind == "bool" else dtypes.decode(data, kind))[:count]


def reference(values: npt.NDArray[Any]) -> dict[str, float]:
    """The obvious way: two passes, in extended precision, whose range no square or fourth power of a float64 leaves."""
    nan, inf = np.isnan(values), np.isinf(values) & ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        made = {"num_zero": float(np.sum(values == 0)), "num_nan": float(nan.sum()), "num_inf": float(inf.sum())}
    # Through float64, to which the longest integers are rounded.
    finite = values[np.isfinite(values)].astype(np.float64).astype(np.longdouble) if not np.iscomplexobj(values) else values[:0]
    if finite.size:
        mean = finite.mean()
        distance = finite - mean
        variance = np.mean(distance**2)
        made |= {"minimum": finite.min(), "maximum": finite.max(), "mean": mean, "std": np.sqrt(variance)}
        made |= {"l1": np.abs(finite).sum(), "l2": np.sqrt((finite * finite).sum())}
        if finite.min() < finite.max():
            made |= {"skewness": np.mean(distance**3) / variance**1.5, "kurtosis": np.mean(distance**4) / variance**2}
    return made


def assert_close(found: Statistics, values: npt.NDArray[Any], precision: float) -> None:
    expected = reference(values)
    scale = max((abs(float(expected.get(key, 0))) for key in ("minimum", "maximum")), default=0.0)
    # What rounding of the mean alone does to the spread: nobody needs a better std of numbers that agree in all digits.
    spread = float(expected.get("std", 0))
    lost = 4e-16 * scale / spread if spread > 0 else 0.0
    for key in (field.name for field in fields(Statistics)):
        value, right = getattr(found, key), expected.get(key)
        assert value is None or math.isfinite(value), key
        if right is None:
            assert value is None, key
        elif key.startswith("num") or key in ("minimum", "maximum"):
            assert value == right, key
        elif value is None:  # only where float64 cannot say
            extreme = scale > 1e70 or spread < 1e-70 or (key == "l2" and right < 1e-139)
            assert extreme, (key, right)
        elif key in ("skewness", "kurtosis"):
            if lost < 1e-3:
                assert value == pytest.approx(float(right), rel=20 * precision + 20 * lost, abs=20 * precision + 20 * lost), key
        else:
            slack = 4e-16 * scale if key == "std" else precision * spread
            assert value == pytest.approx(float(right), rel=precision, abs=slack + 1e-300), key


plans = st.tuples(st.sampled_from(PLAIN), st.lists(st.integers(0, 7), max_size=3), st.binary(min_size=1, max_size=200))


def build(plan: tuple[str, list[int], bytes], name: str = "w") -> tuple[TensorInfo, bytes]:
    """Make a tensor of a dtype and shape from bytes, repeated as often as it needs."""
    info = TensorInfo(name, plan[0], tuple(plan[1]))
    return info, (plan[2] * (info.nbytes // len(plan[2]) + 1))[: info.nbytes]


floats = st.one_of(st.floats(width=32), st.sampled_from([0.0, -0.0, 1.0, math.nan, math.inf, -math.inf, 1e-45, -1e-40, 3e38]))


@given(plans)
def test_random_bytes_of_any_dtype_measure_as_the_reference_says(plan: tuple[str, list[int], bytes]) -> None:
    info, raw = build(plan)
    assert_close(measure(info, Memory(raw)).statistics, numbers(raw, info.dtype, info.numel), 1e-9)


@given(st.lists(floats, max_size=40), st.sampled_from(["F64", "F32", "F16", "BF16"]))
def test_special_values_measure_as_the_reference_says(values: list[float], name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        raw = encode(values, name)
    assert_close(of(raw, name, len(values)).statistics, numbers(raw, name, len(values)), 1e-9)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["F64", "F32", "F16", "BF16"]),
    st.integers(ROW, 5 * ROW + 3),
    st.sampled_from([0.0, 1e-3, 1.0, -30.0]),
    st.sampled_from([1e-30, 1e-12, 1e-4, 0.02, 1.0, 1e3, 1e12]),
    st.sampled_from(["normal", "heavy", "one-sided", "two values"]),
    st.lists(st.tuples(st.integers(0, ROW - 1), floats), max_size=4),
    st.integers(0, 2**32),
)
def test_long_tensors_measure_as_the_reference_says(
    name: str, count: int, centre: float, spread: float, form: str, special: list[tuple[int, float]], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    noises: dict[str, Callable[[int], npt.NDArray[Any]]] = {
        "normal": rng.standard_normal,
        "heavy": lambda n: rng.standard_t(5, n),
        "one-sided": lambda n: np.maximum(rng.standard_normal(n), 0),
        "two values": lambda n: rng.integers(0, 2, n).astype(float),
    }
    values = centre + spread * noises[form](count)
    for place, value in special:
        values[place] = value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        raw = encode(values, name)
    assert_close(of(raw, name, count).statistics, numbers(raw, name, count), ROUNDED.get(name, 1e-11))


@pytest.mark.parametrize("name", sorted(set(PLAIN) - {"C64", "C128"}))
def test_many_blocks_measure_as_the_reference_says(name: str) -> None:
    count = 300_001
    raw = np.random.default_rng(0).integers(0, 256, dtypes.num_bytes(dtypes.dtype(name), (count,)), np.uint8).tobytes()
    if name in ("F64", "F32", "F16", "BF16"):  # random bits would be numbers of all sizes
        raw = encode(np.random.default_rng(0).standard_normal(count) * 0.02, name)
    assert_close(of(raw, name, count).statistics, numbers(raw, name, count), ROUNDED.get(name, 1e-11))


@pytest.mark.parametrize("name", ["F64", "F32"])
@pytest.mark.parametrize("count", [64, 4096, 100_000, 1_000_000])
def test_the_spread_of_norm_weights_close_to_one_is_right(name: str, count: int) -> None:
    values = (1 + 1e-4 * np.random.default_rng(count).standard_normal(count)).astype(numpy_dtypes[name])
    exact = values.astype(np.float64)
    found = of_values(values, name)
    assert found.std == pytest.approx(exact.std(), rel=1e-5)
    assert found.mean == pytest.approx(exact.mean(), rel=1e-9)
    assert found.skewness == pytest.approx(scipy.stats.skew(exact), abs=1e-4)
    assert found.kurtosis == pytest.approx(scipy.stats.kurtosis(exact, fisher=False), rel=1e-5)


def test_blocks_of_different_means_are_merged_without_cancellation() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([offset + 1e-3 * rng.standard_normal(250_000) for offset in (0, 0, 5, 5.001, -2)]).astype(np.float32)
    found, exact = of_values(values), values.astype(np.float64)
    assert found.std == pytest.approx(exact.std(), rel=1e-6)
    assert found.skewness == pytest.approx(scipy.stats.skew(exact), rel=1e-5)
    assert found.kurtosis == pytest.approx(scipy.stats.kurtosis(exact, fisher=False), rel=1e-5)


@pytest.mark.parametrize("count", [1, 5, ROW, 200_000])
@pytest.mark.parametrize("value", [0.0, -0.0, 0.1, -3e38, 1e-45])
def test_constants_have_no_spread_at_all(value: float, count: int) -> None:
    found = of_values(np.full(count, value))
    constant = float(np.float32(value))
    assert (found.minimum, found.maximum, found.mean, found.std) == (constant, constant, constant, 0.0)
    assert (found.skewness, found.kurtosis) == (None, None)
    assert found.num_zero == (count if value == 0 else 0)
    assert math.copysign(1, found.minimum or 1.0) == math.copysign(1, constant or 1.0)


@pytest.mark.parametrize("name", PLAIN)
def test_an_empty_tensor_has_counts_of_zero_and_nothing_else(name: str) -> None:
    assert measure(TensorInfo("w", name, (3, 0)), Memory(b"")).statistics == Statistics(0, 0, 0)


@pytest.mark.parametrize("count", [4, 300_000])
def test_only_non_finite_values_have_nothing_but_counts(count: int) -> None:
    assert of_values(np.resize([math.nan, math.inf, -math.inf, math.nan], count)) == Statistics(0, count // 2, count // 2)


def test_sums_beyond_float64_are_none_and_never_infinite() -> None:
    found = of_values([1e300, -1e300, 1e300, 1.0], "F64")
    assert (found.minimum, found.maximum, found.l1) == (-1e300, 1e300, 3e300)
    assert (found.std, found.l2, found.skewness, found.kurtosis) == (None, None, None, None)


def test_complex_numbers_are_only_counted() -> None:
    values = np.array([0, 1 + 1j, complex(math.nan, math.inf), complex(0, math.inf)], np.complex64)
    assert of(values.tobytes(), "C64", 4).statistics == Statistics(1, 1, 1)


def test_large_integers_keep_exact_zero_counts() -> None:
    values = np.array([0, 2**63 - 1, -(2**63), 0, 1], np.int64)
    found = of(values.tobytes(), "I64", 5).statistics
    assert (found.num_zero, found.minimum, found.maximum) == (2, -(2.0**63), 2.0**63)


def test_bits_that_pad_the_last_byte_are_not_counted() -> None:
    assert of(b"\x20", "F4", 1).statistics == Statistics(1, 0, 0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    assert of(b"\xff", "F6_E2M3", 1).statistics.maximum == -7.5


@pytest.mark.parametrize("name", ["Q8_0", "Q4_K", "MXFP4"])
@pytest.mark.parametrize("blocks", [3, 5000])
def test_quantised_tensors_are_measured_expanded(name: str, blocks: int) -> None:
    gguf = pytest.importorskip("gguf")
    kind = dtypes.dtype(name)
    assert kind.block is not None
    count, size = kind.block[0] * blocks, kind.block[1] * blocks
    raw = np.random.default_rng(0).integers(0, 60, size, np.uint8)  # scales of no great range
    values = gguf.quants.dequantize(raw.reshape(blocks, -1), gguf.GGMLQuantizationType[name]).reshape(-1)
    found = of(raw.tobytes(), name, count)
    assert_close(found.statistics, values, ROUNDED["F32"])
    assert found.hash == identity.tensor_hasher(name, (count,)).update(raw.tobytes()).digest()


def test_quantised_tensors_have_no_statistics_where_gguf_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert of(bytes(34), "Q8_0", 32).statistics == Statistics(None, None, None)


def test_float16_codes_decode_to_their_values_in_any_order() -> None:
    every = np.arange(1 << 16, dtype=np.uint16)
    half = every.view(np.float16).astype(np.float32)
    finite = np.isfinite(half)
    found = module._widen_f16(np.resize(every[finite], 1 << 16).view(np.uint8))
    assert np.array_equal(np.sort(found), np.sort(np.resize(half[finite], 1 << 16)))
    assert np.array_equal(np.sort(module._widen_f16(every.view(np.uint8))), np.sort(half), equal_nan=True)


@dataclass(frozen=True)
class Ragged:
    """Bytes that come in blocks of odd lengths, as a tensor laid together from pieces gives them."""

    data: bytes
    cuts: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return len(self.data)

    def blocks(self, size: int = 0) -> Iterator[memoryview]:
        for begin, end in pairwise(sorted({0, len(self.data), *(cut % (len(self.data) + 1) for cut in self.cuts)})):
            yield memoryview(self.data)[begin:end]


@given(plans, st.lists(st.integers(0, 10_000), max_size=5))
def test_blocks_may_be_cut_anywhere(plan: tuple[str, list[int], bytes], cuts: list[int]) -> None:
    info, raw = build(plan)
    found = measure(info, Ragged(raw, tuple(cuts)))
    assert found.hash == measure(info, Memory(raw)).hash
    assert_close(found.statistics, numbers(raw, info.dtype, info.numel), 1e-9)


@given(st.lists(plans, max_size=12))
def test_many_at_once_measure_as_one_by_one(drawn: list[tuple[str, list[int], bytes]]) -> None:
    items: list[tuple[TensorInfo, Storage]] = [(info, Memory(raw)) for info, raw in map(build, drawn)]
    assert measure_many(items) == [measure(info, storage) for info, storage in items]


@given(st.lists(st.tuples(st.sampled_from(["F32", "F32", "BF16", "I64"]), st.integers(0, 2 * ROW)), max_size=12), st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_neighbours_in_a_file_measure_as_one_by_one(
    tmp_path_factory: pytest.TempPathFactory, plan: list[tuple[str, int]], seed: int
) -> None:
    infos = [TensorInfo(str(i), name, (count,)) for i, (name, count) in enumerate(plan)]
    path = tmp_path_factory.mktemp("run") / "tensors"
    path.write_bytes(np.random.default_rng(seed).bytes(7 + sum(info.nbytes for info in infos)))
    file, at = SourceFile.at(path), 7
    items: list[tuple[TensorInfo, Storage]] = []
    for info in infos:
        items.append((info, FileSpan(file, at, info.nbytes)))
        at += info.nbytes
    assert measure_many(items) == [measure(info, storage) for info, storage in items]
    assert measure_many(items[::-1]) == measure_many(items)[::-1]
    file.close()


@given(st.lists(plans, max_size=6))
def test_hashes_are_those_of_the_checkpoint(drawn: list[tuple[str, list[int], bytes]]) -> None:
    tensors = [build(plan, str(i)) for i, plan in enumerate(drawn)]
    storages: dict[str, Storage] = {info.name: Memory(raw) for info, raw in tensors}
    checkpoint = Checkpoint({info.name: info for info, _ in tensors}, storages, "memory")
    found = measure_many([(info, storages[info.name]) for info, _ in tensors])
    assert {info.name: one.hash for (info, _), one in zip(tensors, found, strict=True)} == checkpoint.tensor_hashes


def test_measuring_holds_a_block_and_not_the_tensor(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(bytes(1 << 26))
    info, span = TensorInfo("w", "F32", (1 << 24,)), FileSpan(SourceFile.at(path), 0, 1 << 26)
    measure(info, span)
    tracemalloc.start()
    try:
        measure(info, span)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_results_are_the_same_every_time() -> None:
    values = np.random.default_rng(0).standard_normal(500_001)
    assert astuple(of_values(values)) == astuple(of_values(values))
