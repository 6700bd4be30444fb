"""Which of many overlapping candidates are kept, in plain torch: no torchvision operator is needed."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["overlaps", "suppress"]


def overlaps(first: Tensor, second: Tensor) -> Tensor:
    """[N, M] intersection areas of boxes [N, 4] and [M, 4] (x0 y0 x1 y1)."""
    low = torch.maximum(first[:, None, :2], second[None, :, :2])
    high = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    return (high - low).clamp_min(0).prod(-1)


def suppress(boxes: Tensor, rank: Tensor, iou: float = 0.4, nested: float = 0.85) -> Tensor:
    """Indices [K] of the boxes kept, the best ranked first.

    Greedy: a box goes if a kept box of higher rank overlaps it by more than `iou` (intersection over union), or is
    larger and covers more than the share `nested` of it.

    Args:
        boxes: [N, 4] x0 y0 x1 y1.
        rank: [N], higher is better; of equals the earlier wins.
        iou: 0..1.
        nested: 0..1; 1 switches the second rule off.
    """
    order = torch.argsort(rank, descending=True, stable=True)
    boxes = boxes[order]
    area = (boxes[:, 2:] - boxes[:, :2]).clamp_min(0).prod(-1).clamp_min(1e-9)
    common = overlaps(boxes, boxes)
    beats = common > iou * (area[:, None] + area[None, :] - common)
    beats |= (common > nested * area[None, :]) & (area[:, None] > area[None, :])
    beats = beats.triu(diagonal=1)  # only a box of higher rank can beat another
    kept = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    while True:  # each pass settles at least the next box in rank, so this ends at the greedy answer
        settled = ~(beats & kept[:, None]).any(0)
        if torch.equal(settled, kept):
            return order[kept]
        kept = settled
