"""Reading and writing the weights of RetinaFace networks, with one clear sentence for every file that will not do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import PoseFRError
from ..weightfiles import misfits, write_safetensors

__all__ = ["architecture_of", "read_state", "read_weights", "write_weights"]

_TELLING_KEYS = {"mobile0.25": "body.stage1.0.0.weight", "resnet50": "body.layer2.0.conv1.weight"}


def read_state(path: Path, kind: str = "detector") -> dict[str, Tensor]:
    """The tensors of a .safetensors or a .pth file; the latter only as plain tensors, never as pickled code.

    Args:
        path: the file.
        kind: what it is to be the weights of, for the message.

    Raises:
        PoseFRError: the file is missing, cut short, or holds something else.
    """
    if not os.path.isfile(path):
        raise PoseFRError(f"There is no {kind} file {path}; pick another {kind} or put the file there.")
    try:
        if path.suffix.lower() == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a damaged file raises is up to pickle, zipfile and safetensors
        raise _unreadable(path) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(k, str) and _is_plain(v) for k, v in state.items()):
        raise PoseFRError(f"{path} holds no plain weights; those of a {kind} of facexlib were expected.")
    return {name.removeprefix("module."): value for name, value in state.items()}


def _is_plain(value: object) -> bool:
    return isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta


def _unreadable(path: Path) -> PoseFRError:
    return PoseFRError(
        f"{path} ({path.stat().st_size:,} bytes) cannot be read as weights: it is cut short or no weights file; "
        "delete it and fetch it again."
    )


def architecture_of(state: dict[str, Tensor], path: Path) -> str:
    """Which architecture the tensors belong to. Raises PoseFRError, naming the file, if to none that is known."""
    for architecture, key in _TELLING_KEYS.items():
        if key in state:
            return architecture
    known = " or ".join(_TELLING_KEYS)
    raise PoseFRError(f"{path} is no face detector that PoseFR knows; weights of RetinaFace {known} were expected.")


def read_weights(network: nn.Module, path: Path, architecture: str, state: dict[str, Tensor] | None = None) -> None:
    """Load a file into a network of `architecture`, strictly: all names and shapes must agree.

    Args:
        network: as `networks.build_network(architecture)` makes it.
        path: a .safetensors or .pth file.
        architecture: its name, for the message.
        state: what `read_state(path)` gave, if it was called already.

    Raises:
        PoseFRError: the file cannot be read, or is another network's.
    """
    state = read_state(path) if state is None else state
    own = network.state_dict()
    if wrong := misfits(own, state):
        raise PoseFRError(
            f"{path} does not fit RetinaFace {architecture}: {len(wrong)} tensors are missing, too many or of another "
            f"shape, among them {wrong[0]}; pick the detector that the file was made for."
        )
    network.load_state_dict({name: value.to(own[name].dtype) for name, value in state.items()}, strict=True)


def write_weights(network: nn.Module, architecture: str, path: Path, metadata: dict[str, str]) -> None:
    """Write a network as safetensors, whole or not at all: convolutions in fp16, normalisation in fp32.

    Args:
        network: the weights to write.
        architecture: its name, kept in the metadata.
        path: where to; written beside and renamed.
        metadata: more facts to keep with the weights.

    Raises:
        PoseFRError: the folder or the disk takes none.
    """
    state = {
        name: (value.half() if value.ndim == 4 else value).detach().cpu().contiguous()
        for name, value in network.state_dict().items()
    }
    write_safetensors(state, {"format": "pt", "architecture": architecture, **metadata}, path)
