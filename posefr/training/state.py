"""What a run goes on from, on the disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

__all__ = ["write_state"]


def write_state(state: Mapping[str, Any], path: Path) -> None:
    """Write a run's state whole or not at all: one that is stopped meanwhile keeps the state before."""
    partial = path.with_name(path.name + ".partial")
    torch.save(dict(state), partial)
    partial.replace(path)
