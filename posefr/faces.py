"""What detection hands on to everything after it: the faces of a batch of images, as one immutable set of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

__all__ = ["Face", "Faces"]

_UNTRACKED = -1


@dataclass(frozen=True)
class Face:
    """One face as plain Python numbers, for reports.

    Coordinates are continuous image coordinates in px: a pixel's centre is at (x + 0.5, y + 0.5).
    """

    frame: int
    box: tuple[float, float, float, float]
    landmarks: tuple[tuple[float, float], ...]
    score: float
    yaw: float
    pitch: float
    roll: float
    track: int


@dataclass(frozen=True)
class Faces:
    """N faces found in a batch of B images of one size.

    Attributes:
        frame: [N] int64, the index in the batch of the image that a face is in, 0..B-1.
        box: [N, 4] float32, x0 y0 x1 y1 in px, continuous coordinates (a pixel's centre is at +0.5).
        landmarks: [N, 5, 2] float32, px: left eye, right eye, nose, left and right mouth corner, left and right as seen
            on the picture.
        score: [N] float32, the detector's confidence, 0..1.
        pose: [N, 3] float32, yaw, pitch and roll in degrees; NaN where unknown.
        track: [N] int64, the face's identity over frames, -1 where unknown.
        image_size: (height, width) of the images in px.
        frames: B, the number of images.

    All tensors are on one device. Instances never change; every method returns a new one.
    """

    frame: Tensor
    box: Tensor
    landmarks: Tensor
    score: Tensor
    pose: Tensor
    track: Tensor
    image_size: tuple[int, int]
    frames: int

    def __post_init__(self) -> None:
        count = self.frame.shape[0] if self.frame.ndim == 1 else -1
        expected = {
            "frame": (count,),
            "box": (count, 4),
            "landmarks": (count, 5, 2),
            "score": (count,),
            "pose": (count, 3),
            "track": (count,),
        }
        for name, shape in expected.items():
            found = tuple(getattr(self, name).shape)
            if found != shape:
                raise ValueError(f"Faces.{name} has the shape {list(found)}; expected {list(shape)}.")

    @classmethod
    def make(
        cls,
        frame: Tensor,
        box: Tensor,
        landmarks: Tensor,
        score: Tensor,
        image_size: tuple[int, int],
        frames: int,
        pose: Tensor | None = None,
        track: Tensor | None = None,
    ) -> Faces:
        """Build a set; pose defaults to NaN (unknown) and track to -1 (unknown). Shapes as in the class's docstring."""
        count, device = box.shape[0], box.device
        return cls(
            frame=frame.to(device, torch.int64),
            box=box.float(),
            landmarks=landmarks.float(),
            score=score.float(),
            pose=torch.full((count, 3), float("nan"), device=device) if pose is None else pose.float(),
            track=torch.full((count,), _UNTRACKED, device=device) if track is None else track.to(device, torch.int64),
            image_size=(int(image_size[0]), int(image_size[1])),
            frames=int(frames),
        )

    @classmethod
    def empty(cls, image_size: tuple[int, int], frames: int, device: torch.device | str = "cpu") -> Faces:
        """No faces, in `frames` images of `image_size` (height, width)."""
        zeros = torch.zeros
        return cls.make(
            zeros(0, device=device),
            zeros(0, 4, device=device),
            zeros(0, 5, 2, device=device),
            zeros(0, device=device),
            image_size,
            frames,
        )

    @classmethod
    def cat(cls, sets: Sequence[Faces]) -> Faces:
        """Join sets over the same images, in the order given. Raises ValueError for none or for different images."""
        if not sets:
            raise ValueError("Faces.cat needs at least one set of faces.")
        first = sets[0]
        for other in sets[1:]:
            if (other.image_size, other.frames) != (first.image_size, first.frames):
                raise ValueError("Faces.cat joins sets of the same images only; these differ in size or number.")
        joined: dict[str, Any] = {name: torch.cat([getattr(s, name) for s in sets]) for name in cls._tensor_names()}
        return replace(first, **joined)

    @classmethod
    def _tensor_names(cls) -> list[str]:
        return [f.name for f in fields(cls) if f.name not in ("image_size", "frames")]

    def __len__(self) -> int:
        return self.frame.shape[0]

    def __getitem__(self, index: int | slice | Tensor | Sequence[int]) -> Faces:
        """A subset: an index, a slice, a boolean mask [N] or indices; always a Faces, also for one index."""
        if isinstance(index, int):
            index = [index]
        if not isinstance(index, slice):
            index = torch.as_tensor(index, device=self.frame.device)
            if index.numel() == 0:
                index = index.to(torch.int64)
        return replace(self, **{name: getattr(self, name)[index] for name in self._tensor_names()})

    @property
    def device(self) -> torch.device:
        return self.box.device

    @property
    def size(self) -> Tensor:
        """[N] float32: each face's size in px, the square root of its box's area."""
        width, height = (self.box[:, 2:] - self.box[:, :2]).clamp_min(0).unbind(1)
        return (width * height).sqrt()

    def to(self, device: torch.device | str) -> Faces:
        return replace(self, **{name: getattr(self, name).to(device) for name in self._tensor_names()})

    def to_list(self) -> list[Face]:
        """The faces as plain Python numbers."""
        columns = (
            self.frame.tolist(),
            map(tuple, self.box.tolist()),
            (tuple(map(tuple, points)) for points in self.landmarks.tolist()),
            self.score.tolist(),
            *self.pose.T.tolist(),
            self.track.tolist(),
        )
        return [Face(*row) for row in zip(*columns, strict=True)]
