"""Which faces to work on: filters, order, and picking by number, in each frame on its own."""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor

from .errors import PoseFRError
from .faces import Faces

__all__ = ["ORDERS", "picked_numbers", "select_faces", "split_faces"]

ORDERS = ("area", "left_to_right", "top_to_bottom", "center", "confidence")


def select_faces(
    faces: Faces,
    *,
    order: str = "area",
    indices: str = "",
    limit: int = 0,
    size: tuple[float, float] = (0.0, math.inf),
    confidence: float = 0.0,
    yaw: tuple[float, float] = (-180.0, 180.0),
    pitch: tuple[float, float] = (-180.0, 180.0),
    tracks: str = "",
    frames: str = "",
    among: Tensor | None = None,
) -> Faces:
    """Pick faces that pass every filter and whose number is asked for, at most `limit` of them, in each frame.

    A face's number is its place among all faces of its frame in the order asked for, whatever the filters are: the one
    that `draw_faces` writes beside it where the faces are in this order.

    Args:
        faces: what to pick from.
        order: `area` (largest first, by the mean size of its track where a face has one), `left_to_right`,
            `top_to_bottom`, `center` (nearest to the middle of the image first) or `confidence` (highest first).
        indices: the numbers of the faces to pick in each frame, counted from 0 in that order, such as "0,2-4"; all
            where empty. A frame with fewer faces gives those it has.
        limit: the most faces to pick in a frame, the first of those left; 0 for all.
        size: smallest and largest size in px, the square root of the box's area.
        confidence: the lowest score, 0..1.
        yaw: lowest and highest yaw in degrees.
        pitch: lowest and highest pitch in degrees. A face of unknown pose passes.
        tracks: which tracks of `track_faces`, such as "0,2-4"; all faces where empty.
        frames: which images of the batch, counted from 0, such as "0,2-4"; all where empty.
        among: [N] bool, which faces pass any other test, such as `face_sharpness(images, faces) < 20`.

    Returns:
        The faces picked, by frame, and within a frame in the order asked for.

    Raises:
        PoseFRError: an unknown order, indices, tracks or frames that cannot be read, a range whose ends are swapped,
            tracks of faces that have none, a limit below 0, or `among` of another shape or type.
    """
    return split_faces(
        faces,
        order=order,
        indices=indices,
        limit=limit,
        size=size,
        confidence=confidence,
        yaw=yaw,
        pitch=pitch,
        tracks=tracks,
        frames=frames,
        among=among,
    )[0]


def split_faces(
    faces: Faces,
    *,
    order: str = "area",
    indices: str = "",
    limit: int = 0,
    size: tuple[float, float] = (0.0, math.inf),
    confidence: float = 0.0,
    yaw: tuple[float, float] = (-180.0, 180.0),
    pitch: tuple[float, float] = (-180.0, 180.0),
    tracks: str = "",
    frames: str = "",
    among: Tensor | None = None,
) -> tuple[Faces, Faces]:
    """As `select_faces`, but return the faces picked and the rest, both by frame and in the order asked for."""
    if limit < 0:
        raise PoseFRError(f"The limit is {limit}; expected the most faces to pick in a frame, or 0 for all.")
    wanted = _read_indices("face indices", indices)
    wanted_tracks, wanted_frames = _read_indices("tracks", tracks), _read_indices("frames", frames)
    if among is not None and (among.dtype != torch.bool or among.shape != faces.score.shape):
        raise PoseFRError(
            f"The faces to pick among came as {among.dtype} of the shape {list(among.shape)}; expected torch.bool and "
            f"[{len(faces)}], one for each face."
        )
    passed = faces.score >= confidence
    passed &= _within("size", faces.size, size)
    passed &= _within("yaw", faces.pose[:, 0], yaw) | faces.pose[:, 0].isnan()
    passed &= _within("pitch", faces.pose[:, 1], pitch) | faces.pose[:, 1].isnan()
    if wanted_tracks:
        if len(faces) and (faces.track < 0).all():
            raise PoseFRError(
                f"The tracks {tracks!r} were asked for, but the faces have none; track them first (Track Faces)."
            )
        passed &= _listed(faces.track, wanted_tracks)
    if wanted_frames:
        passed &= _listed(faces.frame, wanted_frames)
    if among is not None:
        passed &= among.to(faces.device)

    by_order = torch.argsort(_order_key(faces, order), stable=True)
    by_frame = by_order[torch.argsort(faces.frame[by_order], stable=True)]
    faces, passed = faces[by_frame], passed[by_frame]

    first = torch.searchsorted(faces.frame, faces.frame)  # where this one's frame begins
    picked = passed
    if wanted:
        picked = picked & _listed(torch.arange(len(faces), device=faces.device) - first, wanted)
    if limit:
        ahead = torch.cumsum(picked, dim=0) - picked.long()
        picked = picked & (ahead - ahead[first] < limit)
    return faces[picked], faces[~picked]


def picked_numbers(indices: str, count: int) -> list[int]:
    """The numbers of the faces that `select_faces` picks with these indices in a frame of `count` faces.

    Raises:
        PoseFRError: indices that cannot be read.
    """
    wanted, numbers = _read_indices("face indices", indices), torch.arange(count)
    return (numbers[_listed(numbers, wanted)] if wanted else numbers).tolist()


def _order_key(faces: Faces, order: str) -> Tensor:
    """[N]: what to sort by, lowest first."""
    centre = (faces.box[:, :2] + faces.box[:, 2:]) / 2
    if order == "area":
        return -_lasting_size(faces)
    if order == "left_to_right":
        return centre[:, 0]
    if order == "top_to_bottom":
        return centre[:, 1]
    if order == "center":
        height, width = faces.image_size
        return torch.hypot(centre[:, 0] - width / 2, centre[:, 1] - height / 2)
    if order == "confidence":
        return -faces.score
    raise PoseFRError(f"The order {order!r} is unknown; pick one of {', '.join(ORDERS)}.")


def _lasting_size(faces: Faces) -> Tensor:
    """[N]: each face's size, or the mean one of its track, so that people keep their order over a video."""
    names, track = faces.track.unique(return_inverse=True)
    mean = torch.zeros(len(names), device=faces.device).scatter_reduce(
        0, track, faces.size, reduce="mean", include_self=False
    )
    return torch.where(faces.track < 0, faces.size, mean[track])


def _within(name: str, values: Tensor, limits: tuple[float, float]) -> Tensor:
    low, high = limits
    if not low <= high:
        raise PoseFRError(f"The range of {name} is {low} to {high}; its lower end has to come first.")
    return (values >= low) & (values <= high)


def _listed(numbers: Tensor, wanted: list[tuple[int, int]]) -> Tensor:
    return torch.stack([(numbers >= low) & (numbers <= high) for low, high in wanted]).any(dim=0)


def _read_indices(name: str, text: str) -> list[tuple[int, int]]:
    """First and last of each part of "0,2-4"; an empty list where nothing is asked for."""
    ranges = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        found = re.fullmatch(r"([0-9]{1,9})(?:\s*-\s*([0-9]{1,9}))?", part)
        low, high = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if low > high:
            raise PoseFRError(
                f"The {name} {text!r} cannot be read at {part!r}; write numbers from 0 and ranges, such as 0,2-4."
            )
        ranges.append((low, high))
    return ranges
