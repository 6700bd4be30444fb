"""Other projects' face restorers, read by spandrel, behind the same interface."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import PoseFRError
from .restorer import Restorer

__all__ = ["load_foreign"]

_KNOWN = ("GFPGAN", "RestoreFormer")
_SIZE, _FRAME = 512, "template5"  # both were trained at 512 px on facexlib's five points


def _call(network: nn.Module, images: Tensor, fidelity: float, seed: int) -> Tensor:
    """Both work on -1..1 and return the image first. GFPGAN draws noise of its own, which the seed fixes."""
    with torch.random.fork_rng([images.device] if images.device.type == "cuda" else []):
        torch.manual_seed(seed)
        return (network(images * 2 - 1)[0] + 1) / 2


def load_foreign(path: Path, name: str, device: torch.device) -> Restorer:
    """Load a GFPGAN or RestoreFormer checkpoint.

    Pickles are read by torch.load(weights_only=True) alone, so that no code in a file runs.

    Raises:
        PoseFRError: the file is damaged, unsafe, or holds none of these networks.
    """
    from safetensors.torch import load_file

    from ..detection import ensure_torchvision

    ensure_torchvision()
    from spandrel import ModelLoader, UnsupportedModelError

    try:
        if path.suffix.lower() == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        descriptor = ModelLoader("cpu").load_from_state_dict(state)
    except UnsupportedModelError:
        raise PoseFRError(
            f"{path.name} holds no network that is known here; choose PoseFR's, GFPGAN's or RestoreFormer's weights."
        ) from None
    except Exception as error:  # what a damaged file raises is up to pickle, zipfile and spandrel
        raise PoseFRError(
            f"{path.name} cannot be read as weights ({type(error).__name__}); it may be truncated or not a model file: "
            "download it again."
        ) from error
    identity = str(descriptor.architecture.id)
    if identity not in _KNOWN:
        raise PoseFRError(
            f"{path.name} is a {identity} network; PoseFR restores faces with its own, GFPGAN's and RestoreFormer's."
        )
    network = descriptor.model.eval().requires_grad_(False).to(device)
    return Restorer(name, _SIZE, _FRAME, network, _call, {"architecture": identity, "file": path.name})
