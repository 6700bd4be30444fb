"""Where one shot of a video ends and the next begins."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["find_cuts"]

_SIDE = 32  # px, of the small pictures that are compared
_SAMPLES = 128  # px along the shorter side that a small picture is averaged from
_AROUND = 5  # frames before and after a cut that are compared
_LEAST, _TIMES = 0.3, 2.0
_FLAT = 0.03  # standard deviation of a small picture, 0..1, that hardly shows anything
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def find_cuts(images: Tensor) -> list[int]:
    """Find the hard cuts of a video.

    Frames are compared as small grey pictures, by 1 less the product of SSIM's contrast and structure terms (Wang et
    al. 2004) over the whole picture. There is a cut where none of the five frames before is like any of the five
    after, at a distance of at least 0.3, and twice what the pictures around there change by from frame to frame: fast
    pans, flashes and a lamp that is switched on are no cuts. Dissolves are not found.

    Args:
        images: [B, H, W, 3] floats, 0..1, the frames in their order.

    Returns:
        The first frame of each shot but the first, ascending.
    """
    pictures = torch.stack([_small(frame) for frame in images]) if len(images) else images.new_zeros(0, 1)
    pictures = pictures.cpu()
    return [frame for frame in range(1, len(pictures)) if _is_cut(pictures, frame)]


def _small(frame: Tensor) -> Tensor:
    """[1024]: a frame [H, W, 3] as a small grey picture whose mean is 0."""
    step = max(1, min(frame.shape[:2]) // _SAMPLES)
    luma = frame[::step, ::step].float() @ frame.new_tensor(_LUMA, dtype=torch.float32)
    small = F.adaptive_avg_pool2d(luma[None], _SIDE).flatten()
    return small - small.mean()


def _is_cut(pictures: Tensor, frame: int) -> bool:
    before, after = pictures[max(0, frame - _AROUND) : frame], pictures[frame : frame + _AROUND]
    steps = torch.cat([_distance(side[:-1], side[1:]) for side in (before, after)]).sort(descending=True).values
    usual = float(steps[1]) if len(steps) > 1 else 0.0  # the largest may be a flash or another cut
    apart = float(_distance(before[:, None], after[None]).min())
    return apart >= max(_LEAST, _TIMES * usual)


def _distance(one: Tensor, other: Tensor) -> Tensor:
    """How little small pictures [..., 1024] are like each other: 0 for the same, 1 for unrelated, 2 for negatives."""
    shared = (one * other).mean(dim=-1)
    contrast = one.square().mean(dim=-1) + other.square().mean(dim=-1)
    return 1 - (2 * shared + _FLAT**2) / (contrast + _FLAT**2)
