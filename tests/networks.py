"""A network small enough for fast tests."""

from __future__ import annotations

import torch

from posefr.restoration.network import PoseFRConfig, PoseFRNet

SMALL = PoseFRConfig(
    size=64,
    prior={4: 16, 8: 16, 16: 16, 32: 16, 64: 8, 128: 8},
    decoder={4: 8, 8: 8, 16: 8, 32: 8, 64: 8, 128: 8},
    blocks={4: 1, 8: 1, 16: 1, 32: 1},
    style_channels=16,
    filters=True,
    chroma=True,
    refined=(64,),
)


def awake(network: PoseFRNet, seed: int = 0) -> PoseFRNet:
    """The network with its zero-initialised layers filled, as after some training."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network
