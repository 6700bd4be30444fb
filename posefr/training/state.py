"""What a run goes on from, on the disk."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer

from ..errors import PoseFRError, brief
from ..imagefiles import atomic_file

__all__ = ["SAVED_EVERY", "continued", "load_optimizer", "origin", "write_state"]

SAVED_EVERY = 300.0  # s, at least: no more is lost with the machine


def write_state(state: Mapping[str, Any], path: Path) -> None:
    """Write a run's state whole or not at all: one that is stopped meanwhile keeps the state before."""
    with atomic_file(path) as file:
        torch.save(dict(state), file)


def load_optimizer(optimizer: Optimizer, state: Mapping[str, Any], rate: float) -> None:
    """Give an optimiser what it had, but for its learning rate, which is this run's."""
    optimizer.load_state_dict(dict(state))
    for group in optimizer.param_groups:
        group["lr"] = rate


def origin(path: Path) -> str:
    """The part of a note that tells what a run starts from: the file's name, which each run's weights share, and the
    beginning of its SHA-256.

    Raises:
        PoseFRError: the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise PoseFRError(f"{path} cannot be read ({brief(error)}); choose a weights file that exists.") from None
    return f"from {path.name} ({digest.hexdigest()[:8]})"


def continued(before: str, note: str, path: Path) -> str:
    """The note of a run that goes on from a state: both notes, each part of them once.

    Raises:
        PoseFRError: the run is to start "from" something else than the one before did.
    """
    known, parts = (text.split(", ") if text else [] for text in (before, note))
    other = [part for part in parts if part.startswith("from ") and part not in known]
    if other:
        raise PoseFRError(
            f"{path} is of a run that did not start {' and '.join(other)}; leave that out to go on with it, or choose "
            "another --out."
        )
    return ", ".join(dict.fromkeys([*known, *parts]))
