"""Faces over the frames of a video: who is who, gaps filled, landmarks steadied."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from .errors import PoseFRError
from .faces import Faces
from .pose import estimate_pose

__all__ = ["smooth_faces", "track_faces"]

_HISTORY = 6  # frames that a track's motion is told from
_SIZE_RATIO = 2.0  # a face that changes its size by more from one frame to the next is another one
_FILLED_SCORE = 0.0
_FILLED_WEIGHT = 0.01  # in a smoothing window, where a face that was seen has its score

_REACH = 0.45  # how stiff the curve is for each frame of smoothing, see `_smooth`
_STIFFEST = 60.0  # frames of smoothing: beyond that a curve is a parabola anyway, and no longer exact in doubles
_LINE_BELOW = 5  # faces in a track: fewer are drawn towards a line, since a parabola would follow their noise
_FURTHEST = 0.05  # of the face's size: what moves further is motion, not noise
_FURTHEST_OF_NOISY = 0.12  # the same in tracks whose faces are all found so inexactly
_LEAD = 3  # frames beyond a track's last face that its motion is followed for


def track_faces(
    faces: Faces,
    *,
    gap: int = 5,
    reach: float = 0.8,
    cuts: Collection[int] = (),
    on_face: Callable[[int, int], None] | None = None,
) -> Faces:
    """Tell which faces are the same one over the frames of a video, and fill in where one was missed.

    Each track expects its face where a line through its last frames leads. In each frame faces and tracks are matched
    all at once, for the least sum of costs (Kuhn 1955, by scipy's linear_sum_assignment): the mean distance of the
    landmarks in face sizes, plus 1 less the boxes' intersection over union.

    Args:
        faces: the faces of all frames; their former tracks are forgotten.
        gap: the most frames in a row in which a face may be missing.
        reach: how far the landmarks may lie from where they are expected, in face sizes (the geometric mean of both).
        cuts: frames that a new shot begins at, from `find_cuts`; no track goes on from one shot to the next.
        on_face: called with faces done and faces in all, after each frame; may raise to stop.

    Returns:
        The faces by frame, with tracks counted from 0 in order of first appearance. The frames of a gap are filled in
        by linear interpolation, with a score of 0, since no detector saw the face there; where another face lies over
        its place it was hidden rather than missed, and nothing is filled in.

    Raises:
        PoseFRError: a gap or reach below 0.
    """
    if gap < 0 or not reach >= 0:
        raise PoseFRError(f"The gap is {gap} frames and the reach {reach} face sizes; expected 0 or more for both.")
    points, frames = _points(faces), faces.frame.cpu()
    tracks: list[list[int]] = []
    active: list[int] = []
    starts = sorted(cuts)
    found, counts = frames.unique(return_counts=True)
    done = 0
    for frame, rows in zip(found.tolist(), frames.argsort(stable=True).split(counts.tolist()), strict=True):
        shot = bisect_right(starts, frame)
        earliest = max([frame - gap - 1, *starts[max(0, shot - 1) : shot]])
        active = [i for i in active if int(frames[tracks[i][-1]]) >= earliest]
        expected = [_expect(points[tracks[i][-_HISTORY:]], frames[tracks[i][-_HISTORY:]], frame) for i in active]
        matches = _assign(torch.stack(expected), points[rows], reach) if expected else {}
        for place, row in enumerate(rows.tolist()):
            if place in matches:
                tracks[active[matches[place]]].append(row)
            else:
                tracks.append([row])
                active.append(len(tracks) - 1)
        done += len(rows)
        if on_face is not None:
            on_face(done, len(faces))
    track = torch.empty(len(faces), dtype=torch.int64)
    for i, members in enumerate(tracks):
        track[members] = i
    seen = replace(faces, track=track.to(faces.device))
    whole = Faces.cat([seen, *_fill(seen, tracks)])
    return whole[torch.argsort(whole.frame, stable=True)]


def _points(faces: Faces) -> Tensor:
    """[N, 7, 2] doubles on the CPU: two corners of the box, then the landmarks."""
    return torch.cat([faces.box.unflatten(1, (2, 2)), faces.landmarks], dim=1).cpu().double()


def _expect(points: Tensor, frames: Tensor, frame: int) -> Tensor:
    """[7, 2]: where the least-squares line through points [K, 7, 2] at some frames leads at a later frame.

    It is followed for a few frames only: what little the landmarks tremble would lead far away in a long gap.
    """
    time = frames.double()
    frame = min(frame, int(frames[-1]) + _LEAD)
    middle = time.mean()
    spread = (time - middle)[:, None, None]
    slope = (spread * points).sum(dim=0) / spread.square().sum().clamp_min(0.5)
    return points.mean(dim=0) + slope * (frame - middle)


def _assign(expected: Tensor, found: Tensor, reach: float) -> dict[int, int]:
    """For each of the faces found [N, 7, 2] that continues one of the tracks [M, 7, 2]: which."""
    from scipy.optimize import linear_sum_assignment

    (old, new), area, shared = _areas(expected, found)
    size = (old * new).pow(0.25)
    distance = (expected[:, None, 2:] - found[None, :, 2:]).norm(dim=3).mean(dim=2) / size
    cost = distance + 1 - shared / area
    ratio = (old / new).sqrt()
    fits = (distance <= reach) & (ratio <= _SIZE_RATIO) & (ratio >= 1 / _SIZE_RATIO)
    # A pair that does not fit costs as much as the worst that does: no good match is given up for two poor ones.
    pairs = linear_sum_assignment(cost.where(fits, torch.full_like(cost, reach + 1)).numpy())
    return {int(j): int(i) for i, j in zip(*pairs, strict=True) if fits[i, j]}


def _areas(first: Tensor, second: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
    """Areas of the boxes of M and N faces as [M, 1] and [1, N]; of union and intersection as [M, N]."""
    low = torch.maximum(first[:, None, 0], second[None, :, 0])
    high = torch.minimum(first[:, None, 1], second[None, :, 1])
    shared = (high - low).clamp_min(0).prod(dim=2)
    one, other = ((p[:, 1] - p[:, 0]).clamp_min(1e-3).prod(dim=1) for p in (first, second))
    return (one[:, None], other[None, :]), one[:, None] + other[None, :] - shared, shared


def _fill(faces: Faces, tracks: list[list[int]]) -> list[Faces]:
    """The faces that are missing in the gaps of tracks, one set a gap."""
    frames, filled = faces.frame.tolist(), []
    order = faces.frame.argsort(stable=True)
    sorted_frames = faces.frame[order].tolist()
    for rows in tracks:
        for before, after in pairwise(rows):
            missing = range(frames[before] + 1, frames[after])
            if not missing:
                continue
            share = (torch.arange(len(missing), device=faces.device) + 1) / (len(missing) + 1)
            landmarks = torch.lerp(faces.landmarks[before], faces.landmarks[after], share[:, None, None])
            known = faces.pose[[before, after]].isfinite().all()
            made = Faces.make(
                torch.tensor(missing),
                torch.lerp(faces.box[before], faces.box[after], share[:, None]),
                landmarks,
                torch.full_like(share, _FILLED_SCORE),
                faces.image_size,
                faces.frames,
                pose=estimate_pose(landmarks) if known else None,
                track=faces.track[before].expand(len(missing)),
            )
            there = slice(bisect_right(sorted_frames, frames[before]), bisect_left(sorted_frames, frames[after]))
            filled.append(made[~_hidden(made, faces[order[there]])])
    return filled


def _hidden(made: Faces, seen: Faces) -> Tensor:
    """[N] bool: whether the middle of each face lies inside a face that was seen in the same frame."""
    middle = (made.box[:, None, :2] + made.box[:, None, 2:]) / 2
    inside = ((middle >= seen.box[None, :, :2]) & (middle <= seen.box[None, :, 2:])).all(dim=2)
    return (inside & (made.frame[:, None] == seen.frame[None, :])).any(dim=1)


def smooth_faces(faces: Faces, *, sigma: float = 4.0) -> Faces:
    """Steady the landmarks and boxes of each track, so that crops and masks do not tremble.

    A penalised fit (Whittaker 1923, Eilers 2003): each coordinate becomes the curve that is nearest to the faces, which
    count by their score, and whose third differences from frame to frame are small. Frames before and after count
    alike, so nothing lags, at the ends of a track neither; steady pans, zooms and accelerations come out as they went
    in. A face that would move by more than 5 per cent of its size, or where its track trembles much by more than is
    usual there, up to 12 per cent, is moved by no more than that: sudden motion is followed.

    Args:
        faces: from `track_faces`; faces without a track stay as they are.
        sigma: how many frames to either side steady a face; motion that comes and goes within fewer than about three
            times as many is taken for trembling. 0 returns the faces as they are.

    Returns:
        The same faces in the same order with other boxes, landmarks and, where it was known, pose.

    Raises:
        PoseFRError: a sigma below 0 or infinite, or a track with two faces in one frame.
    """
    if not 0 <= sigma < math.inf:
        raise PoseFRError(f"The smoothing is {sigma} frames; expected 0 or more.")
    if sigma == 0:
        return faces
    points, frames, track = _points(faces), faces.frame.cpu(), faces.track.cpu()
    weight = faces.score.cpu().double().clamp_min(_FILLED_WEIGHT)
    size = faces.size.cpu().double()
    for name in track[track >= 0].unique().tolist():
        rows = (track == name).nonzero()[:, 0]
        rows = rows[frames[rows].argsort()]
        if bool((frames[rows].diff() == 0).any()):
            raise PoseFRError(f"Track {name} has two faces in one frame; track the faces of these frames anew.")
        change = _smooth(frames[rows], points[rows], weight[rows], sigma) - points[rows]
        moved = change[:, 2:].square().sum(dim=2).mean(dim=1).sqrt()
        limit = (3 * moved.median()).clamp(_FURTHEST * size[rows], _FURTHEST_OF_NOISY * size[rows])
        points[rows] += change * (limit / moved.clamp_min(1e-9)).clamp_max(1)[:, None, None]
    points = points.float().to(faces.device)
    landmarks = points[:, 2:]
    pose = torch.where(faces.pose.isnan() | (faces.track < 0)[:, None], faces.pose, estimate_pose(landmarks))
    return replace(faces, box=points[:, :2].flatten(1), landmarks=landmarks, pose=pose)


def _smooth(frames: Tensor, points: Tensor, weight: Tensor, sigma: float) -> Tensor:
    """The curve through points [N, 7, 2] at ascending frames [N] with weights [N]; its values at these frames.

    It minimises weight * (curve - points)^2 + stiffness * (its third differences)^2, a system with seven diagonals.
    Motion of f periods a frame is halved where 2 sin(pi f) = 1 / (_REACH * sigma).
    """
    from scipy.linalg import solveh_banded

    order = 2 if len(frames) < _LINE_BELOW else 3
    if len(frames) <= order:
        return points
    time = frames - frames[0]
    length = int(time[-1]) + 1
    stiffness = (_REACH * min(sigma, _STIFFEST)) ** (2 * order)
    difference = [(-1) ** k * math.comb(order, k) for k in range(order + 1)]
    diagonals = points.new_zeros(order + 1, length)  # the main one and those below it
    values = points.new_zeros(length, points[0].numel())
    diagonals[0, time], values[time] = weight, weight[:, None] * points.flatten(1)
    for first in range(order + 1):
        for second in range(first, order + 1):
            factor = stiffness * difference[first] * difference[second]
            diagonals[second - first, first : first + length - order] += factor
    curve = torch.from_numpy(solveh_banded(diagonals.numpy(), values.numpy(), lower=True))
    return curve[time].view_as(points)
