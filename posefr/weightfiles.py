"""Weights as safetensors: written whole or not at all, and held against the network that they are to fill."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from .imagefiles import atomic_file

__all__ = ["misfits", "write_safetensors"]


def write_safetensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path) -> None:
    """Write a safetensors file, whole or not at all. Raises PoseFRError if the folder or the disk takes none."""
    from safetensors.torch import save

    data = save(dict(tensors), dict(metadata))
    with atomic_file(path) as file:
        file.write(data)


def misfits(expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that are missing, too many or of another shape than a network's `state_dict` expects."""
    wrong = sorted(expected.keys() ^ tensors.keys())
    return wrong + [name for name in expected if name in tensors and tensors[name].shape != expected[name].shape]
