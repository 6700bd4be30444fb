"""Large tensors whose memory is cheap to get.

On a CPU much of what it costs to fill a fresh tensor of many MB is the operating system handing out its pages of 4 KB
one by one. NumPy asks for pages of 2 MB where there are such, which takes a quarter of the time to fill; and its zeros
take no memory where nothing is written to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["copy", "empty", "zeros"]


def empty(shape: Sequence[int], device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """torch.empty."""
    return _on_cpu(np.empty, shape, dtype) if device.type == "cpu" else torch.empty(shape, dtype=dtype, device=device)


def zeros(shape: Sequence[int], device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """torch.zeros."""
    return _on_cpu(np.zeros, shape, dtype) if device.type == "cpu" else torch.zeros(shape, dtype=dtype, device=device)


def copy(source: Tensor) -> Tensor:
    """A contiguous copy."""
    return empty(source.shape, source.device, source.dtype).copy_(source)


def _on_cpu(make: Callable[..., Any], shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    if 0 in shape:
        return torch.empty(shape, dtype=dtype)
    buffer = torch.from_numpy(make(math.prod(shape) * dtype.itemsize, np.uint8))
    return buffer.view(dtype).view(*shape)
