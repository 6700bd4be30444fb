"""Differentiable augmentation for training a discriminator on few images (after arXiv 2006.10738)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import PoseFRError

__all__ = ["Augmentation"]


class Augmentation:
    """Changes images [B, 3, S, S] in 0..1 at random, each on its own; gradients pass through.

    Args:
        parts: names joined by commas, of `colour`, `shift` and `cutout`; empty changes nothing.

    Raises:
        PoseFRError: an unknown part.
    """

    def __init__(self, parts: str) -> None:
        known: dict[str, Callable[[Tensor], Tensor]] = {"colour": _colour, "shift": _shift, "cutout": _cutout}
        names = [name.strip() for name in parts.split(",") if name.strip()]
        unknown = [name for name in names if name not in known]
        if unknown:
            raise PoseFRError(f"The augmentation has no part {unknown[0]!r}; choose of {', '.join(known)}.")
        self._parts = [known[name] for name in names]

    def __call__(self, images: Tensor) -> Tensor:
        for part in self._parts:
            images = part(images)
        return images


def _uniform(images: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * torch.rand(len(images), 1, 1, 1, device=images.device, dtype=images.dtype)


def _colour(images: Tensor) -> Tensor:
    """Brightness by up to a quarter, saturation 0 to 2 times, contrast 0.5 to 1.5 times."""
    images = images + _uniform(images, -0.25, 0.25)
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * _uniform(images, 0, 2)
    mean = images.mean((1, 2, 3), keepdim=True)
    return mean + (images - mean) * _uniform(images, 0.5, 1.5)


def _shift(images: Tensor) -> Tensor:
    """By up to an eighth of the size along each axis; what comes in is grey."""
    batch, size = len(images), images.shape[-1]
    reach = size // 8
    offset = torch.randint(-reach, reach + 1, (2, batch, 1), device=images.device)
    steps = torch.arange(size, device=images.device) + reach
    padded = F.pad(images, [reach] * 4, value=0.5).permute(0, 2, 3, 1)
    rows, columns = steps + offset[0], steps + offset[1]  # [B, S]
    index = torch.arange(batch, device=images.device)[:, None, None]
    return padded[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _cutout(images: Tensor) -> Tensor:
    """A grey square of half the size, anywhere."""
    batch, size = len(images), images.shape[-1]
    centre = torch.randint(0, size + 1, (2, batch, 1), device=images.device)
    steps = torch.arange(size, device=images.device)
    inside = ((steps - centre + 0.5).abs() < size / 4).to(images.dtype)  # [2, B, S]
    hole = inside[0][:, None, :, None] * inside[1][:, None, None, :]
    return images * (1 - hole) + 0.5 * hole
