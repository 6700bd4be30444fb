"""The StyleGAN2 prior: modulated convolutions and the synthesis network (arXiv 1912.04958), in plain PyTorch operators.

Modulation scales the input's channels and demodulation the output's, which equals scaling the weights per sample
(equations 1 and 3 there) and needs no grouped convolution.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "EqualizedLinear",
    "ModulatedConv2d",
    "NoiseInjection",
    "Synthesis",
    "SynthesisBlock",
    "fir_upsample",
    "seeded_noise",
    "transform_part",
]

_FP16_LIMIT = 256.0  # activations are clamped here in fp16, as in arXiv 1912.04958's official successor (StyleGAN2-ADA)
_SLOPE, _GAIN = 0.2, math.sqrt(2.0)


def fir_upsample(x: Tensor) -> Tensor:
    """Enlarge [B, C, H, W] twofold with the FIR filter [1, 3, 3, 1], the borders repeated: bilinear interpolation."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def seeded_noise(seed: int, size: int, device: torch.device | str = "cpu") -> Tensor:
    """Standard normal noise [1, 1, size, size], the same for the same seed and size on every device."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + size) % (1 << 63))
    return torch.randn(1, 1, size, size, generator=generator).to(device)


def _activate(x: Tensor) -> Tensor:
    x = F.leaky_relu(x, _SLOPE) * _GAIN
    return x.clamp(-_FP16_LIMIT, _FP16_LIMIT) if x.dtype == torch.float16 else x


class EqualizedLinear(nn.Module):
    """A linear layer with an equalized learning rate: [B, in_channels] to [B, out_channels], biases start at `bias`."""

    def __init__(self, in_channels: int, out_channels: int, bias: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels))
        self.bias = nn.Parameter(torch.full((out_channels,), bias))
        self.gain = 1 / math.sqrt(in_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.gain, self.bias)


class ModulatedConv2d(nn.Module):
    """A convolution whose weights are scaled per sample by a style and normalised again (weight demodulation).

    Args:
        in_channels, out_channels: of the convolution.
        kernel: kernel size in px, 1 or 3.
        style_channels: length of the latent that the style is computed from.
        demodulate: scale each output channel to unit expected variance (off for the layer to RGB).
        upsample: enlarge twofold: a transposed convolution of stride 2, then the FIR filter [1, 3, 3, 1].

    Shape: x [B, in_channels, H, W] and latent [B, style_channels] to [B, out_channels, H, W], or 2H x 2W.
    """

    fir: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        style_channels: int,
        demodulate: bool = True,
        upsample: bool = False,
    ) -> None:
        super().__init__()
        self.demodulate, self.upsample = demodulate, upsample
        # Stored at unit variance and scaled in use, so that Adam's steps fit the layer's width (equalized learning
        # rate, arXiv 1710.10196).
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.weight_gain = 1 / math.sqrt(in_channels * kernel * kernel)
        self.style = EqualizedLinear(style_channels, in_channels, bias=1.0)
        self.register_buffer("fir", torch.tensor([1.0, 3.0, 3.0, 1.0]) / 4, persistent=False)

    def forward(self, x: Tensor, latent: Tensor) -> Tensor:
        style = self.style(latent).float()
        weight = self.weight * self.weight_gain
        if self.demodulate:
            # Demodulation cancels any common factor, so styles and weights are normalised to keep fp16 in range.
            style = style / style.abs().amax(1, keepdim=True).clamp_min(1e-8)
            power = weight.float().square().sum((2, 3))  # [out, in]
            demodulation = (style.square() @ power.t() + 1e-8).rsqrt()
        x = x * style.to(x.dtype)[:, :, None, None]
        if self.upsample:
            x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
            channels, fir = x.shape[1], self.fir.to(x.dtype)
            x = F.conv2d(x, fir.expand(channels, 1, 1, 4), padding=(0, 1), groups=channels)
            x = F.conv2d(x, fir[:, None].expand(channels, 1, 4, 1), padding=(1, 0), groups=channels)
        else:
            x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
        if self.demodulate:
            x = x * demodulation.to(x.dtype)[:, :, None, None]
        return x + self.bias.to(x.dtype)[:, None, None]


class NoiseInjection(nn.Module):
    """Adds noise [1 or B, 1, H, W] times a learned strength, zero at first, to [B, C, H, W]."""

    def __init__(self) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        return x + (self.strength * noise).to(x.dtype)


class SynthesisBlock(nn.Module):
    """One scale of the synthesis network: enlarge and convolve, convolve, and a contribution to the RGB image.

    The first block has no `up`: it convolves the learned constant. `condition`, where given to forward, is applied
    between the two convolutions, so that the second one carries it to every channel.

    Shape: x [B, in_channels, size/2, size/2] (ignored by the first block), latents [B, latents, style_channels],
        noises one or two [1, 1, size, size]; returns features [B, out_channels, size, size] and RGB [B, 3, size, size].
    """

    def __init__(self, in_channels: int, out_channels: int, size: int, style_channels: int, first: bool) -> None:
        super().__init__()
        self.size, self.first = size, first
        self.latents = 2 if first else 3
        if first:
            self.constant = nn.Parameter(torch.randn(1, out_channels, size, size))
        else:
            self.up = ModulatedConv2d(in_channels, out_channels, 3, style_channels, upsample=True)
            self.up_noise = NoiseInjection()
        self.conv = ModulatedConv2d(out_channels, out_channels, 3, style_channels)
        self.conv_noise = NoiseInjection()
        self.to_rgb = ModulatedConv2d(out_channels, 3, 1, style_channels, demodulate=False)

    def forward(
        self, x: Tensor | None, latents: Tensor, noise: Tensor, condition: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        styles = list(latents.unbind(1))
        if self.first:
            x = self.constant.to(latents.dtype).expand(latents.shape[0], -1, -1, -1)
        else:
            assert x is not None
            x = _activate(self.up_noise(self.up(x, styles.pop(0)), noise))
        if condition is not None:
            x = transform_part(x, *condition)
        # The same noise would add up in both layers; the second sees it mirrored.
        x = _activate(self.conv_noise(self.conv(x, styles.pop(0)), noise.flip(3)))
        return x, self.to_rgb(x, styles.pop(0))


def transform_part(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Spatial feature transform (arXiv 1804.02815) on the first channels of x; the others pass.

    Shape: x [B, C, H, W], scale and shift [B, K, H, W] with K <= C; x[:, :K] * (1 + scale) + shift.
    """
    count = scale.shape[1]
    part = torch.addcmul(x[:, :count] + shift, x[:, :count], scale)
    return torch.cat([part, x[:, count:]], 1)


