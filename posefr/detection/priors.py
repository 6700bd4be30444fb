"""RetinaFace's prior boxes, and the coding of boxes and landmarks relative to them.

Sizes, strides and variances are those of the public Pytorch_Retinaface configuration, which facexlib's networks use.
All coordinates are px of the network's input, continuous (a pixel's centre is at +0.5).
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil

import torch
from torch import Tensor

__all__ = ["decode_boxes", "decode_landmarks", "encode_boxes", "encode_landmarks", "prior_boxes"]

_STRIDES = (8, 16, 32)
_SIZES = ((16, 32), (64, 128), (256, 512))
_CENTRE_VARIANCE = 0.1
_SIZE_VARIANCE = 0.2


@lru_cache(maxsize=8)
def prior_boxes(height: int, width: int) -> Tensor:
    """The priors of an input of height x width px: [P, 3] float32 on the CPU, centre x, centre y, side of a square.

    The order is that of the network's outputs: stride, row, column, size. Treat the result as read-only: it is cached.
    """
    levels = []
    for stride, sizes in zip(_STRIDES, _SIZES, strict=True):
        y = (torch.arange(ceil(height / stride)) + 0.5) * stride
        x = (torch.arange(ceil(width / stride)) + 0.5) * stride
        grid = torch.meshgrid(y, x, torch.tensor(sizes, dtype=torch.float32), indexing="ij")
        levels.append(torch.stack((grid[1], grid[0], grid[2]), dim=-1).reshape(-1, 3))
    return torch.cat(levels)


def decode_boxes(encoded: Tensor, priors: Tensor) -> Tensor:
    """Boxes [..., 4] x0 y0 x1 y1 in px from the network's [..., 4] and their priors [..., 3]."""
    centre = priors[..., :2] + encoded[..., :2] * _CENTRE_VARIANCE * priors[..., 2:]
    half = priors[..., 2:] * torch.exp(encoded[..., 2:] * _SIZE_VARIANCE) / 2
    return torch.cat((centre - half, centre + half), dim=-1)


def decode_landmarks(encoded: Tensor, priors: Tensor) -> Tensor:
    """Landmarks [..., 5, 2] in px from the network's [..., 10] and their priors [..., 3]."""
    offsets = encoded.unflatten(-1, (5, 2)) * _CENTRE_VARIANCE
    return priors[..., None, :2] + offsets * priors[..., None, 2:]


def encode_boxes(boxes: Tensor, priors: Tensor) -> Tensor:
    """The inverse of `decode_boxes`."""
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    size = (boxes[..., 2:] - boxes[..., :2]).clamp_min(1e-3)
    offset = (centre - priors[..., :2]) / (_CENTRE_VARIANCE * priors[..., 2:])
    return torch.cat((offset, torch.log(size / priors[..., 2:]) / _SIZE_VARIANCE), dim=-1)


def encode_landmarks(landmarks: Tensor, priors: Tensor) -> Tensor:
    """The inverse of `decode_landmarks`: [..., 10] from [..., 5, 2]."""
    return ((landmarks - priors[..., None, :2]) / (_CENTRE_VARIANCE * priors[..., None, 2:])).flatten(-2)
