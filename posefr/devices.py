"""Which device networks go to, and which one pictures are worked on beside them."""

from __future__ import annotations

import torch

__all__ = ["default_device", "desk_of"]


def default_device() -> torch.device:
    """Where a network goes if nobody says it: CUDA where there is some, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def desk_of(device: torch.device) -> torch.device:
    """Where all is computed but the networks: on their device, except that Apple's lacks some of what it takes."""
    return torch.device("cpu") if device.type == "mps" else device
