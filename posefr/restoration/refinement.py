"""A second look at a restored image, beside the image that it was made from."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import Conv2d
from torch.nn import functional as F

__all__ = ["FOLD", "Refinement"]

FOLD = 4  # px of the image a side for each position of the features
_FOLD = 2  # the same for the layers here: at full size they would cost four times as much, at a quarter say less
_SLOPE = 0.2
_CHANGES = 8.0  # what the changes are enlarged by, to be about as large as the image
_SAID = 0.1


class _Block(nn.Module):
    def __init__(self, channels: int, scale: float = 0.3) -> None:
        super().__init__()
        self.first, self.second = (Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.second(F.leaky_relu(self.first(x), _SLOPE))


class Refinement(nn.Module):
    """What is added to a restored image after a look at it, at the input and at the features, in squares of 2x2 px.

    The features describe squares of 4x4 px, in which noise and what compression leaves are hard to tell from fine
    detail; here each of them is unfolded first. Zero at first.

    Args:
        channels: of the features, at least 4.
        width: of the layers.
        blocks: residual blocks of two convolutions.

    Shape: degraded and image [B, 3, S, S], around 0..1, and features [B, channels, S / 4, S / 4] to [B, 3, S, S].
    """

    def __init__(self, channels: int, width: int = 32, blocks: int = 2) -> None:
        super().__init__()
        places = (FOLD // _FOLD) ** 2
        unfolded = channels // places
        self.features = Conv2d(channels, unfolded * places, 1)
        self.look = Conv2d(2 * 3 * _FOLD**2 + unfolded, width, 3, padding=1)
        self.blocks = nn.Sequential(*[_Block(width) for _ in range(blocks)])
        self.out = Conv2d(width, 3 * _FOLD**2, 1)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)

    def forward(self, degraded: Tensor, image: Tensor, features: Tensor) -> Tensor:
        changes = (image - degraded) * _CHANGES
        seen = [
            F.pixel_unshuffle(degraded * 2 - 1, _FOLD),
            F.pixel_unshuffle(changes, _FOLD),
            F.pixel_shuffle(F.leaky_relu(self.features(features), _SLOPE), FOLD // _FOLD),
        ]
        x = self.blocks(F.leaky_relu(self.look(torch.cat(seen, 1)), _SLOPE))
        return F.pixel_shuffle(self.out(F.leaky_relu(x, _SLOPE)), _FOLD) * _SAID
