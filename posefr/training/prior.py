"""The StyleGAN2 prior on its own (arXiv 1912.04958): a mapping network, and the synthesis network of PoseFRNet."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import PoseFRError
from ..restoration.checkpoint import read_metadata
from ..restoration.network import PoseFRConfig, PoseFRNet
from ..restoration.shards import read_tensors
from ..restoration.stylegan2 import Synthesis
from ..weightfiles import write_safetensors

__all__ = ["MappingNetwork", "Prior", "PriorConfig", "load_prior", "save_prior", "take_prior"]

_FORMAT = "posefr-prior-1"
_SLOW = 0.01  # the mapping network learns this much slower


@dataclass(frozen=True)
class PriorConfig:
    """Shapes of a prior.

    Attributes:
        channels: width of each scale, keyed by size in px. style_channels: length of a latent, and of z.
        layers: of the mapping network.
    """

    channels: Mapping[int, int]
    style_channels: int
    layers: int = 6

    def __post_init__(self) -> None:
        # JSON has no integer keys.
        object.__setattr__(self, "channels", {int(k): int(v) for k, v in self.channels.items()})

    @classmethod
    def of(cls, config: PoseFRConfig) -> PriorConfig:
        """The prior of a PoseFRNet."""
        return cls({s: config.prior[s] for s in config.sizes}, config.style_channels)

    @property
    def size(self) -> int:
        """px of the images."""
        return max(self.channels)


class MappingLayer(nn.Module):
    """A linear layer with an equalized and slower learning rate, then a leaky ReLU: [B, C] to [B, C]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, channels) / _SLOW)
        self.bias = nn.Parameter(torch.zeros(channels))
        self.gain = _SLOW / math.sqrt(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(F.linear(x, self.weight * self.gain, self.bias * _SLOW), 0.2) * math.sqrt(2)


class MappingNetwork(nn.Sequential):
    """z [B, C], standard normal, to w [B, C]."""

    def __init__(self, channels: int, layers: int) -> None:
        super().__init__(*[MappingLayer(channels) for _ in range(layers)])

    def forward(self, z: Tensor) -> Tensor:
        result: Tensor = super().forward(z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt())
        return result


class Prior(nn.Module):
    """z to images."""

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.config = config
        self.mapping = MappingNetwork(config.style_channels, config.layers)
        self.synthesis = Synthesis(config.channels, config.style_channels)
        with torch.no_grad():
            # Pictures start nearly grey. At full strength they start as glaring noise, and the discriminator has won
            # before the layers to RGB are small enough.
            for size in self.synthesis.sizes:
                self.synthesis.block(size).to_rgb.weight.mul_(0.1)

    def styles(self, z: Tensor, other: Tensor | None = None, crossover: int = 0) -> Tensor:
        """W+ latents [B, L, C]; with `other`, those from number `crossover` on are of that z (style mixing)."""
        latents = self.mapping(z)[:, None].expand(-1, self.synthesis.latents, -1)
        if other is None:
            return latents
        return torch.cat([latents[:, :crossover], self.styles(other)[:, crossover:]], 1)

    def forward(self, z: Tensor, seed: int = 0, truncation: float = 1.0) -> Tensor:
        """Images [B, 3, S, S], around 0..1; truncation below 1 keeps them near the mean face."""
        latents = self.styles(z)
        if truncation < 1:
            latents = self.mean_latent().lerp(latents, truncation)
        return self.paint(latents, seed)

    def paint(self, latents: Tensor, seed: int = 0) -> Tensor:
        """W+ latents [B, L, C] to images [B, 3, S, S], around 0..1."""
        return (self.synthesis(latents, seed) + 1) / 2

    @torch.no_grad()
    def mean_latent(self, samples: int = 4096) -> Tensor:
        """[C], the mean w of seeded z."""
        z = torch.randn(samples, self.config.style_channels, generator=torch.Generator().manual_seed(0))
        return self.mapping(z.to(next(self.parameters()).device)).mean(0)


def save_prior(prior: Prior, path: Path, provenance: Mapping[str, Any], dtype: torch.dtype = torch.float16) -> None:
    """Write a prior, whole or not at all."""
    tensors = {name: value.detach().to("cpu", dtype).contiguous() for name, value in prior.state_dict().items()}
    metadata = {
        "format": _FORMAT,
        "configuration": json.dumps(asdict(prior.config)),
        "provenance": json.dumps(dict(provenance)),
    }
    write_safetensors(tensors, metadata, path)


def load_prior(path: Path) -> tuple[Prior, dict[str, Any]]:
    """Load a prior in float32 on the CPU, and its provenance.

    Raises:
        PoseFRError: not a prior, or its tensors do not fit its own configuration.
    """
    metadata = read_metadata(path)
    if metadata.get("format") != _FORMAT:
        raise PoseFRError(
            f"{path.name} is not a PoseFR prior (format {metadata.get('format', 'missing')!r}, expected {_FORMAT!r})."
        )
    try:
        prior = Prior(PriorConfig(**json.loads(metadata["configuration"])))
        prior.load_state_dict({name: value.float() for name, value in read_tensors(path).items()})
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise PoseFRError(f"{path.name} does not fit the configuration stored in it: {reason}") from None
    return prior, json.loads(metadata.get("provenance", "{}"))


@torch.no_grad()
def take_prior(network: PoseFRNet, prior: Prior, smallest: int = 4) -> list[str]:
    """Give a PoseFRNet the weights of a prior that was trained alone.

    The layers to RGB stay as they are: a fresh network's are zero, so that it starts from its input and not from a
    face of its own. Every other tensor of the synthesis network is taken where its shape fits, and the mean latent.

    Args:
        smallest: scale in px from which on tensors are taken, for a network that has just grown; the mean latent goes
            with the scale of 4 px.

    Returns:
        Names of the network's tensors that the prior has, but in another shape.
    """
    own = network.prior.state_dict()
    refused = []
    for name, value in prior.synthesis.state_dict().items():
        if name not in own or ".to_rgb." in name or int(name.split(".")[1]) < smallest:  # blocks.SIZE.
            continue
        if own[name].shape == value.shape:
            own[name].copy_(value)
        else:
            refused.append(f"prior.{name}")
    if smallest > 4:
        return refused
    mean = prior.mean_latent()
    if network.mean_latent.shape == mean.shape:
        network.mean_latent.copy_(mean)
    else:
        refused.append("mean_latent")
    return refused
