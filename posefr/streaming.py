"""Restoring a long video part by part, as all its frames at once would be restored."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .color import color_change
from .compositing import OverTracks, paste_faces, steady_scales
from .cuts import cuts_between, thumbnails
from .errors import PoseFRError
from .faces import Faces
from .geometry import Crops, alignment_transform, crop_faces
from .steadying import STEADY_REACH, smooth_over_tracks, steady_restored
from .tracking import smooth_faces, track_faces

__all__ = ["counted", "find_faces_in_parts", "restore_in_parts"]


def counted(
    parts: Iterable[Tensor], total: int, on_frames: Callable[[int, int], None] | None = None
) -> Iterator[Tensor]:
    """Parts of a video; after each was worked on, `on_frames` is called with the frames done and those in all.

    `total` may be too low, as files tell it; what `on_frames` raises ends the work.
    """
    done = 0
    for part in parts:
        yield part
        done += len(part)
        if on_frames is not None:
            on_frames(done, max(done, total))


def find_faces_in_parts(parts: Iterable[Tensor], detect: Callable[[Tensor], Faces]) -> Faces:
    """Find the faces of a video, follow each from cut to cut and steady it.

    Args:
        parts: its frames in their order, [n, H, W, 3] each, floats 0..1, any n. None is kept.
        detect: finds the faces of a part.

    Returns:
        What `smooth_faces(track_faces(faces, cuts=find_cuts(images)))` gives for all the frames, on the CPU.

    Raises:
        PoseFRError: no frame at all, or frames of different sizes.
    """
    found: list[Faces] = []
    pictures: list[Tensor] = []
    for part in parts:
        pictures.append(thumbnails(part))
        found.append(detect(part).to("cpu"))
        (height, width), now = found[0].image_size, found[-1].image_size
        if now != (height, width):
            raise PoseFRError(
                f"The video's frames change from {width}x{height} to {now[1]}x{now[0]} px; cut it in two there."
            )
    if not found:
        raise PoseFRError("The video has no frame that can be read.")
    total, begun = sum(faces.frames for faces in found), 0
    for i, faces in enumerate(found):
        found[i] = replace(faces, frame=faces.frame + begun, frames=total)
        begun += faces.frames
    return smooth_faces(track_faces(Faces.cat(found), cuts=cuts_between(torch.cat(pictures))))


def restore_in_parts(
    parts: Iterable[Tensor],
    faces: Faces,
    restore: Callable[[Tensor], Tensor],
    *,
    size: int,
    frame: str,
    color_match: str = "mean_std",
    device: torch.device | None = None,
    **options: Any,
) -> Iterator[Tensor]:
    """Restore the faces of a video, steady them and paste them back.

    Restored faces and their colours are steadied by those of the frames around. So a part comes out when the eight
    frames after it are restored too, and only so much is kept in memory.

    Args:
        parts: the frames that the faces were found in, in their order, [n, H, W, 3] each, floats 0..1, any n.
        faces: those to restore, with tracks.
        restore: makes of crops [N, size, size, 3] restored ones, [N, S, S, 3].
        size, frame: of the crops, see `crop_faces`.
        color_match: see `paste_faces`.
        device: where faces are steadied; None for where the frames are.
        options: more of `paste_faces`: mask (by its name), feather, grow, strength.

    Yields:
        The parts with their faces restored, as long as they came.

    Raises:
        PoseFRError: another number or size of frames than the faces were found in, or an argument out of range.
    """
    strip = _Strip(faces, size, frame, color_match, device)
    waiting: list[Tensor] = []
    read, done = 0, 0
    for part in parts:
        if read + len(part) > faces.frames:
            raise PoseFRError(f"The faces were found in {faces.frames} frames, and there are more; find them anew.")
        crops = crop_faces(part, strip.faces_in(read, read + len(part)), size=size, frame=frame)
        strip.add(read, crops, restore(crops.images).to(part.device) if len(crops) else crops.images)
        waiting.append(part)
        read += len(part)
        while waiting and (read == faces.frames or read - done - len(waiting[0]) >= 2 * STEADY_REACH):
            part = waiting.pop(0)
            taken = strip.take(done, done + len(part))
            done += len(part)
            if taken is not None:
                crops, restored, tracks = taken
                part, _ = paste_faces(
                    part, crops, restored, color_match=color_match, over_tracks=tracks, **options
                )  # fmt: skip
            yield part
    if read != faces.frames:
        raise PoseFRError(f"The faces were found in {faces.frames} frames, but there are {read}; find them anew.")


@dataclass
class _Kept:
    """A face that was restored: its crop and transform, what became of it, this steadied, and its `color_change`."""

    crop: Tensor
    transform: Tensor
    restored: Tensor
    steady: Tensor
    change: Tensor


class _Strip:
    """The restored faces of the frames around those that are pasted next."""

    def __init__(self, faces: Faces, size: int, frame: str, color_match: str, device: torch.device | None) -> None:
        faces = faces.to("cpu")
        self._faces = faces[torch.argsort(faces.frame, stable=True)]
        self._frames = self._faces.frame.tolist()
        self._scales = steady_scales(alignment_transform(self._faces.landmarks, size, frame), self._faces)
        self._frame, self._color_match, self._device = frame, color_match, device
        self._kept: dict[int, _Kept] = {}  # by the row of the face
        self._steadied = 0  # frames, from the first on

    def _rows(self, first: int, end: int) -> range:
        """The rows of the faces in the frames from the first one to before `end`."""
        return range(bisect_left(self._frames, first), bisect_left(self._frames, end))

    def _among(self, rows: range) -> Faces:
        return self._faces[rows.start : rows.stop]

    def faces_in(self, first: int, end: int) -> Faces:
        """The faces of these frames, counted from the first one."""
        faces = self._among(self._rows(first, end))
        return replace(faces, frame=faces.frame - first, frames=end - first)

    def add(self, first: int, crops: Crops, restored: Tensor) -> None:
        """Keep the faces of the frames from the first one on, and what became of them."""
        rows = self._rows(first, first + crops.faces.frames)
        for row, crop, transform, face in zip(rows, crops.images, crops.transforms, restored, strict=True):
            self._kept[row] = _Kept(crop, transform, face, face, face)

    def take(self, first: int, end: int) -> tuple[Crops, Tensor, OverTracks] | None:
        """The crops of these frames, what became of them steadied, and what is smoothed over their tracks.

        What only frames before these need is let go. None where there is no face.
        """
        self._steady_before(end + STEADY_REACH)
        rows, around = self._rows(first, end), self._rows(first - STEADY_REACH, end + STEADY_REACH)
        kept = [self._kept[row] for row in rows]
        taken = None
        if kept:
            changes = torch.stack([self._kept[row].change for row in around])
            colors = smooth_over_tracks(changes, self._among(around))[rows.start - around.start :]
            images, transforms, steady = (
                torch.stack([getattr(face, name) for face in kept]) for name in ("crop", "transform", "steady")
            )
            crops = Crops(images, transforms, self.faces_in(first, end), self._frame)
            taken = crops, steady, OverTracks(colors, self._scales[rows.start : rows.stop])
        for row in self._rows(0, end - STEADY_REACH):
            self._kept.pop(row, None)
        return taken

    def _steady_before(self, end: int) -> None:
        """Steady the faces of the frames before `end` that are not yet; those of the frames around were restored."""
        around, frames = self._rows(self._steadied - STEADY_REACH, end + STEADY_REACH), range(self._steadied, end)
        self._steadied = max(self._steadied, end)
        if not self._rows(frames.start, frames.stop):
            return
        restored = torch.stack([self._kept[row].restored for row in around])
        steady = steady_restored(restored, self._among(around), frames=frames, device=self._device)
        for row in self._rows(frames.start, frames.stop):
            face = self._kept[row]
            face.steady = steady[row - around.start]
            face.change = color_change(face.steady.to(face.crop.device, torch.float32), face.crop, self._color_match)
