"""What a restorer costs: its parameters, and the multiplications of a pass over one face."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .restorer import Restorer

__all__ = ["Cost", "cost_of"]


@dataclass(frozen=True)
class Cost:
    """A restorer's size and work.

    Attributes:
        parameters: the numbers that it has learnt.
        macs: multiply-accumulate operations for one face, of convolutions and matrix products, as PyTorch's own counter
            sees them. It gives two operations for each.
    """

    parameters: int
    macs: int


def cost_of(restorer: Restorer) -> Cost:
    """Restore one grey face and count."""
    from torch.utils.flop_counter import FlopCounterMode

    parameter = next(restorer.network.parameters())
    face = torch.full((1, 3, restorer.size, restorer.size), 0.5, device=parameter.device, dtype=parameter.dtype)
    # Before torch 2.6 the counter sees nothing in inference mode, so not by restore().
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        restorer.call(restorer.network, face, 0.5, 0)
    return Cost(sum(p.numel() for p in restorer.network.parameters()), counter.get_total_flops() // 2)
