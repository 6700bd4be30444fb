"""Sampling a picture under a similarity, sharp and without aliasing: by OpenCV on the CPU, by torch elsewhere.

Where a target pixel spans no more than one source pixel, the source is interpolated, by a bicubic kernel. Where it
spans more, the source is low-pass filtered first by a Lanczos kernel of the target's resolution; what spans more than
three source pixels is reduced to two before. A source that is much enlarged is doubled by a Lanczos kernel first, in
torch any that is enlarged: there the time does not matter so much. One that is enlarged a little is made larger by a
bicubic kernel, aligned with its pixels, and that is interpolated linearly: as exact as a bicubic kernel under the
similarity itself, in half the time.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["kernel_reach", "resample"]

_LOBES = 4  # of the Lanczos kernel
_SHRINK_ABOVE, _SHRINK_TO = 3.0, 2.0  # source px to a target px
_DOUBLE_TO = 0.5  # source px to a target px, by OpenCV
_LINEAR_BELOW = 0.9  # source px to a target px, by OpenCV
_LARGER = 1.75  # times, before linear interpolation
# Both interpolations soften by about what this filter sharpens: of some from 0 to 0.1 the one whose results lay nearest
# to Fourier interpolation of random pictures with a photo's spectrum. A bicubic kernel's lay no nearer.
_SHARPEN = (-0.05, 1.1, -0.05)
_OPENCV_REACH = 30_000  # px: OpenCV's remapping counts in 16 bits

_Matrix = list[list[float]]


def kernel_reach(step: float) -> float:
    """How far from its place, in source px, a target pixel that spans `step` of them looks, at most."""
    return (_LOBES + 2) * max(step, 1.0) + 2


def resample(
    source: Tensor,
    matrix: _Matrix,
    target: tuple[int, int, int, int],
    *,
    corner: tuple[int, int] = (0, 0),
    mirror: tuple[int, int] = (0, 0),
    out: Tensor | None = None,
) -> Tensor:
    """Sample a picture on a rectangle of another one's pixels.

    Args:
        source: [h, w, 3] float32, a window of a picture, or all of it; its border pixels go on outside it.
        matrix: two rows of three numbers, the similarity from target coordinates to the picture's.
        target: x, y, width and height of the rectangle in target px.
        corner: x and y of the window's first pixel in the picture.
        mirror: width and height of the picture, where it goes on as its mirror image, again and again; 0 where that is
            not needed. The window reaches a border that is to mirror.
        out: [height, width, 3] float32, contiguous; written to if given.

    Returns:
        [height, width, 3] float32.
    """
    height, width = source.shape[:2]
    step = math.hypot(matrix[0][0], matrix[1][0])
    if step > _SHRINK_ABOVE:
        source, step = _reduced(source, step), _SHRINK_TO
    if source.device.type == "cpu" and _suits_opencv((height, width), matrix, target, corner, mirror):
        sampled = _resample_opencv(source, (height, width), step, matrix, target, corner, mirror, out)
    else:
        sampled = _resample_torch(source, (height, width), step, matrix, target, corner, mirror)
    return sampled if out is None or sampled is out else out.copy_(sampled)


def _reduced(source: Tensor, step: float) -> Tensor:
    """[h, w, 3] at such a size that a target pixel, which spans `step` px now, spans two."""
    smaller = [max(1, round(_SHRINK_TO * length / step)) for length in source.shape[:2]]
    planes = source.movedim(2, 0)[None]
    return F.interpolate(planes, size=smaller, mode="bicubic", antialias=True, align_corners=False)[0].movedim(0, 2)


def _suits_opencv(
    size: tuple[int, int],
    matrix: _Matrix,
    target: tuple[int, int, int, int],
    corner: tuple[int, int],
    mirror: tuple[int, int],
) -> bool:
    """Whether all places are such as OpenCV counts them, and no further out than one mirror image of the window.

    Beyond that its cubic interpolation, in 5.0, reads the wrong pixels.
    """
    left, top, columns, rows = target
    for axis, (along_x, along_y, shift) in enumerate(matrix):
        ends = [along_x * x + along_y * y + shift for x in (left, left + columns) for y in (top, top + rows)]
        low, high, length = min(ends) - corner[axis], max(ends) - corner[axis], size[1 - axis]
        if mirror[axis] and (low < 2 - length or high > 2 * length - 2):
            return False
        if max(-low, high, 2 * length, columns, rows) > _OPENCV_REACH:
            return False
    return True


def _resample_opencv(
    source: Tensor,
    size: tuple[int, int],
    step: float,
    matrix: _Matrix,
    target: tuple[int, int, int, int],
    corner: tuple[int, int],
    mirror: tuple[int, int],
    out: Tensor | None,
) -> Tensor:
    """As `resample`; `size` is the window's height and width in px of the picture; the source may have fewer."""
    import cv2
    import numpy as np

    border = cv2.BORDER_REFLECT if any(mirror) else cv2.BORDER_REPLICATE
    pixels = source.detach().numpy()
    linear = False
    if step > 1:
        kernel = np.array(_low_pass_kernel(step))
        pixels = cv2.sepFilter2D(pixels, -1, kernel, kernel, borderType=border)
    elif step <= _DOUBLE_TO:
        double = (2 * pixels.shape[1], 2 * pixels.shape[0])
        pixels = cv2.resize(pixels, double, interpolation=cv2.INTER_LANCZOS4)
    elif linear := step < _LINEAR_BELOW:
        sharpen = np.array(_SHARPEN)
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2RGBA)  # with four channels OpenCV takes half the time
        pixels = cv2.sepFilter2D(pixels, -1, sharpen, sharpen, borderType=border)
        larger = (round(_LARGER * pixels.shape[1]), round(_LARGER * pixels.shape[0]))
        pixels = cv2.resize(pixels, larger, interpolation=cv2.INTER_CUBIC)
    left, top, columns, rows = target
    affine = np.empty((2, 3))
    for axis, (along_x, along_y, shift) in enumerate(matrix):
        # OpenCV counts from the first pixel's centre: half a px is added on one side and taken off on the other.
        zoom = pixels.shape[1 - axis] / size[1 - axis]
        start = along_x * (left + 0.5) + along_y * (top + 0.5) + shift - corner[axis]
        affine[axis] = along_x * zoom, along_y * zoom, start * zoom - 0.5
    into = None if out is None else out.numpy()
    if linear:
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        sampled = cv2.warpAffine(pixels, affine, (columns, rows), flags=flags, borderMode=border)
        sampled = cv2.cvtColor(sampled, cv2.COLOR_RGBA2RGB, dst=into)
    else:
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        sampled = cv2.warpAffine(pixels, affine, (columns, rows), dst=into, flags=flags, borderMode=border)
    return torch.from_numpy(sampled) if out is None else out


