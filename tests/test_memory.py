"""Tensors made by way of NumPy are like those that torch makes."""

from __future__ import annotations

import pytest
import torch

from posefr import memory

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.uint8])
@pytest.mark.parametrize("shape", [(2, 3, 4), (1,), (0, 5), (3, 0), (700, 900, 3)])
def test_they_have_shape_type_and_values(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    fresh, blank = memory.empty(shape, CPU, dtype), memory.zeros(shape, CPU, dtype)
    for tensor in (fresh, blank):
        assert (tuple(tensor.shape), tensor.dtype, tensor.is_contiguous()) == (shape, dtype, True)
    assert not blank.any()
    blank += 1
    source = (torch.rand(shape) * 200).to(dtype)
    copied = memory.copy(source)
    assert torch.equal(copied, source)
    source.zero_()
    assert copied.numel() == 0 or copied.any()


def test_a_view_is_copied_into_one_piece() -> None:
    images = torch.rand(2, 8, 9, 4)
    copied = memory.copy(images[:, 2:, ::2, :3])
    assert copied.is_contiguous()
    assert torch.equal(copied, images[:, 2:, ::2, :3])


def test_other_devices_are_left_to_torch() -> None:
    meta = torch.device("meta")
    assert memory.zeros((2, 3), meta).device == memory.empty((2, 3), meta).device == meta
