"""The model card that a run writes beside its weights: data, recipe, steps, machine, licences of the data."""

from __future__ import annotations

import os
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..restoration.shards import whole_name
from .journal import read_log
from .manifest import read_manifest
from .processes import Processes
from .recipe import Recipe

__all__ = ["write_card"]


def write_card(
    weights: Path, folder: Path, faces: int, provenance: Mapping[str, Any], log: Path, processes: Processes
) -> Path:
    """Write the card of weights that were just trained.

    Args:
        weights: what was written; the card lies beside it as NAME.md. folder: of the photos. faces: cut out of them.
        provenance: as in the checkpoint. log: the run's. processes: that trained.
    """
    name = whole_name(weights)
    faces_a_step = provenance["images"] // max(1, provenance["steps"])
    recipe, note = provenance["recipe"], provenance["note"]
    started = [part.removeprefix("from ") for part in note.split(", ") if part.startswith("from ")]
    changed = {name: value for name, value in recipe.items() if value != getattr(Recipe(), name)}
    options = " ".join(f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}")
                       for name, value in changed.items())  # fmt: skip
    lines = [
        f"# {name}",
        "",
        "## Data",
        f"{faces:,} faces of the folder {folder.resolve().name}.",
        *_licences(folder),
        *(f"Training started from {start}; what its licence asks for holds here too." for start in started),
        "",
        "## Recipe",
        f"`python -m posefr.training`, options other than the defaults: `{options or 'none'}`",
        "",
        f"{provenance['steps']:,} steps of {faces_a_step:,} faces, {provenance['images']:,} in all, in "
        f"{provenance['minutes']:g} minutes, on {_machine(processes)}.",
        *([f"Note: {note}."] if note else []),
        *_progress(read_log(log)),
        "",
        "## Figures",
        "Measure on faces that are in none of the above:",
        "",
        f"    python -m posefr.evaluation restore --faces FACES --restorer {weights.name}",
    ]
    card = weights.with_name(name).with_suffix(".md")
    card.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return card


def _licences(folder: Path) -> list[str]:
    """How many faces are under which licence, where a manifest tells."""
    rows = read_manifest(folder)
    if not rows:
        return ["Their licence is not known to this run; weights may not be used for more than it allows."]
    counts = Counter((row.get("source") or "", row.get("licence") or "") for row in rows)
    return [f"- {source or 'photos'}: {count:,}, licence {licence or 'not told'}" for (source, licence), count
            in sorted(counts.items())]  # fmt: skip


def _machine(processes: Processes) -> str:
    if processes.device.type == "cuda":
        return f"{processes.count} x {torch.cuda.get_device_name(processes.device)}"
    return f"a CPU ({platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads)"


def _progress(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    if not lines or "gain_db" not in lines[-1]:
        return []
    last = lines[-1]
    return [f"At the end {last['gain_db']:+.2f} dB of PSNR over the degraded input, on faces it was trained with."]
