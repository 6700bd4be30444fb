"""Checkpoints: safetensors with the configuration and the provenance in the metadata, loaded strictly."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ..errors import PoseFRError, brief
from ..weightfiles import misfits
from .network import PoseFRConfig, PoseFRNet
from .shards import read_tensors, write_shards

__all__ = ["FORMAT", "load_network", "read_metadata", "save_network"]

FORMAT = "posefr-1"

# What reading a configuration raises where its JSON is none, or holds other names, kinds or sizes than a network has.
_UNUSABLE = (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError)


def save_network(
    network: PoseFRNet,
    path: Path,
    provenance: Mapping[str, Any],
    dtype: torch.dtype = torch.float16,
    shard_mib: float = 0,
) -> Path:
    """Write a network, each file whole or not at all.

    Args:
        provenance: JSON values: what made these weights, of which data, under which licence.
        dtype: of the stored weights.
        shard_mib: largest size of a file in MiB; 0 for one file of any size.

    Returns:
        The path of the file, or of the first shard.
    """
    tensors = {name: value.detach().to("cpu", dtype).contiguous() for name, value in network.state_dict().items()}
    metadata = {
        "format": FORMAT,
        "configuration": json.dumps(network.config.to_dict()),
        "provenance": json.dumps(dict(provenance)),
    }
    return write_shards(tensors, metadata, path, shard_mib or float("inf"))[0]


def read_metadata(path: Path) -> dict[str, str]:
    """A safetensors file's metadata.

    Raises:
        PoseFRError: no such file, or not a safetensors file.
    """
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except FileNotFoundError:
        raise PoseFRError(f"There is no file {path}; choose a weights file that exists.") from None
    except (SafetensorError, OSError) as error:
        raise PoseFRError(
            f"{path.name} is not a readable safetensors file ({brief(error)}); it may be truncated: download it again."
        ) from None


def load_network(path: Path) -> tuple[PoseFRNet, dict[str, Any]]:
    """Load a PoseFRNet, from one file or from shards, in float32 on the CPU, and its provenance.

    Raises:
        PoseFRError: not a PoseFR checkpoint, or its tensors do not fit its own configuration.
    """
    metadata = read_metadata(path)
    if metadata.get("format") != FORMAT:
        raise PoseFRError(
            f"{path.name} is not a PoseFR restorer (format {metadata.get('format', 'missing')!r}, expected {FORMAT!r})."
        )
    tensors = {name: value.float() for name, value in read_tensors(path).items()}
    try:
        config = PoseFRConfig(**json.loads(metadata["configuration"]))
        provenance = dict(json.loads(metadata.get("provenance", "{}")))
        blocks = sum(max(0, count) for count in config.blocks.values())
        if blocks > len(tensors):
            raise ValueError(f"{blocks} blocks of {len(tensors)} tensors")
        with torch.device("meta"):  # takes no memory, whatever the configuration asks for
            expected = PoseFRNet(config).state_dict()
    except _UNUSABLE as error:
        raise PoseFRError(f"{path.name} holds no usable PoseFR configuration ({brief(error)}).") from None
    if wrong := misfits(expected, tensors):
        raise PoseFRError(
            f"{path.name} does not fit the configuration stored in it: {len(wrong)} tensors are missing, too many or "
            f"of another shape, among them {wrong[0]!r}; download or copy it again."
        )
    network = PoseFRNet(config)
    network.load_state_dict(tensors, strict=True)
    return network, provenance
