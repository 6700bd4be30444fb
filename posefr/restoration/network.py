"""PoseFRNet: the asymmetric codec and the StyleGAN2 prior as one restorer.

Our reconstruction after arXiv 2205.14377, whose text beyond the abstract is not public to us. The figures and the
weights are this project's own, not the authors'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Linear

from ..errors import PoseFRError
from .chroma import CHROMA_TERMS, chroma_from_luma, luma_and_colors, with_green
from .codec import Decoder, Encoder, filtered, image_pyramid
from .refinement import FOLD, Refinement
from .stylegan2 import Synthesis, fir_upsample, seeded_noise

__all__ = ["CONFIGURATIONS", "Output", "PoseFRConfig", "PoseFRNet"]

_SMALLEST_RESIDUALS = 64, 128  # px, of the faithful decoder and of the free one
_LOW_BAND = 16  # px; the image at this size always passes, every finer band through a learned gain


def _scaled(**widths: int) -> dict[int, int]:
    return {int(name[1:]): width for name, width in widths.items()}


@dataclass(frozen=True)
class PoseFRConfig:
    """What a PoseFRNet is built from; stored in every checkpoint.

    Attributes:
        size: of the face crop in px: a power of two, at least 64.
        prior: width of the prior's scales, keyed by size in px (those above `size` are not built).
        decoder: width of the decoder's scales.
        blocks: number of MMRBs at each scale of the encoder, which is as wide as the prior there.
        style_channels: length of one W+ latent.
        conditioned: share of the prior's channels that the conditions reach.
        filters: whether the input passes through kernels of each pixel's own.
        chroma: whether colours have kernels of their own and are drawn after the image's luma.
        refined: sizes in px at which the image is refined (those above `size` are not built).
    """

    size: int = 256
    prior: Mapping[int, int] = field(
        default_factory=lambda: _scaled(s4=192, s8=192, s16=128, s32=96, s64=48, s128=24, s256=12)
    )
    decoder: Mapping[int, int] = field(
        default_factory=lambda: _scaled(s4=96, s8=96, s16=64, s32=48, s64=32, s128=16, s256=8)
    )
    blocks: Mapping[int, int] = field(default_factory=lambda: _scaled(s4=1, s8=2, s16=2, s32=2, s64=3))
    style_channels: int = 128
    conditioned: float = 0.5
    filters: bool = False
    chroma: bool = False
    refined: Sequence[int] = ()

    def __post_init__(self) -> None:
        if self.size < 64 or self.size & (self.size - 1):
            raise PoseFRError(f"A PoseFRNet's size is a power of two from 64 up; found {self.size}.")
        for name in ("prior", "decoder", "blocks"):
            # JSON has no integer keys; a checkpoint's configuration comes back with strings.
            object.__setattr__(self, name, {int(k): int(v) for k, v in getattr(self, name).items()})
        object.__setattr__(self, "refined", tuple(sorted({int(s) for s in self.refined})))  # nor has it tuples
        missing = [s for s in self.sizes if s not in self.prior or s not in self.decoder]
        missing += [s for s in self.sizes if s * 4 <= self.size and s not in self.blocks]
        if missing:
            raise PoseFRError(f"The configuration for {self.size} px has no width or blocks for the scales {missing}.")

    @property
    def sizes(self) -> list[int]:
        """Every scale in px, 4 to `size`."""
        sizes = [4]
        while sizes[-1] < self.size:
            sizes.append(sizes[-1] * 2)
        return sizes

    def sizes_from(self, smallest: int) -> list[int]:
        """The scales of at least `smallest` px."""
        return [s for s in self.sizes if s >= smallest]

    def at(self, size: int) -> PoseFRConfig:
        """The same network for crops of another size, to train small first."""
        return replace(self, size=size)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


CONFIGURATIONS: dict[str, PoseFRConfig] = {
    "posefr-256": PoseFRConfig(filters=True, chroma=True, refined=(256,)),
    "posefr-512": PoseFRConfig(
        size=512,
        prior=_scaled(s4=384, s8=384, s16=320, s32=256, s64=160, s128=80, s256=40, s512=20),
        decoder=_scaled(s4=192, s8=192, s16=160, s32=128, s64=80, s128=48, s256=24, s512=12),
        blocks=_scaled(s4=2, s8=3, s16=2, s32=2, s64=2, s128=2),
        style_channels=256,
        filters=True,
        chroma=True,
        refined=(512,),
    ),
}


@dataclass(frozen=True)
class Output:
    """What a forward pass gives.

    Attributes:
        image: [B, 3, S, S], around 0..1, not clamped.
        images: the decoder's small images for deep supervision, keyed by size (in training mode only).
        latents: [B, L, style_channels], the W+ latents.
    """

    image: Tensor
    images: dict[int, Tensor]
    latents: Tensor


class PoseFRNet(nn.Module):
    """Restores aligned face crops.

    The encoder gives the prior its W+ latents and, through a decoder, the conditions of each scale. The image is the
    sum over scales of what the prior paints, of the input's own band at that scale times a learned gain (0..2, at
    first 1), of what kernels of each pixel's own add to it, others to its colours, and of the codec's residual; at
    each scale from 32 px up, the colours then follow the luma as far as the decoder says. At the scales that the
    configuration names the image is refined last, times the fidelity. At the start all that a decoder says, the
    refinements and the layers to RGB are zero, so the output equals the input.

    There are two of the light decoders: `decoder` speaks at fidelity 1 and stays with what the input shows, `free`
    speaks at fidelity 0 and may invent; between them what they say is blended. So sharpness that is learnt by other
    losses than the error of pixels costs no likeness at fidelity 1. Kernels and colours are the first one's at any
    fidelity.

    Shape: degraded [B, 3, S, S] in 0..1, fidelity a number or [B] in 0..1, noise_seed; returns Output.
    """

    def __init__(self, config: PoseFRConfig) -> None:
        super().__init__()
        self.config = config
        prior = {s: config.prior[s] for s in config.sizes}
        self.prior = Synthesis(prior, config.style_channels)
        latents = {s: self.prior.block(s).latents for s in config.sizes}
        encoder_sizes = [s for s in config.sizes if s * 4 <= config.size]
        encoder_channels = {s: config.prior[s] for s in encoder_sizes}
        self.encoder = Encoder(config.size, encoder_channels, config.blocks, latents, config.style_channels)
        conditioned = {s: int(config.prior[s] * config.conditioned) for s in config.sizes}
        gained = config.sizes_from(2 * _LOW_BAND)
        self.decoder, self.free = (
            Decoder(config.size, encoder_channels, config.decoder, conditioned, gained, residuals, filters, chroma)
            for residuals, filters, chroma in zip(
                map(config.sizes_from, _SMALLEST_RESIDUALS),
                (config.filters, False),
                (config.chroma, False),
                strict=True,
            )
        )
        self.refinements = nn.ModuleDict(
            {
                str(s): Refinement(encoder_channels[s // FOLD] + config.decoder[s // FOLD])
                for s in config.refined
                if s in config.sizes_from(4 * FOLD)
            }
        )
        self.mean_latent = nn.Parameter(torch.zeros(config.style_channels))
        self.fidelity_latent = Linear(1, config.style_channels, bias=False)
        for size in config.sizes:
            nn.init.zeros_(self.prior.block(size).to_rgb.weight)

    def free_parameters(self) -> list[nn.Parameter]:
        """What speaks below fidelity 1 alone."""
        return [*self.free.parameters(), *self.fidelity_latent.parameters()]

    def forward(self, degraded: Tensor, fidelity: Tensor | float = 1.0, noise_seed: int = 0) -> Output:
        size = self.config.size
        if degraded.ndim != 4 or tuple(degraded.shape[1:]) != (3, size, size):
            raise ValueError(f"PoseFRNet takes [B, 3, {size}, {size}]; found {list(degraded.shape)}.")
        batch = degraded.shape[0]
        faithful = isinstance(fidelity, (int, float)) and fidelity == 1  # the other decoder would not be heard
        fidelity = torch.as_tensor(fidelity, dtype=degraded.dtype, device=degraded.device).expand(batch)
        fidelity = fidelity.reshape(batch, 1)
        pyramid = image_pyramid(degraded)
        centred = {s: image * 2 - 1 for s, image in pyramid.items()}
        features, offsets = self.encoder(centred)
        said = self.decoder(features, centred)
        if not faithful:
            said = said.blend(self.free(features, centred), 1 - fidelity[:, :, None, None])
        base = self.mean_latent + self.fidelity_latent(1 - fidelity)
        latents = {s: base[:, None] + offset for s, offset in offsets.items()}

        x: Tensor | None = None
        image: Tensor | None = None
        for s in self.config.sizes:
            scale, shift = said.conditions[s].chunk(2, 1)
            noise = seeded_noise(noise_seed, s, degraded.device)
            x, added = self.prior.block(s)(x, latents[s], noise, (scale, shift))
            image = added if image is None else fir_upsample(image) + added
            if s == _LOW_BAND:
                image = image + pyramid[s]
            elif s > _LOW_BAND:
                band = pyramid[s] - fir_upsample(pyramid[s // 2])
                image = image + band * (2 * torch.sigmoid(said.gains[s]))
            if s in said.kernels:
                image = image + filtered(pyramid[s], said.kernels[s])
            if s in said.residuals:
                image = image + said.residuals[s]
            if s in said.chroma:
                terms, kernels = said.chroma[s].tensor_split((CHROMA_TERMS,), 1)
                image = image + with_green(filtered(luma_and_colors(pyramid[s])[1], kernels))
                image = image + chroma_from_luma(image, terms)
            if str(s) in self.refinements:
                refined = self.refinements[str(s)](pyramid[s], image, said.seen[s])
                image = image + refined * fidelity[:, :, None, None].to(refined.dtype)
        assert image is not None
        small = {s: (small_image + 1) / 2 for s, small_image in said.images.items()}
        return Output(image, small, torch.cat([latents[s] for s in self.config.sizes], 1))

    def with_parts_of(self, config: PoseFRConfig) -> PoseFRNet:
        """This network with a configuration's filters, chroma and refinements, where it lacks them; they change nothing
        before they are trained."""
        own = self.config
        refined = (*own.refined, *config.refined)
        parts = replace(own, filters=own.filters or config.filters, chroma=own.chroma or config.chroma, refined=refined)
        network = PoseFRNet(parts)
        network.load_state_dict(network.state_dict() | self.state_dict())
        return network

    @torch.no_grad()
    def grow(self, size: int) -> PoseFRNet:
        """A network for crops of `size` px that starts where this one is: what is new is zero where it joins.

        Given the same face, the grown network gives this network's result, enlarged, plus the input's finer bands.
        """
        if size <= self.config.size:
            raise ValueError(f"A network of {self.config.size} px can grow to a larger size only; found {size}.")
        grown = PoseFRNet(self.config.at(size))
        known = self.state_dict()
        own = grown.state_dict()
        for name, value in known.items():
            own[name].copy_(value)
        for name, parameter in grown.named_parameters():
            joins = (name.startswith("encoder.scales.") and ".down." in name) or name.startswith(
                ("decoder.skip.", "free.skip.")
            )
            if joins and name not in known:
                nn.init.zeros_(parameter)
        return grown
