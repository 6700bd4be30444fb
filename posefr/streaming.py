"""Restoring a long video part by part, as all its frames at once would be restored."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
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

_CROP_PIXELS = 64 * 256**2  # of the faces that are worked on at once: 50 MB for each of a few copies


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


def find_faces_in_parts(
    parts: Iterable[Tensor], detect: Callable[[Tensor], Faces], on_face: Callable[[int, int], None] | None = None
) -> Faces:
    """Find the faces of a video, follow each from cut to cut and steady it.

    Args:
        parts: its frames in their order, [n, H, W, 3] each, floats 0..1, any n. None is kept.
        detect: finds the faces of a part.
        on_face: called while they are followed, as `track_faces` has it.

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
    return smooth_faces(track_faces(Faces.cat(found), cuts=cuts_between(torch.cat(pictures)), on_face=on_face))


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
        The frames with their faces restored, in parts that may be shorter: they also go by the number of faces.

    Raises:
        PoseFRError: another number or size of frames than the faces were found in, or an argument out of range.
    """
    strip = _Strip(faces, size, frame, color_match, device)
    waiting: list[Tensor] = []
    read, done = 0, 0
    for part in strip.small(parts):
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
                part, _ = paste_faces(part, crops, restored, color_match=color_match, over_tracks=tracks, **options)
            yield part
    if read != faces.frames:
        raise PoseFRError(f"The faces were found in {faces.frames} frames, but there are {read}; find them anew.")


class _Strip:
    """The restored faces of the frames around those that are pasted next."""

    def __init__(self, faces: Faces, size: int, frame: str, color_match: str, device: torch.device | None) -> None:
        faces = faces.to("cpu")
        self._faces = faces[torch.argsort(faces.frame, stable=True)]
        self._frames = self._faces.frame.tolist()
        self._scales = steady_scales(alignment_transform(self._faces.landmarks, size, frame), self._faces)
        self._frame, self._color_match, self._device = frame, color_match, device
        self._most = max(1, _CROP_PIXELS // size**2)  # faces
        # By the row of the face: its crop, transform and restored crop; this steadied, and its `color_change`.
        self._added: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        self._steady: dict[int, tuple[Tensor, Tensor]] = {}
        self._steadied = 0  # frames, from the first on

    def small(self, parts: Iterable[Tensor]) -> Iterator[Tensor]:
        """The parts, cut where one has too many faces."""
        first = 0
        for part in parts:
            if first + len(part) > self._faces.frames:
                raise PoseFRError(
                    f"The faces were found in {self._faces.frames} frames, and there are more; find them anew."
                )
            while len(part):
                fitting = len(part)
                while fitting > 1 and len(self._rows(first, first + fitting)) > self._most:
                    fitting //= 2
                yield part[:fitting]
                part, first = part[fitting:], first + fitting

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
        self._added.update(zip(rows, zip(crops.images, crops.transforms, restored, strict=True), strict=True))

    def take(self, first: int, end: int) -> tuple[Crops, Tensor, OverTracks] | None:
        """The crops of these frames, what became of them steadied, and what is smoothed over their tracks.

        What only frames before these need is let go. None where there is no face.
        """
        self._steady_before(end + STEADY_REACH)
        rows, around = self._rows(first, end), self._rows(first - STEADY_REACH, end + STEADY_REACH)
        taken = None
        if rows:
            changes = torch.stack([self._steady[row][1] for row in around])
            colors = smooth_over_tracks(changes, self._among(around))[rows.start - around.start :]
            images, transforms = (torch.stack([self._added[row][i] for row in rows]) for i in range(2))
            crops = Crops(images, transforms, self.faces_in(first, end), self._frame)
            steady = torch.stack([self._steady[row][0] for row in rows])
            taken = crops, steady, OverTracks(colors, self._scales[rows.start : rows.stop])
        needed = self._rows(end - STEADY_REACH, end).start
        for kept in (self._added, self._steady):
            while kept and (row := next(iter(kept))) < needed:
                del kept[row]
        return taken

    def _steady_before(self, end: int) -> None:
        """Steady the faces of the frames before `end` that are not yet; those of the frames around were restored."""
        around, frames = self._rows(self._steadied - STEADY_REACH, end + STEADY_REACH), range(self._steadied, end)
        rows = self._rows(frames.start, frames.stop)
        self._steadied = max(self._steadied, end)
        if not rows:
            return
        restored = torch.stack([self._added[row][2] for row in around])
        steady = steady_restored(restored, self._among(around), frames=frames, device=self._device)
        for row in rows:
            crop, own = self._added[row][0], steady[row - around.start].clone()  # what is around is let go
            change = color_change(own.to(crop.device, torch.float32), crop, self._color_match)
            self._steady[row] = own, change
