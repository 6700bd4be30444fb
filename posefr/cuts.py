"""Where one shot of a video ends and the next begins."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .color import luma
from .geometry import check_images

__all__ = ["cuts_between", "find_cuts", "thumbnails"]

_SIDE = 32  # px, of the small pictures that are compared
_SAMPLES = 128  # px along the shorter side that a small picture is averaged from
_NEAR = 5  # frames before and after a cut of which none may be like another
_AROUND = 8  # frames before and after a cut that tell how much the pictures change there
_LEAST, _TIMES, _UNRELATED = 0.3, 2.0, 0.7
_BLOCK = 4096  # frames compared at a time
_FLAT = 0.03  # standard deviation of a small picture, 0..1, that hardly shows anything
_BAR = 0.05  # range of values, 0..1, of what never shows anything


def find_cuts(images: Tensor) -> list[int]:
    """Find the hard cuts of a video.

    Frames are compared as small grey pictures without black bars, by 1 less the product of SSIM's contrast and
    structure terms (Wang et al. 2004) over the whole picture. There is a cut where each of the five frames before is at
    least 0.3 away from each of the five after, and twice as far as frames of the eight before and after are from the
    next one; at 0.7 and more two of these may be further, other cuts or a flash. So pans, also of drawings that stay
    for some frames, flashes and a lamp that is switched on are no cuts. Dissolves and series of very short shots are
    not found.

    Args:
        images: [B, H, W, C] floats, 0..1, C = 3 or more, the frames in their order.

    Returns:
        The first frame of each shot but the first, ascending.

    Raises:
        PoseFRError: images of another shape or type.
    """
    return cuts_between(thumbnails(images))


def thumbnails(images: Tensor) -> Tensor:
    """[B, 32, 32] half on the CPU: frames as `find_cuts` takes them, small and grey, for `cuts_between`.

    Raises:
        PoseFRError: images of another shape or type.
    """
    check_images(images)
    small = [_small(frame).half() for frame in images]  # of a long video many are kept
    return torch.stack(small) if small else torch.empty(0, _SIDE, _SIDE).half()


def cuts_between(pictures: Tensor) -> list[int]:
    """The cuts of a video as `find_cuts` finds them, from the `thumbnails` [B, 32, 32] of all its frames."""
    if len(pictures) < 2:
        return []
    rows, columns = (pictures.amax(across) - pictures.amin(across) > _BAR for across in ((0, 2), (0, 1)))
    if rows.any() and columns.any():
        pictures = pictures[:, rows][:, :, columns]
    pictures = pictures.flatten(1)
    blocks = (_centred(pictures[i : i + _BLOCK + 1]) for i in range(0, len(pictures) - 1, _BLOCK))
    steps = torch.cat([_distance(block[:-1], block[1:]) for block in blocks])
    # Only where one frame is that far from the next can every frame before be from every one after.
    far = (steps >= _LEAST).nonzero()[:, 0] + 1
    return [frame for frame in far.tolist() if _is_cut(pictures, steps, frame)]


def _centred(pictures: Tensor) -> Tensor:
    """Pictures [B, K] in float32, each less its mean."""
    pictures = pictures.float()
    return pictures - pictures.mean(dim=1, keepdim=True)


def _small(frame: Tensor) -> Tensor:
    """[32, 32] on the CPU: a frame [H, W, C], small and grey. What is not finite counts as black."""
    step = max(1, min(frame.shape[:2]) // _SAMPLES)
    colors = frame[::step, ::step, :3].float().nan_to_num(0, 0, 0)
    return F.adaptive_avg_pool2d(luma(colors).cpu()[None], _SIDE)[0]


def _is_cut(pictures: Tensor, steps: Tensor, frame: int) -> bool:
    before, after = _centred(pictures[max(0, frame - _NEAR) : frame]), _centred(pictures[frame : frame + _NEAR])
    apart = float(_distance(before[:, None], after[None]).min())
    others = torch.cat([steps[max(0, frame - _AROUND) : frame - 1], steps[frame : frame + _AROUND - 1]])
    rest = others.sort(descending=True).values[2 if apart >= _UNRELATED else 0 :]
    return apart >= _LEAST and bool((apart >= _TIMES * rest).all())


def _distance(one: Tensor, other: Tensor) -> Tensor:
    """How little pictures [..., K] of mean 0 are like each other: 0 for the same, 1 for unrelated, 2 for negatives."""
    shared = (one * other).mean(dim=-1)
    contrast = one.square().mean(dim=-1) + other.square().mean(dim=-1)
    return 1 - (2 * shared + _FLAT**2) / (contrast + _FLAT**2)
