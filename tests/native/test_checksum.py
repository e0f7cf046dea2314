"""The checksum by which changed weights are noticed."""

from __future__ import annotations

import pytest
import torch

from albert_act_fast import native, ops

pytestmark = pytest.mark.skipif(native.why_no_cpp is not None, reason=str(native.why_no_cpp))
DTYPES = [torch.int8, torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.int64]
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def checksum(*tensors: torch.Tensor) -> list[int]:
    return ops.implementation_of("checksum", "cpp")(list(tensors)).tolist()


@every_dtype
@pytest.mark.parametrize("count", range(1, 41))
def test_one_element_anywhere(count, dtype):
    """Zeros, and one element that is not, at each place: all differ, odd lengths included."""
    tensors = [torch.zeros(count, dtype=dtype)]
    for value in (1, -1, 3):
        tensors += list(value * torch.eye(count).to(dtype))
    sums = checksum(*(tensor.contiguous() for tensor in tensors))
    assert len(set(sums)) == 1 + 3 * count


@every_dtype
@pytest.mark.parametrize("count", [*range(1, 41), 63, 4097])
def test_one_changed_and_two_exchanged_elements(count, dtype):
    """Of random ones."""
    generator = torch.Generator().manual_seed(count)
    values = torch.randperm(100, generator=generator).repeat(count // 100 + 1)[:count].to(dtype)
    places = range(count) if count <= 40 else (0, count // 2, count - 2, count - 1)
    tensors = [values]
    for place in places:
        tensors.append(values.clone())
        tensors[-1][place] += 1
        for other in places:
            if other < place and values[other] != values[place]:
                tensors.append(values.clone())
                tensors[-1][[other, place]] = values[[place, other]]
    assert len(set(checksum(*tensors))) == len(tensors)


@every_dtype
def test_the_length_counts(dtype):
    sums = checksum(*(torch.zeros(count, dtype=dtype) for count in range(41)))
    assert len(set(sums)) == 41


def test_of_each_tensor_its_own():
    a, b = torch.arange(3.0), torch.arange(1000.0)
    assert checksum(a, b, a) == [*checksum(a), *checksum(b), *checksum(a)]


def test_any_number_of_threads_sums_the_same():
    values, before = torch.arange(300_001, dtype=torch.float32), torch.get_num_threads()
    try:
        sums = set()
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            sums.update(checksum(values))
    finally:
        torch.set_num_threads(before)
    assert len(sums) == 1


def test_bad_tensors_are_refused():
    with pytest.raises(ValueError, match="checksum: expected contiguous CPU tensors"):
        checksum(torch.zeros(3, 4).T)
