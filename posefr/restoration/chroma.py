"""The detail of colour, drawn after that of brightness."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..color import LUMA

__all__ = ["CHROMA_TERMS", "chroma_from_luma", "luma_and_colors", "with_green"]

CHROMA_TERMS = 3  # what `chroma_from_luma` can add, each with a weight of its own
_NOISE = 3e-5  # variance of luma that says nothing about colour: a deviation of 1.4 of 255


def chroma_from_luma(image: Tensor, weights: Tensor) -> Tensor:
    """What an image's brightness says about its colours: a change of colour that leaves the luma as it is.

    Compression keeps colour at half the size, and noise hides it first; but around each pixel the colours (less their
    luma) lie close to a line over the luma, whose slope and offset are seen at a smaller size already. The line is
    fitted as in the guided filter (He, Sun, Tang, "Guided Image Filtering", 2010), over 3x3 px of the image at half
    and at a quarter of its size. The three terms are the luma's detail times the slope at half size, the same at a
    quarter, and the way from each pixel to the line at half size. Computed in float32.

    Shape: image [B, 3, H, W], around 0..1, H and W divisible by 4, and weights [B, 3, H, W], one for each term (0
        adds nothing), to [B, 3, H, W] of the image's dtype.
    """
    picture, size = image.float(), image.shape[2:]
    to_half, to_quarter, to_line = weights.float().split(1, 1)
    half = F.avg_pool2d(picture, 2)
    light, colors = luma_and_colors(picture)
    light_at_half, colors_at_half = luma_and_colors(half)
    light_at_quarter, colors_at_quarter = luma_and_colors(F.avg_pool2d(half, 2))
    slope, offset = _line(light_at_half, colors_at_half)
    slope_at_quarter, _ = _line(light_at_quarter, colors_at_quarter)

    detail = (light - _enlarged(light_at_half, size)) * to_half
    change = _enlarged(_around(slope), size) * detail
    detail = (light - _enlarged(light_at_quarter, size)) * to_quarter
    change = torch.addcmul(change, _enlarged(_around(slope_at_quarter), size), detail)
    line = torch.addcmul(_enlarged(offset, size), _enlarged(slope, size), light)
    return with_green(torch.addcmul(change, line - colors, to_line)).to(image.dtype)


def luma_and_colors(image: Tensor) -> tuple[Tensor, Tensor]:
    """[B, 3, H, W] to its luma [B, 1, H, W] and to red and blue less the luma [B, 2, H, W]; green follows from them."""
    red, green, blue = image.split(1, 1)
    light = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
    return light, torch.cat([red - light, blue - light], 1)


def with_green(colors: Tensor) -> Tensor:
    """Red and blue less the luma [B, 2, H, W] to all three colours less it [B, 3, H, W]."""
    red, blue = colors.split(1, 1)
    return torch.cat([red, -(LUMA[0] * red + LUMA[2] * blue) / LUMA[1], blue], 1)


def _around(values: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(values, (1, 1, 1, 1), mode="replicate"), 3, 1)


def _enlarged(values: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(values, size=size, mode="bilinear", align_corners=False)


def _line(light: Tensor, colors: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and offset [B, 2, H, W] of the line of colours over luma around each pixel."""
    mean, mean_color = _around(light), _around(colors)
    variance = (_around(light.square()) - mean.square()).clamp_min(0)
    slope = (_around(colors * light) - mean_color * mean) / (variance + _NOISE)
    return slope, mean_color - slope * mean
