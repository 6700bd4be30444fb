"""Soft masks of a face: distances to an outline in crop coordinates, and the feather that turns them into weights."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .geometry import apply_transform

__all__ = [
    "MASK_SHAPES",
    "face_outline",
    "face_weight",
    "feather_inwards",
    "grow_mask",
    "head_mask",
    "shape_distance",
    "shape_extent",
    "soft_edge",
]

MASK_SHAPES = ("ellipse", "box", "hull")

# In an upright crop, 0..1: hairline to chin and ear to ear lie inside, the neck and most of the hair outside.
_ELLIPSE_CENTRE = (0.5, 0.52)
_ELLIPSE_RADII = (0.42, 0.46)
_ELLIPSE_MEAN_RADIUS = math.sqrt(math.prod(_ELLIPSE_RADII))

# The hull's points beside the landmarks, from where they start: in lengths of the line from the middle of the mouth to
# the middle of the eyes, to the right of it and up along it.
_EYES, _MOUTH = 0, 1
_HULL_POINTS = (
    (_EYES, -0.6, 0.55),
    (_EYES, 0.0, 0.75),
    (_EYES, 0.6, 0.55),
    (_EYES, -0.8, 0.0),
    (_EYES, 0.8, 0.0),
    (_MOUTH, -0.6, 0.0),
    (_MOUTH, 0.6, 0.0),
    (_MOUTH, -0.3, -0.55),
    (_MOUTH, 0.3, -0.55),
)
_HULL_MARGIN = 0.25  # around every point, in the same length
_HULL_DIRECTIONS = 32

_FINEST_FEATHER = 8  # px: wider feathers of outside masks are made on a smaller copy


def face_outline(landmarks: Tensor, transforms: Tensor, size: int) -> Tensor:
    """The hull around each face, widened to forehead, cheeks and chin, as a convex polygon.

    Args:
        landmarks: [N, 5, 2] px in the image.
        transforms: [N, 2, 3] image to crop.
        size: side of the crop in px.

    Returns:
        [N, K]: how far the hull reaches in each of K directions (the first along x, going round towards y) from the
        crop's origin, in sides of the crop.
    """
    points = apply_transform(transforms.float(), landmarks.float()) / size
    eyes, mouth = points[:, :2].mean(dim=1), points[:, 3:].mean(dim=1)
    up = eyes - mouth
    right = torch.stack([-up[:, 1], up[:, 0]], dim=1)
    more = [(mouth if start else eyes) + right * across + up * along for start, across, along in _HULL_POINTS]
    points = torch.cat([points, torch.stack(more, dim=1)], dim=1)
    reach = (points @ _directions(points.device)).amax(dim=1)
    return reach + _HULL_MARGIN * up.norm(dim=1, keepdim=True)


def _directions(device: torch.device) -> Tensor:
    """[2, K] unit vectors all the way round."""
    angle = torch.arange(_HULL_DIRECTIONS, device=device) * (2 * math.pi / _HULL_DIRECTIONS)
    return torch.stack([angle.cos(), angle.sin()])


def shape_extent(shape: str, linear: Tensor, grow: float = 0.0) -> tuple[Tensor, Tensor]:
    """The upright rectangle that holds a shape wherever its crop lies.

    Args:
        shape: `box`, `ellipse` or `hull` (which is bounded by the box).
        linear: [N, 2, 2], from coordinates across and down the crop, 0..1, to image px; without the shift.
        grow: as for `shape_distance`.

    Returns:
        The shape's centre [2] in the crop, 0..1, and half the rectangle's width and height [N, 2] in image px.
    """
    if shape != "ellipse":
        return linear.new_tensor((0.5, 0.5)), torch.linalg.vector_norm(linear * 0.5, ord=1, dim=2)
    larger = max(1 + grow / _ELLIPSE_MEAN_RADIUS, 0.0)
    half = torch.linalg.vector_norm(linear * linear.new_tensor(_ELLIPSE_RADII), ord=2, dim=2)
    return linear.new_tensor(_ELLIPSE_CENTRE), half * larger


def shape_distance(shape: str, u: Tensor, v: Tensor, outline: Tensor | None = None, grow: float = 0.0) -> Tensor:
    """How far inside a shape each position lies, in sides of the crop; 0 on its border, below 0 outside.

    Every shape ends at the crop's border at the latest.

    Args:
        shape: `box`, `ellipse` or `hull`.
        u: positions across the crop, 0..1.
        v: positions down the crop, 0..1, of the same shape.
        outline: [K], one face of `face_outline`; for `hull` alone.
        grow: how far the border is moved outwards, or inwards if below 0, in sides of the crop.
    """
    distance = torch.minimum(torch.minimum(u, 1 - u), torch.minimum(v, 1 - v))
    if shape == "box":
        return distance + min(grow, 0.0)
    if shape == "ellipse":
        across, down = ((p - c) / r for p, c, r in zip((u, v), _ELLIPSE_CENTRE, _ELLIPSE_RADII, strict=True))
        return torch.minimum(distance, (1 - torch.hypot(across, down)) * _ELLIPSE_MEAN_RADIUS + grow)
    if outline is not None:
        for (x, y), reach in zip(_directions(torch.device("cpu")).T.tolist(), outline.tolist(), strict=True):
            distance = torch.minimum(distance, reach + grow - (x * u + y * v))
    return distance


def face_weight(size: int, device: torch.device | str, context: float = 1.0) -> Tensor:
    """[size, size]: how much each pixel of an upright crop counts for what is measured over the face; they sum to 1."""
    weight = head_mask(size, device, context)
    return weight / weight.sum()


def head_mask(size: int, device: torch.device | str, context: float = 1.0) -> Tensor:
    """[size, size], 0..1: the ellipse in an upright crop with `context`, soft inwards by a tenth of the frame."""
    centres = ((torch.arange(size, device=device) + 0.5) / size - 0.5) * context + 0.5
    down, across = torch.meshgrid(centres, centres, indexing="ij")
    return soft_edge(shape_distance("ellipse", across, down), 0.1)


def soft_edge(distance: Tensor, width: float) -> Tensor:
    """Raised cosine: 0 up to a distance of 0, 1 from `width` on."""
    return 0.5 - 0.5 * torch.cos((distance / width).clamp(0, 1) * math.pi)


def grow_mask(mask: Tensor, width: float) -> Tensor:
    """Widen a mask [h, w] by `width` px on all sides, or narrow it if below 0; outside it goes on as at its border."""
    pictures = mask[None, None]
    return (_widen(pictures, round(width)) if width > 0 else -_widen(-pictures, round(-width)))[0, 0]


def _widen(pictures: Tensor, radius: int) -> Tensor:
    """The maximum over a square of 2 radius + 1 px around each pixel of [N, C, h, w]."""
    for shape in ((3, 1), (1, 3)):
        reach = 0
        while reach < radius:  # three squares side by side make one of up to three times the width
            step = min(2 * reach + 1, radius - reach)
            pad = (0, 0, step, step) if shape[0] == 3 else (step, step, 0, 0)
            pictures = F.max_pool2d(F.pad(pictures, pad, mode="replicate"), shape, stride=1, dilation=step)
            reach += step
    return pictures


def feather_inwards(mask: Tensor, width: float) -> Tensor:
    """Soften a mask's edges towards its inside only: what was 0 stays 0.

    Args:
        mask: [h, w], 0..1.
        width: of the soft edge, px.

    Returns:
        [h, w], nowhere above `mask`: eroded by half the width, then smoothed over as much, which makes a raised cosine
        of a hard edge.
    """
    radius = round(width / 2)
    if radius < 1:
        return mask
    shrink = max(radius / _FINEST_FEATHER, 1.0)
    soft = mask[None, None]
    if shrink > 1:
        radius = _FINEST_FEATHER
        smaller = [max(1, round(length / shrink)) for length in mask.shape]
        soft = F.interpolate(soft, size=smaller, mode="area")
    taps = torch.sin(torch.arange(1, 2 * radius + 2, device=mask.device) * (math.pi / (2 * radius + 2)))
    taps = taps / taps.sum()
    soft = -_widen(-soft, radius)
    for shape, pad in (((1, 1, -1, 1), (0, 0, radius, radius)), ((1, 1, 1, -1), (radius, radius, 0, 0))):
        soft = F.conv2d(F.pad(soft, pad, mode="replicate"), taps.view(shape))
    if shrink > 1:
        soft = F.interpolate(soft, size=mask.shape, mode="bilinear", align_corners=False)
    return torch.minimum(soft[0, 0], mask)
