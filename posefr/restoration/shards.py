"""Weights in several files: safetensors shards that a loader reads as one.

A shard is called NAME-00001-of-00003.safetensors and holds whole tensors and the metadata. Whoever loads one of them
gets all.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from ..errors import PoseFRError, brief
from ..weightfiles import write_safetensors

__all__ = [
    "read_tensors",
    "shard_base",
    "shard_paths",
    "whole_name",
    "write_shards",
    "written_path",
]

_SHARD = re.compile(r"(?P<base>.+)-(?P<index>\d{5})-of-(?P<count>\d{5})(?P<extension>\.safetensors)", re.IGNORECASE)
_HEADER = 4096  # bytes kept free in each shard for the names and the metadata's frame


def shard_base(path: Path) -> tuple[str, int, int] | None:
    """(name without the shard's number, its number from 1, how many there are), or None for a file that is no shard."""
    match = _SHARD.fullmatch(path.name)
    return None if match is None else (match["base"] + match["extension"], int(match["index"]), int(match["count"]))


def whole_name(path: Path) -> str:
    """The file's name, without the number where it is a shard."""
    found = shard_base(path)
    return path.name if found is None else found[0]


def shard_paths(path: Path) -> list[Path]:
    """All files of the weights that `path` is or belongs to.

    Raises:
        PoseFRError: a shard is missing.
    """
    found = shard_base(path)
    if found is None:
        return [path]
    base, _, count = found
    stem, extension = base[: -len(".safetensors")], base[-len(".safetensors") :]
    paths = [path.with_name(f"{stem}-{index:05d}-of-{count:05d}{extension}") for index in range(1, count + 1)]
    missing = [p.name for p in paths if not p.is_file()]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise PoseFRError(f"{path.name} is one of {count} files; {', '.join(missing[:3])}{more} should lie beside it.")
    return paths


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of all shards where it is one of them, on the CPU.

    Raises:
        PoseFRError: a shard is missing or of other weights, or a file cannot be read.
    """
    tensors: dict[str, Tensor] = {}
    told: dict[str, str] | None = None
    for part in shard_paths(path):
        try:
            with safe_open(part, "pt") as file:
                metadata = file.metadata() or {}
            tensors |= load_file(part)
        except (SafetensorError, OSError) as error:
            raise PoseFRError(
                f"{part.name} is not a readable safetensors file ({brief(error)}); it may be truncated: download it "
                "again."
            ) from None
        if told is not None and metadata != told:
            raise PoseFRError(f"{part.name} belongs to other weights than the files beside it; download them again.")
        told = metadata
    return tensors


def write_shards(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], path: Path, mib: float) -> list[Path]:
    """Write shards of at most `mib` MiB each beside `path`; what was written there before goes.

    Returns:
        Their paths; [path] itself where one file is enough.

    Raises:
        PoseFRError: a tensor is larger than a shard may be, or the folder or the disk takes none.
    """
    room = mib * 2**20 - _HEADER - sum(len(key) + len(value) for key, value in metadata.items())
    groups: list[dict[str, Tensor]] = [{}]
    filled = 0
    for name, value in tensors.items():
        size = value.numel() * value.element_size() + len(name) + 128  # the header names each tensor
        if size > room:
            raise PoseFRError(f"{name} alone takes {size / 2**20:.1f} MiB; shards of {mib:g} MiB cannot hold it.")
        if filled + size > room:
            groups.append({})
            filled = 0
        groups[-1][name] = value
        filled += size
    count = len(groups)
    paths = [path] if count == 1 else [
        path.with_name(f"{path.stem}-{index:05d}-of-{count:05d}{path.suffix}") for index in range(1, count + 1)
    ]  # fmt: skip
    for target, group in zip(paths, groups, strict=True):
        write_safetensors(group, metadata, target)
    for old in [path, *path.parent.glob(f"{glob.escape(path.stem)}-*-of-*{path.suffix}")]:
        if old not in paths and whole_name(old) == path.name:
            old.unlink(missing_ok=True)
    return paths


def written_path(path: Path) -> Path:
    """Where weights lie that were written to `path`: there, or in shards, of which this is the first."""
    shards = [
        p for p in path.parent.glob(f"{glob.escape(path.stem)}-00001-of-*{path.suffix}") if whole_name(p) == path.name
    ]
    return shards[0] if shards else path
