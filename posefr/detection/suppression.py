"""Which of many overlapping candidates are kept, in plain torch: no torchvision operator is needed."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["overlaps", "same_face", "suppress"]


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
    return order[_greedy(beats.triu(diagonal=1))]  # only a box of higher rank can beat another


def same_face(landmarks: Tensor, near: float = 0.4) -> Tensor:
    """Indices [K] of the finds kept, the earliest of those whose landmarks show one and the same face.

    Args:
        landmarks: [N, 5, 2], best find first.
        near: the mean distance of two finds' landmarks below which they are one, in eye-to-mouth distances (or eye
            distances, where the head is turned so that those are larger) of the first.
    """
    down = (landmarks[:, 0] + landmarks[:, 1] - landmarks[:, 3] - landmarks[:, 4]) / 2
    unit = torch.maximum(down.norm(dim=1), (landmarks[:, 0] - landmarks[:, 1]).norm(dim=1))
    apart = (landmarks[:, None] - landmarks[None]).norm(dim=-1).mean(-1)
    return _greedy((apart < near * unit[:, None]).triu(diagonal=1))


def _greedy(beats: Tensor) -> Tensor:
    """Indices of those kept of N in order of rank, where `beats` [N, N] is true for i < j if i, once kept, ends j."""
    kept = torch.ones(len(beats), dtype=torch.bool, device=beats.device)
    while True:  # each pass settles at least the next in rank, so this ends at the greedy answer
        settled = ~(beats & kept[:, None]).any(0)
        if torch.equal(settled, kept):
            return torch.nonzero(kept).flatten()
        kept = settled
