"""Which items go through a network together."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from .errors import PoseFRError

__all__ = ["batches"]


def batches(count: int, largest: int, device: torch.device) -> Iterator[slice]:
    """Slices of `count` items in order, of at most `largest` each.

    On a CPU the sizes are powers of two: for every size that a network sees oneDNN compiles and keeps its layers anew,
    and what it keeps would grow with every other number of faces.

    Raises:
        PoseFRError: `largest` is below 1.
    """
    if largest < 1:
        raise PoseFRError(f"The batch is {largest}; expected 1 or more.")
    start = 0
    while start < count:
        size = min(largest, count - start)
        if device.type == "cpu":
            size = 1 << (size.bit_length() - 1)
        yield slice(start, start + size)
        start += size
