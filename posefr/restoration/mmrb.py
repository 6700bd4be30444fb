"""The mixed multi-path residual block (MMRB).

The name and the idea, paths of different reach that are mixed to sense weak local texture in a plug-and-play residual
block, are from arXiv 2205.14377. The layout below is our own reconstruction: the paper's text beyond its abstract is
not public to us.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import Conv2d
from torch.nn import functional as F

__all__ = ["MMRB", "ChannelAttention"]

_SLOPE = 0.2


class ChannelAttention(nn.Module):
    """Weights each channel by a value in 0..1 computed from the channels' means (squeeze and excitation,
    arXiv 1709.01507).

    Shape: [B, C, H, W] to [B, C, H, W].
    """

    def __init__(self, channels: int, reduction: int = 8) -> None:
        super().__init__()
        hidden = max(8, channels // reduction)
        self.squeeze = Conv2d(channels, hidden, 1)
        self.excite = Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.excite(F.relu(self.squeeze(mean))))


class MMRB(nn.Module):
    """A residual block of three parallel paths (1x1, 3x3, dilated 3x3) that are mixed twice.

    Each path's second stage sees every path's first; a 1x1 convolution fuses the second stage, channel attention
    weighs it, and a learned scale adds it to the input. It can stand wherever a residual block of the same number
    of channels stands.

    Args:
        channels: channels in and out.
        reduction: each path is channels // reduction wide (at least 8).
        dilation: of the third path.
        scale: the residual's initial weight, learned per channel.

    Shape: [B, channels, H, W] to the same; any H and W.
    """

    def __init__(self, channels: int, reduction: int = 4, dilation: int = 2, scale: float = 0.2) -> None:
        super().__init__()
        width = max(8, channels // reduction)
        self.first = nn.ModuleList(self._paths(channels, width, dilation))
        self.second = nn.ModuleList(self._paths(3 * width, width, dilation))
        self.fuse = Conv2d(3 * width, channels, 1)
        self.attention = ChannelAttention(channels)
        self.scale = nn.Parameter(torch.full((1, channels, 1, 1), scale))

    @staticmethod
    def _paths(channels: int, width: int, dilation: int) -> list[nn.Conv2d]:
        return [
            Conv2d(channels, width, 1),
            Conv2d(channels, width, 3, padding=1),
            Conv2d(channels, width, 3, padding=dilation, dilation=dilation),
        ]

    def forward(self, x: Tensor) -> Tensor:
        mixed = F.leaky_relu(torch.cat([path(x) for path in self.first], 1), _SLOPE)
        mixed = F.leaky_relu(torch.cat([path(mixed) for path in self.second], 1), _SLOPE)
        return x + self.scale * self.attention(self.fuse(mixed))
