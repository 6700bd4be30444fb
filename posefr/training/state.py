"""What a run goes on from, on the disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import PoseFRError

__all__ = ["SAVED_EVERY", "continued", "write_state"]

SAVED_EVERY = 300.0  # s, at least: no more is lost with the machine


def write_state(state: Mapping[str, Any], path: Path) -> None:
    """Write a run's state whole or not at all: one that is stopped meanwhile keeps the state before."""
    partial = path.with_name(path.name + ".partial")
    torch.save(dict(state), partial)
    partial.replace(path)


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
