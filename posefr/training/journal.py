"""What a run leaves behind besides weights: a log of JSON lines, a plot of the losses, sheets of pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from .processes import Processes

__all__ = ["Journal", "plot_losses", "read_log", "sheet", "write_png"]

_NOT_LOSSES = ("step", "images", "size", "seconds")
_PANEL = (360, 200)  # px, width and height
_MARGIN = 36  # px
_INK, _GREY, _BLUE = (0, 0, 0), (225, 225, 225), (31, 90, 180)


class Journal:
    """Averages losses over some steps and appends them to a file as one JSON object a line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """One step's losses; not every step needs to have all of them."""
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value.detach())
            self._counts[name] = self._counts.get(name, 0) + 1

    def write(self, processes: Processes, **facts: Any) -> None:
        """A line with the facts and the mean losses since the last one, over all processes."""
        names = sorted(self._sums)
        if names:
            means = torch.tensor([self._sums[name] / self._counts[name] for name in names], device=processes.device)
            for name, value in zip(names, processes.mean(means).tolist(), strict=True):
                facts[name] = round(value, 5)
        if processes.first:
            with self.path.open("a") as log:
                log.write(json.dumps(facts) + "\n")
        self._sums, self._counts = {}, {}


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log; a last line that was cut off is left out."""
    lines = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return lines


def plot_losses(log: Path, path: Path) -> None:
    """Draw each loss of a log over the steps at the size that it ends with, in a panel of its own, as PNG."""
    lines = read_log(log)
    lines = [line for line in lines if line.get("size") == lines[-1].get("size")]
    names = sorted({name for line in lines for name in line} - set(_NOT_LOSSES))
    panels = []
    for name in names:
        points = [(line["step"], line[name]) for line in lines if name in line and math.isfinite(line[name])]
        panels.append(_panel(name, np.array(points, np.float64).reshape(-1, 2)))
    if not panels:
        return
    columns = min(3, len(panels))
    blank = np.full_like(panels[0], 255)
    panels += [blank] * (-len(panels) % columns)
    rows = [np.hstack(panels[start : start + columns]) for start in range(0, len(panels), columns)]
    write_png(path, np.vstack(rows))


def _panel(name: str, points: NDArray[np.float64]) -> NDArray[np.uint8]:
    """One loss over the steps; the scale is the middle 98 % of its values, so that a first outlier hides nothing."""
    width, height = _PANEL
    picture = np.full((height, width, 3), 255, np.uint8)
    left, top, right, bottom = 64, _MARGIN, width - 12, height - 24
    cv2.putText(picture, name, (left, 22), cv2.FONT_HERSHEY_SIMPLEX, 0.5, _INK, 1, cv2.LINE_AA)
    if not len(points):
        return picture
    low, high = np.percentile(points[:, 1], (1, 99))
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    first, last = points[0, 0], max(points[-1, 0], points[0, 0] + 1)
    for share in (0.0, 0.5, 1.0):
        y = round(bottom - share * (bottom - top))
        cv2.line(picture, (left, y), (right, y), _GREY, 1)
        label = f"{low + share * (high - low):.4g}"
        cv2.putText(picture, label, (4, y + 4), cv2.FONT_HERSHEY_SIMPLEX, 0.36, _INK, 1, cv2.LINE_AA)
    for step, x in ((first, left), (last, right - 48)):
        cv2.putText(picture, f"{step:.0f}", (x, height - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.36, _INK, 1, cv2.LINE_AA)
    x = left + (points[:, 0] - first) / (last - first) * (right - left)
    y = bottom - np.clip((points[:, 1] - low) / (high - low), 0, 1) * (bottom - top)
    line = np.stack([x, y], 1).round().astype(np.int32)
    cv2.polylines(picture, [line[:, None]], False, _BLUE, 1, cv2.LINE_AA)
    return picture


def sheet(rows: Sequence[Tensor]) -> NDArray[np.uint8]:
    """Rows of pictures [B, 3, S, S] in 0..1, one below the other, as [H, W, 3] uint8; shorter rows end in white."""
    lines = [torch.cat(list(row.detach().float().clamp(0, 1).cpu()), 2) for row in rows]
    width = max(line.shape[2] for line in lines)
    picture = torch.cat([F.pad(line, (0, width - line.shape[2]), value=1.0) for line in lines], 1)
    return np.ascontiguousarray((picture.permute(1, 2, 0) * 255).round().byte().numpy())


def write_png(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write [H, W, 3] uint8 RGB."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imencode(".png", picture[..., ::-1])[1].tofile(path)