def _resample_torch(
    source: Tensor,
    size: tuple[int, int],
    step: float,
    matrix: _Matrix,
    target: tuple[int, int, int, int],
    corner: tuple[int, int],
    mirror: tuple[int, int],
) -> Tensor:
    """As `_resample_opencv`, on any device."""
    planes = source.movedim(2, 0)[None]
    planes = _double(planes) if step <= 1 else _low_pass(planes, step)
    left, top, columns, rows = target
    x = torch.arange(columns, dtype=torch.float32, device=source.device) + (left + 0.5)
    y = torch.arange(rows, dtype=torch.float32, device=source.device) + (top + 0.5)
    grid = torch.empty((1, rows, columns, 2), device=source.device)
    for axis, (along_x, along_y, shift) in enumerate(matrix):
        period, first = mirror[axis], corner[axis]
        if period:
            place = (along_x * x)[None, :] + (along_y * y + shift)[:, None]
            place = period - (place.remainder(2 * period) - period).abs() - first
        else:
            place = (along_x * x)[None, :] + (along_y * y + (shift - first))[:, None]
        grid[0, :, :, axis] = place.mul_(2 / size[1 - axis]).sub_(1)
    sampled = F.grid_sample(planes, grid, mode="bicubic", padding_mode="border", align_corners=False)
    return sampled[0].movedim(0, 2).contiguous()


def _double(pictures: Tensor) -> Tensor:
    """Lanczos interpolation [N, C, h, w] to [N, C, 2h, 2w]; border pixels go on outside."""
    offsets = torch.arange(-_LOBES, _LOBES + 1, dtype=torch.float64)
    for axis in (2, 3):
        taps = _shifted(pictures, axis, _LOBES)
        halves = [_weighted_sum(taps, _lanczos(offsets + shift)) for shift in (0.25, -0.25)]
        pictures = torch.stack(halves, dim=axis + 1).flatten(axis, axis + 1)
    return pictures


def _low_pass(pictures: Tensor, step: float) -> Tensor:
    """Take from [N, C, h, w] what samples `step` px apart cannot show; border pixels go on outside."""
    weights = _low_pass_kernel(step)
    for axis in (2, 3):
        pictures = _weighted_sum(_shifted(pictures, axis, len(weights) // 2), weights)
    return pictures


def _low_pass_kernel(step: float) -> list[float]:
    """Weights that keep what samples `step` px apart can show; an odd number of them."""
    radius = math.ceil(_LOBES * step) - 1
    return _lanczos(torch.arange(-radius, radius + 1, dtype=torch.float64) / step)


def _lanczos(distance: Tensor) -> list[float]:
    """The kernel at some distances, summing to 1."""
    kernel = torch.sinc(distance) * torch.sinc(distance / _LOBES) * (distance.abs() < _LOBES)
    return (kernel / kernel.sum()).tolist()


def _shifted(pictures: Tensor, axis: int, radius: int) -> list[Tensor]:
    """Views of [N, C, h, w], shifted along an axis by -radius to radius px."""
    pad = (0, 0, radius, radius) if axis == 2 else (radius, radius, 0, 0)
    padded = F.pad(pictures, pad, mode="replicate")
    return [padded.narrow(axis, i, pictures.shape[axis]) for i in range(2 * radius + 1)]


def _weighted_sum(taps: list[Tensor], weights: list[float]) -> Tensor:
    """A short filter as a sum of slices: quicker than a convolution with groups."""
    total = taps[0] * weights[0]
    for tap, weight in zip(taps[1:], weights[1:], strict=True):
        if weight:
            total.add_(tap, alpha=weight)
    return total
