from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from weightspace.checkpoint import TensorInfo
from weightspace.storage import Memory, Produced
from weightspace.zoo.histogram import SAMPLE, histogram, sample


def of(values: npt.NDArray[Any], dtype: str = "F32") -> tuple[TensorInfo, Memory]:
    return TensorInfo("w", dtype, values.shape), Memory(values.tobytes())


def test_a_small_tensor_is_taken_whole() -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(sample(*of(values)), values.reshape(-1))


@pytest.mark.parametrize(("dtype", "kind"), [("F32", np.float32), ("F64", np.float64), ("I8", np.int8)])
def test_a_large_tensor_is_sampled_evenly_from_end_to_end(dtype: str, kind: type) -> None:
    values: npt.NDArray[Any] = (np.arange(1_000_003) * 100 // 1_000_003).astype(kind)
    taken = sample(*of(values, dtype))
    assert 0.9 * SAMPLE < taken.size <= 1.1 * SAMPLE
    assert taken[0] == 0 and taken[-1] == 99
    assert len(np.unique(taken)) >= 16


@pytest.mark.parametrize(("dtype", "bits"), [("F6_E2M3", 6), ("F4", 4), ("F8_E4M3", 8), ("BF16", 16)])
def test_packed_types_are_decoded_whole_elements_at_a_time(dtype: str, bits: int) -> None:
    count = 400_000
    raw = np.random.default_rng(0).integers(0, 256, count * bits // 8).astype(np.uint8).tobytes()
    taken = sample(TensorInfo("w", dtype, (count,)), Memory(raw))
    everything = sample(TensorInfo("w", dtype, (SAMPLE,)), Memory(raw[: SAMPLE * bits // 8]))
    assert taken.size > 0.9 * SAMPLE
    assert set(taken) <= set(everything) or dtype == "BF16"


def test_what_is_not_finite_or_no_number_is_left_out() -> None:
    assert sample(*of(np.array([1, np.nan, np.inf, 2], np.float32))).tolist() == [1, 2]
    assert sample(TensorInfo("w", "C64", (2,)), Memory(bytes(16))).size == 0
    assert sample(TensorInfo("w", "Q4_K", (256,)), Produced(144, lambda: pytest.fail("read"))).size == 0


def test_bins_hold_every_value_and_outliers_fall_into_the_last() -> None:
    values = np.append(np.random.default_rng(0).normal(size=10_000), [1e6])
    made = histogram([values], bins=10)
    assert made is not None
    assert sum(made.counts) == 10_001
    assert -4 < made.low < -2 and 2 < made.high < 4
    assert max(made.counts) in made.counts[3:7]


def test_constants_stand_in_the_middle_and_tiny_ranges_are_no_error() -> None:
    same = histogram([np.full(5, 3.0)], bins=5)
    assert same is not None and same.counts == (0, 0, 5, 0, 0)
    tiny = histogram([np.array([0.0, 5e-324, 1e-323])], bins=4)
    assert tiny is not None and sum(tiny.counts) == 3
    assert histogram([np.array([1.0])]) is None and histogram([]) is None
