"""Colour match of a restored crop to the crop that it was made from."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .masks import face_weight

__all__ = ["COLOR_MATCHES", "LUMA", "apply_color", "color_change", "luma", "oklab_to_srgb", "srgb_to_oklab"]

COLOR_MATCHES = ("none", "mean_std", "wavelet", "detail")
LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue in the brightness, ITU-R BT.601

_STATISTICS_SIZE = 64  # px: means and deviations are taken at this size, where noise and lost detail do not count
_LOW_BANDS = {"wavelet": 16, "detail": 64}  # px: what such a small copy can show is the low band
_LEAST_GAINS, _MOST_GAIN = (0.5, 0.0, 0.0), 2.0  # colour may go altogether: a grey photo stays grey
_RIDGE = 1e-7  # variance

# B. Ottosson, "A perceptual color space for image processing", 2020: linear sRGB to LMS, and its cube root to OKLab.
_LMS = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
_OKLAB = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)


def color_change(restored: Tensor, source: Tensor, method: str, context: float = 1.0) -> Tensor:
    """What gives a restored crop the colours of the crop that it was made from, in few numbers.

    Args:
        restored: [S, S, 3] float32, 0..1.
        source: [T, T, 3] float32, 0..1, the same face; T may differ from S.
        method: `none`; `mean_std`: means and standard deviations in OKLab, over the face, become the source's;
            `wavelet`: the lowest frequencies, up to 8 cycles a crop, become the source's, the others stay; `detail`:
            the same up to 32 cycles, so that features keep their shape and only fine texture is the restored one's.
            Where the source has less than half as much colour, those fade with it: a grey photo stays grey.
        context: how many times wider than its frame the crop is.

    Returns:
        For `apply_color`: nothing; an affine map of colours, [3, 4]; or, small, what is to be added and the share of
        colour to keep, everywhere the same, [4, s, s]. The means of such changes are changes too.
    """
    if method == "none":
        return restored.new_zeros(0)
    weight = face_weight(_STATISTICS_SIZE, restored.device, context).reshape(-1, 1)
    small, wanted = (_shrink(crop, _STATISTICS_SIZE)[0].flatten(1).T for crop in (restored, source))
    if method in _LOW_BANDS:
        amount, wanted_amount = (
            _statistics(colors - luma(colors)[:, None], weight)[1].norm() for colors in (small, wanted)
        )
        kept = (2 * wanted_amount / amount.clamp_min(1e-4)).clamp_max(1)
        low, wanted_low = (_shrink(crop, _LOW_BANDS[method])[0].movedim(0, 2) for crop in (restored, source))
        added = (wanted_low - _faded(low, kept)).movedim(2, 0)
        return torch.cat([added, kept.expand_as(added[:1])])
    (mean, deviation), (wanted_mean, wanted_deviation) = (
        _statistics(srgb_to_oklab(colors), weight) for colors in (small, wanted)
    )
    gain = (wanted_deviation / deviation.clamp_min(1e-4)).clamp_max(_MOST_GAIN)
    gain = gain.maximum(gain.new_tensor(_LEAST_GAINS))
    target = oklab_to_srgb((srgb_to_oklab(small) - mean) * gain + wanted_mean)
    # What that does to the small copy is done to the whole by the affine map in RGB that is nearest to it: a twentieth
    # of the work. The ridge keeps colours where a flat crop says nothing about them.
    middle, shift = (small * weight).sum(dim=0), ((target - small) * weight).sum(dim=0)
    spread = small - middle
    ridge = _RIDGE * torch.eye(3, device=restored.device)
    change = torch.linalg.solve(spread.T @ (spread * weight) + ridge, (spread * weight).T @ (target - small - shift))
    change = change + torch.eye(3, device=restored.device)
    return torch.cat([change.T, (middle + shift - middle @ change)[:, None]], dim=1)


def apply_color(restored: Tensor, change: Tensor, method: str) -> Tensor:
    """A crop [S, S, 3], float32, with a change from `color_change` by the same method; it may leave 0..1 slightly."""
    if method == "none":
        return restored
    if method in _LOW_BANDS:
        size, low = list(restored.shape[:2]), change[None, :3]
        low = F.interpolate(low, size=size, mode="bicubic", align_corners=False)[0].movedim(0, 2)
        return _faded(restored, change[3].mean()) + low
    if restored.device.type != "cpu":
        return restored @ change[:, :3].T + change[:, 3]
    import cv2

    return torch.from_numpy(cv2.transform(restored.detach().numpy(), change.numpy()))  # a twentieth of torch's time


def _faded(color: Tensor, share: Tensor) -> Tensor:
    """[..., 3] with that share of its colour, a number from 0, grey, to 1; the brightness stays."""
    return torch.lerp(luma(color)[..., None].expand_as(color), color, share)


def _shrink(crop: Tensor, size: int) -> Tensor:
    """[S, S, 3] to [1, 3, size, size], low-pass filtered."""
    crop = crop.movedim(2, 0)[None]
    return F.interpolate(crop, size=(size, size), mode="bilinear", antialias=True, align_corners=False)


def _statistics(colors: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted mean and standard deviation of each channel of [K, 3]; the weights [K, 1] sum to 1."""
    mean = (colors * weight).sum(dim=0)
    return mean, ((colors - mean).square() * weight).sum(dim=0).sqrt()


def luma(color: Tensor) -> Tensor:
    """[..., 3] sRGB to its brightness [...], after ITU-R BT.601."""
    return color @ color.new_tensor(LUMA)


def srgb_to_oklab(color: Tensor) -> Tensor:
    """[..., 3] sRGB 0..1 (clamped) to OKLab: lightness 0..1, then two opponent colours around 0."""
    color = color.clamp(0, 1)
    linear = torch.where(color <= 0.04045, color / 12.92, ((color + 0.055) / 1.055).pow(2.4))
    return (linear @ color.new_tensor(_LMS).T).pow(1 / 3) @ color.new_tensor(_OKLAB).T


def oklab_to_srgb(color: Tensor) -> Tensor:
    """The inverse of `srgb_to_oklab`; colours that sRGB does not hold are clamped to 0..1."""
    linear = (color @ torch.linalg.inv(color.new_tensor(_OKLAB)).T).pow(3) @ torch.linalg.inv(color.new_tensor(_LMS)).T
    linear = linear.clamp(0, 1)
    return torch.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear.pow(1 / 2.4) - 0.055)
