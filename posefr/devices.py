"""Which device pictures are worked on beside the networks."""

from __future__ import annotations

import torch

__all__ = ["desk_of"]


def desk_of(device: torch.device) -> torch.device:
    """Where all is computed but the networks: on their device, except that Apple's lacks some of what it takes."""
    return torch.device("cpu") if device.type == "mps" else device
