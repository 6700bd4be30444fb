"""The asymmetric codec: a heavy encoder of MMRBs and a light decoder (our reconstruction after arXiv 2205.14377)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn
from torch.nn import Conv2d, Linear
from torch.nn import functional as F

from .chroma import CHROMA_TERMS
from .mmrb import MMRB
from .stylegan2 import fir_upsample

__all__ = ["Decoder", "Encoder", "Guidance", "filtered", "image_pyramid"]

_SLOPE = 0.2
_DIRECTIONS = (0, 1), (1, 0), (1, 1), (1, -1)  # down, right
_PATCH = 4  # the stems fold 4x4 px of the image into one feature, the residuals unfold as many


def image_pyramid(image: Tensor, smallest: int = 4) -> dict[int, Tensor]:
    """The image [B, 3, S, S] at S, S/2, ... `smallest` px, each the mean of 2x2 px of the one before, keyed by size."""
    pyramid = {image.shape[-1]: image}
    while image.shape[-1] > smallest:
        image = F.avg_pool2d(image, 2)
        pyramid[image.shape[-1]] = image
    return pyramid


def filtered(image: Tensor, kernels: Tensor) -> Tensor:
    """What a symmetric kernel of 3x3 px of each pixel's own adds to an image: its second differences, weighed.

    Positive weights average along a direction, negative ones sharpen across it; one gain a pixel cannot do both.
    Kernels that a network predicts for each pixel are from Bako et al., "Kernel-Predicting Convolutional Networks for
    Denoising Monte Carlo Renderings", 2017, and Mildenhall et al., arXiv 1712.02327.

    Shape: image [B, C, H, W] and kernels [B, 4, H, W] to [B, C, H, W].
    """
    height, width = image.shape[2:]
    padded = F.pad(image, (1, 1, 1, 1), mode="replicate")
    change = image * (-2 * kernels.sum(1, keepdim=True))
    for (y, x), weight in zip(_DIRECTIONS, kernels.split(1, 1), strict=True):
        one = padded[:, :, 1 + y : 1 + y + height, 1 + x : 1 + x + width]
        other = padded[:, :, 1 - y : 1 - y + height, 1 - x : 1 - x + width]
        change = torch.addcmul(change, one + other, weight)
    return change


class EncoderScale(nn.Module):
    """One scale: the larger scale stepped down (where there is one) plus a patch stem of the image, then MMRBs.

    Every scale has a stem of its own. So a larger scale put in front later, with its step down at zero, leaves the
    result as it was.
    """

    def __init__(self, in_channels: int | None, channels: int, blocks: int) -> None:
        super().__init__()
        self.down = None if in_channels is None else Conv2d(in_channels, channels, 3, stride=2, padding=1)
        self.stem = Conv2d(3 * _PATCH * _PATCH, channels, 1)
        self.blocks = nn.Sequential(*[MMRB(channels) for _ in range(blocks)])

    def forward(self, larger: Tensor | None, image: Tensor) -> Tensor:
        x = self.stem(F.pixel_unshuffle(image, _PATCH))
        if self.down is not None:
            x = x + self.down(larger)
        return self.blocks(F.leaky_relu(x, _SLOPE))


class Encoder(nn.Module):
    """Image pyramid to feature pyramid and W+ latents.

    Args:
        size: of the image in px; the largest features have size / 4.
        channels: width of each scale, keyed by size in px.
        blocks: number of MMRBs at each scale, keyed by size in px.
        latents: latents per prior scale, keyed by size in px.
        style_channels: length of a latent.

    Shape: pyramid of [B, 3, s, s] to ({s: [B, C_s, s, s]} for s = 4 ... size / 4, {s: [B, latents_s, style_channels]}).
    """

    def __init__(
        self,
        size: int,
        channels: Mapping[int, int],
        blocks: Mapping[int, int],
        latents: Mapping[int, int],
        style_channels: int,
    ) -> None:
        super().__init__()
        self.sizes: Sequence[int] = [s for s in sorted(channels, reverse=True) if s * _PATCH <= size]
        self.scales = nn.ModuleDict()
        width: int | None = None
        for s in self.sizes:
            self.scales[str(s)] = EncoderScale(width, channels[s], blocks[s])
            width = channels[s]
        assert width is not None
        squeezed = 32
        self.squeeze = Conv2d(width, squeezed, 1)
        self.mix = Linear(squeezed * 16, 2 * style_channels)
        self.heads = nn.ModuleDict(
            {str(s): Linear(2 * style_channels, count * style_channels) for s, count in latents.items()}
        )
        self.style_channels = style_channels

    def forward(self, pyramid: Mapping[int, Tensor]) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        features: dict[int, Tensor] = {}
        x: Tensor | None = None
        for s in self.sizes:
            x = features[s] = self.scales[str(s)](x, pyramid[s * _PATCH])
        assert x is not None
        code = F.leaky_relu(self.mix(self.squeeze(x).flatten(1)), _SLOPE)
        latents = {int(s): head(code).unflatten(1, (-1, self.style_channels)) for s, head in self.heads.items()}
        return features, latents


class PatchHead(nn.Sequential):
    """A residual image of four times the features' size: each position paints its own 4x4 px.

    Noise and compression are taken away here: at full size, but at the cost of a quarter of it. Zero at first.

    Shape: [B, channels, s, s] to [B, 3, 4s, 4s].
    """

    def __init__(self, channels: int, hidden: int = 48) -> None:
        out = Conv2d(hidden, 3 * _PATCH * _PATCH, 1)
        for parameter in out.parameters():
            nn.init.zeros_(parameter)
        super().__init__(Conv2d(channels, hidden, 3, padding=1), nn.LeakyReLU(_SLOPE), out, nn.PixelShuffle(_PATCH))


@dataclass(frozen=True)
class Guidance:
    """What a decoder says, keyed by size in px.

    Attributes:
        conditions: {s: [B, 2 K_s, s, s]}, scale and shift of the prior's features.
        gains: {s: [B, 3, s, s]}, of the input's own band; 0 lets it pass, lower values damp it.
        kernels: {s: [B, 4, s, s]}, of each pixel in the input; 0 leaves it as it is.
        chroma: {s: [B, 7, s, s]}, how far colour follows luma in three ways, and kernels of the input's colours alone;
            0 leaves them as they are.
        residuals: {s: [B, 3, s, s]}, added to the image.
        images: {s: [B, 3, s, s]}, small images for deep supervision (in training mode only).
        seen: {s: [B, K_s, s / 4, s / 4]}, the features that it said this from.
    """

    conditions: dict[int, Tensor]
    gains: dict[int, Tensor]
    kernels: dict[int, Tensor]
    chroma: dict[int, Tensor]
    residuals: dict[int, Tensor]
    images: dict[int, Tensor]
    seen: dict[int, Tensor]

    def blend(self, other: Guidance, weight: Tensor) -> Guidance:
        """This guidance where `weight` [B, 1, 1, 1] is 0, the other where it is 1 and has something to say."""

        def mixed(own: dict[int, Tensor], theirs: dict[int, Tensor]) -> dict[int, Tensor]:
            return {
                size: torch.lerp(mine, theirs.get(size, mine), weight.to(mine.dtype).expand_as(mine))
                for size, mine in own.items()
            }

        said = [entry.name for entry in fields(self) if entry.name != "seen"]
        return replace(self, **{name: mixed(getattr(self, name), getattr(other, name)) for name in said})


class Decoder(nn.Module):
    """Feature pyramid back up, one convolution a scale. All that it says is zero at first.

    Args:
        size: of the image in px.
        encoder_channels: width of the encoder's features, keyed by size.
        channels: width of the decoder's features, keyed by size, for every scale up to `size`.
        conditioned: number of the prior's channels that the conditions reach, keyed by size.
        gained: sizes at which the input's own band has a gain.
        residuals: sizes of the residual images.
        filters: whether there are kernels where there are gains.
        chroma: whether there are weights of `chroma_from_luma` and kernels of the colours where there are gains.

    Shape: features and pyramid as Encoder has them; returns Guidance.
    """

    def __init__(
        self,
        size: int,
        encoder_channels: Mapping[int, int],
        channels: Mapping[int, int],
        conditioned: Mapping[int, int],
        gained: Sequence[int],
        residuals: Sequence[int],
        filters: bool,
        chroma: bool,
    ) -> None:
        super().__init__()
        self.sizes: Sequence[int] = [s for s in sorted(channels) if s <= size]
        self.up, self.skip, self.view, self.patches = (nn.ModuleDict() for _ in range(4))
        self.conditions, self.gains, self.kernels, self.chroma, self.to_rgb = (nn.ModuleDict() for _ in range(5))
        for s in self.sizes:
            key = str(s)
            if s > 4:
                self.up[key] = Conv2d(channels[s // 2], channels[s], 3, padding=1)
            if s * _PATCH <= size:
                self.skip[key] = Conv2d(encoder_channels[s], channels[s], 1)
            self.view[key] = Conv2d(3, channels[s], 3, padding=1)
            self.conditions[key] = Conv2d(channels[s], 2 * conditioned[s], 1)
            if s in gained:
                self.gains[key] = Conv2d(channels[s], 3, 1)
                if filters:
                    self.kernels[key] = Conv2d(channels[s], len(_DIRECTIONS), 1)
                if chroma:
                    self.chroma[key] = Conv2d(channels[s], CHROMA_TERMS + len(_DIRECTIONS), 1)
            if 8 <= s < size:
                self.to_rgb[key] = Conv2d(channels[s], 3, 1)
            if s * _PATCH in residuals:
                self.patches[key] = PatchHead(encoder_channels[s] + channels[s])
        for layers in (self.conditions, self.gains, self.kernels, self.chroma, self.to_rgb):
            for parameter in layers.parameters():
                nn.init.zeros_(parameter)

    def forward(self, features: Mapping[int, Tensor], pyramid: Mapping[int, Tensor]) -> Guidance:
        said = Guidance({}, {}, {}, {}, {}, {}, {})
        x: Tensor | None = None
        for s in self.sizes:
            key = str(s)
            seen = self.view[key](pyramid[s])
            if key in self.skip:
                seen = seen + self.skip[key](features[s])
            if x is not None:
                seen = seen + fir_upsample(self.up[key](x))
            x = F.leaky_relu(seen, _SLOPE)
            said.conditions[s] = self.conditions[key](x)
            if key in self.gains:
                said.gains[s] = self.gains[key](x)
            if key in self.kernels:
                said.kernels[s] = self.kernels[key](x)
            if key in self.chroma:
                said.chroma[s] = self.chroma[key](x)
            if s in features:
                said.seen[s * _PATCH] = torch.cat([features[s], x], 1)
            if key in self.patches:
                said.residuals[s * _PATCH] = self.patches[key](said.seen[s * _PATCH])
            if key in self.to_rgb and self.training:
                said.images[s] = pyramid[s] + self.to_rgb[key](x)
        return said