class Synthesis(nn.Module):
    """StyleGAN2's synthesis network with skip connections to RGB, from 4x4 up to the largest scale.

    Args:
        channels: width of each scale, keyed by its size in px: {4: 192, 8: 192, ...}, each twice the one before.
        style_channels: length of each latent of W+.

    `forward` gives the image alone; PoseFRNet walks through `blocks` itself, to condition each scale.
    """

    def __init__(self, channels: Mapping[int, int], style_channels: int) -> None:
        super().__init__()
        self.sizes: Sequence[int] = sorted(channels)
        if list(self.sizes) != [4 << i for i in range(len(self.sizes))]:
            raise ValueError(f"The prior's scales must be 4, 8, 16, ...; found {list(self.sizes)}.")
        self.blocks = nn.ModuleDict()
        width = channels[4]
        for size in self.sizes:
            self.blocks[str(size)] = SynthesisBlock(width, channels[size], size, style_channels, first=size == 4)
            width = channels[size]
        self.latents = sum(self.block(size).latents for size in self.sizes)

    def block(self, size: int) -> SynthesisBlock:
        """The block of one scale."""
        block = self.blocks[str(size)]
        assert isinstance(block, SynthesisBlock)
        return block

    def forward(self, latents: Tensor, seed: int = 0) -> Tensor:
        """W+ latents [B, self.latents, style_channels] to RGB [B, 3, size, size], unbounded around 0."""
        x: Tensor | None = None
        rgb: Tensor | None = None
        start = 0
        for size in self.sizes:
            block = self.block(size)
            noise = seeded_noise(seed, size, latents.device)
            x, added = block(x, latents[:, start : start + block.latents], noise)
            start += block.latents
            rgb = added if rgb is None else fir_upsample(rgb) + added
        assert rgb is not None
        return rgb
