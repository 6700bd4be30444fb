"""Keeping a restored face from flickering over the frames of a video."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from . import memory
from .errors import PoseFRError
from .faces import Faces

__all__ = ["STEADY_REACH", "smooth_over_tracks", "steady_restored"]

_SIGMA = 2.0  # frames
_WINDOW = 2.0  # standard deviations to either side
STEADY_REACH = int(_WINDOW * _SIGMA)  # frames to either side that a face is steadied by, where no sigma is given
_GUIDE_SIZE = 64  # px: frames are compared at this size, where noise counts little
_SAME = 0.02  # of the range: brightness that differs by this between two frames is half a change
_SAME_HUE = 0.03  # the same for what a channel differs by beside brightness
_HUE_SIZE = 16  # px: hue is compared at this size, since one channel is noisier than the mean of three


def steady_restored(
    restored: Tensor,
    faces: Faces,
    *,
    sigma: float = _SIGMA,
    frames: range | None = None,
    device: torch.device | None = None,
    on_face: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Average each restored face with what the same face looked like in the frames around, where it looked the same.

    The crops of a track show the face in one place, so no motion has to be found. A pixel of another frame counts the
    less the more that frame differs there, in brightness or hue and at a quarter of the size or so; so a mouth that
    opens and eyes that close are not blurred over time, but noise, and what the network makes of it, is.

    Args:
        restored: [N, S, S, 3] floats, 0..1, the crops of the faces in their order.
        faces: the N faces, from `track_faces` and, best, `smooth_faces`; those without a track stay as they are.
        sigma: standard deviation of the window over time, in frames; 0 returns the crops as they are.
        frames: those whose faces are steadied; those of other frames are only looked at, and come back as they are.
            None steadies all.
        device: where to compute, with the crops of one window there at a time; None for where the crops are.
        on_face: called with the faces done and the faces in all, of those that have a track; may raise, to stop.

    Returns:
        [N, S, S, 3] in the type of `restored` and where it is.

    Raises:
        PoseFRError: a sigma below 0 or infinite, or another number of crops than of faces.
    """
    if not 0 <= sigma < math.inf:
        raise PoseFRError(f"The steadying is {sigma} frames; expected 0 or more.")
    if len(restored) != len(faces):
        raise PoseFRError(f"There are {len(restored)} restored crops but {len(faces)} faces; hand on one for each.")
    times = faces.frame.tolist()
    tracks = [rows for rows in _tracks(faces, times) if len(rows) > 1]
    chosen = [[row for row in rows if frames is None or times[row] in frames] for rows in tracks]
    total_faces = sum(map(len, chosen))
    if sigma == 0 or not total_faces:
        return restored
    steady = memory.copy(restored)
    done = 0
    for rows, own in zip(tracks, chosen, strict=True):
        seen: dict[int, tuple[Tensor, tuple[Tensor, Tensor]]] = {}  # the window's crops and their guides
        for row in own:
            near = dict(_window(row, rows, times, sigma))
            seen = {other: seen.get(other) or _seen(restored[other], device) for other in (row, *near)}
            crop, guide = seen[row]
            total, weights = crop.clone(), torch.ones_like(crop[0])
            for other, in_time in near.items():
                other_crop, other_guide = seen[other]
                weight = in_time * torch.exp(-math.log(2) * _unlike(guide, other_guide))
                weight = F.interpolate(weight[None, None], size=list(crop.shape[1:]), mode="bilinear")[0, 0]
                total.addcmul_(other_crop, weight)
                weights += weight
            steady[row] = (total / weights).movedim(0, 2)
            done += 1
            if on_face is not None:
                on_face(done, total_faces)
    return steady


def smooth_over_tracks(values: Tensor, faces: Faces, *, sigma: float = _SIGMA) -> Tensor:
    """The mean of numbers [N, ...] that belong to faces, over each face's track in a Gaussian window of frames."""
    if not values[:1].numel() or not bool((faces.track >= 0).any()):
        return values
    smooth = values.clone()
    frames = faces.frame.tolist()
    for rows in _tracks(faces, frames):
        for row in rows:
            near = [(row, 1.0), *_window(row, rows, frames, sigma)]
            weights = values.new_tensor([weight for _, weight in near])
            chosen = values[[other for other, _ in near]]
            smooth[row] = torch.tensordot(weights / weights.sum(), chosen, dims=1)
    return smooth


def _tracks(faces: Faces, frames: list[int]) -> Iterator[list[int]]:
    """The rows of each track, in the order of their frames."""
    tracks: dict[int, list[int]] = {}
    for row, track in enumerate(faces.track.tolist()):
        if track >= 0:
            tracks.setdefault(track, []).append(row)
    for _, rows in sorted(tracks.items()):
        yield sorted(rows, key=frames.__getitem__)


def _window(row: int, rows: list[int], frames: list[int], sigma: float) -> Iterator[tuple[int, float]]:
    """The other rows of a track that are near in time, and how much they count against one."""
    reach = _WINDOW * sigma
    first = bisect_left(rows, frames[row] - reach, key=frames.__getitem__)
    last = bisect_right(rows, frames[row] + reach, key=frames.__getitem__)
    for other in rows[first:last]:
        if other != row:
            distance = (frames[other] - frames[row]) / max(sigma, 1e-6)
            yield other, math.exp(-distance * distance / 2)


def _unlike(guide: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> Tensor:
    """[s, s]: how far two guides differ, squared; 1 is half a change."""
    brightness, hue = (b - a for a, b in zip(guide, other, strict=True))
    hue = hue.square().amax(dim=0)
    hue = F.interpolate(hue[None, None], size=list(brightness.shape), mode="bilinear")[0, 0]
    return (brightness / _SAME).square() + hue / _SAME_HUE**2


def _seen(crop: Tensor, device: torch.device | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """A crop [S, S, 3] as [3, S, S] float32 where it is computed on, and its guide."""
    planes = crop.to(device, torch.float32).movedim(2, 0).contiguous()
    return planes, _guide(planes)


def _guide(crop: Tensor) -> tuple[Tensor, Tensor]:
    """The brightness [s, s] of a crop [3, S, S], and what its channels differ from it by, [3, t, t]; both small."""
    small = F.interpolate(crop[None], size=(_GUIDE_SIZE, _GUIDE_SIZE), mode="bilinear", antialias=True)
    brightness = small[0].mean(dim=0)
    return brightness, F.adaptive_avg_pool2d(small[0] - brightness, _HUE_SIZE)
