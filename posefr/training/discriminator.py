"""The discriminator: StyleGAN2's residual one (arXiv 1912.04958), narrow, in plain PyTorch operators."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import Conv2d, Linear
from torch.nn import functional as F

from ..restoration.stylegan2 import fir_upsample

__all__ = ["Discriminator"]

_SLOPE = 0.2
_BAND_GAINS = (20.0, 8.0)  # of the finest band and the next: skin and hair are a hundredth of the picture's contrast


def _with_bands(image: Tensor) -> Tensor:
    """The image in -1..1 and its finest bands, amplified, [B, 9, S, S].

    Without them the discriminator sees colours and outlines only: on restored and real faces its loss stayed at chance
    for hundreds of steps.
    """
    views, fine = [image * 2 - 1], image
    for level, gain in enumerate(_BAND_GAINS, 1):
        coarse = F.avg_pool2d(image, 2**level)
        for _ in range(level):
            coarse = fir_upsample(coarse)
        views.append((fine - coarse) * gain)
        fine = coarse
    return torch.cat(views, 1)


class _Block(nn.Module):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(in_channels, in_channels, 3, padding=1)
        self.down = Conv2d(in_channels, out_channels, 3, padding=1)
        self.skip = Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.conv(x), _SLOPE)
        y = F.leaky_relu(self.down(F.avg_pool2d(y, 2)), _SLOPE)
        return (y + self.skip(F.avg_pool2d(x, 2))) / math.sqrt(2)


class Discriminator(nn.Module):
    """Logits [B, 1] for images [B, 3, size, size] in 0..1.

    Args:
        size: px, a power of two.
        width: channels at the full size; doubled with each halving, up to 8 times.
    """

    def __init__(self, size: int, width: int = 24) -> None:
        super().__init__()
        # The first step folds 2x2 px into channels: the full size costs little.
        self.stem = Conv2d(12 * (1 + len(_BAND_GAINS)), 2 * width, 3, padding=1)
        blocks, channels, size = [], 2 * width, size // 2
        while size > 4:
            wider = min(8 * width, 2 * channels)
            blocks.append(_Block(channels, wider))
            channels, size = wider, size // 2
        self.blocks = nn.Sequential(*blocks)
        self.last = Conv2d(channels + 1, channels, 3, padding=1)
        self.logit = Linear(channels * 16, 1)

    def features(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """What each scale sees, [B, C, s, s] from size / 2 down to 4 px, and the logits [B, 1]."""
        x = F.leaky_relu(self.stem(F.pixel_unshuffle(_with_bands(image), 2)), _SLOPE)
        seen = [x]
        for block in self.blocks:
            x = block(x)
            seen.append(x)
        # Minibatch standard deviation (arXiv 1710.10196); equal images must not have an infinite gradient.
        spread = (x.float().var(0, correction=0) + 1e-8).sqrt().mean().to(x.dtype)
        x = torch.cat([x, spread.expand(x.shape[0], 1, *x.shape[2:])], 1)
        return seen, self.logit(F.leaky_relu(self.last(x), _SLOPE).flatten(1))

    def forward(self, image: Tensor) -> Tensor:
        return self.features(image)[1]
