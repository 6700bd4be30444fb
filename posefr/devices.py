"""Which device networks go to, and which one pictures are worked on beside them."""

from __future__ import annotations

import torch

from .errors import PoseFRError, brief

__all__ = ["default_device", "desk_of", "named_device"]


def default_device() -> torch.device:
    """Where a network goes if nobody says it: CUDA where there is some, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def named_device(name: str) -> torch.device:
    """The device that an option names; `auto`: CUDA where there is some, else Apple's GPU, else the CPU.

    Raises:
        PoseFRError: there is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device).tolist()
    except Exception as error:  # what a device that is not there raises is up to its backend
        raise PoseFRError(f"The device '{name}' cannot be used here: {brief(error)}.") from error
    return device


def desk_of(device: torch.device) -> torch.device:
    """Where all is computed but the networks: on their device, except that Apple's lacks some of what it takes."""
    return torch.device("cpu") if device.type == "mps" else device
