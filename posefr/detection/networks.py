"""facexlib's RetinaFace networks, built without weights."""

from __future__ import annotations

import warnings
from typing import Any

from torch import nn

from .torchvision_repair import ensure_torchvision

__all__ = ["ARCHITECTURES", "build_network"]

ARCHITECTURES = ("mobile0.25", "resnet50")


def build_network(architecture: str) -> nn.Module:
    """A RetinaFace with random weights, on the CPU, in evaluation mode.

    Args:
        architecture: "mobile0.25" or "resnet50".

    Returns:
        A module that takes [B, 3, H, W] BGR images of 0..255 less (104, 117, 123) and gives, for P priors, the encoded
        boxes [B, P, 4], the class probabilities [B, P, 2] (background, face; logits if its `phase` is "train"), and the
        encoded landmarks [B, P, 10].

    Raises:
        ValueError: for an architecture that facexlib does not have.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"There is no RetinaFace architecture {architecture!r}; there are {', '.join(ARCHITECTURES)}.")
    ensure_torchvision()
    from facexlib.detection.retinaface import RetinaFace

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # facexlib asks torchvision for its backbone in an old way
        network: Any = RetinaFace(architecture, device="cpu")
    return network.eval()
