"""Soft masks of a face: distances to an outline in crop coordinates, and the feather that turns them into weights."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .geometry import apply_transform

__all__ = ["MASK_SHAPES", "face_outline", "feather_inwards", "shape_distance", "shape_extent", "soft_edge"]

MASK_SHAPES = ("ellipse", "box", "hull")

# In an upright crop, 0..1: hairline to chin and ear to ear lie inside, the neck and most of the hair outside.
_ELLIPSE_CENTRE = (0.5, 0.52)
_ELLIPSE_RADII = (0.42, 0.46)

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


def shape_extent(shape: str, linear: Tensor) -> tuple[Tensor, Tensor]:
    """The upright rectangle that holds a shape wherever its crop lies.

    Args:
        shape: `box`, `ellipse` or `hull` (which is bounded by the box).
        linear: [N, 2, 2], from coordinates across and down the crop, 0..1, to image px; without the shift.

    Returns:
        The shape's centre [2] in the crop, 0..1, and half the rectangle's width and height [N, 2] in image px.
    """
    centre, radii = (_ELLIPSE_CENTRE, _ELLIPSE_RADII) if shape == "ellipse" else ((0.5, 0.5), (0.5, 0.5))
    half = torch.linalg.vector_norm(linear * linear.new_tensor(radii), ord=2 if shape == "ellipse" else 1, dim=2)
    return linear.new_tensor(centre), half


def shape_distance(shape: str, u: Tensor, v: Tensor, outline: Tensor | None = None) -> Tensor:
    """How far inside a shape each position lies, in sides of the crop; 0 on its border, below 0 outside.

    Every shape ends at the crop's border at the latest.

    Args:
        shape: `box`, `ellipse` or `hull`.
        u: positions across the crop, 0..1.
        v: positions down the crop, 0..1, of the same shape.
        outline: [K], one face of `face_outline`; for `hull` alone.
    """
    distance = torch.minimum(torch.minimum(u, 1 - u), torch.minimum(v, 1 - v))
    if shape == "ellipse":
        across, down = ((p - c) / r for p, c, r in zip((u, v), _ELLIPSE_CENTRE, _ELLIPSE_RADII, strict=True))
        return torch.minimum(distance, (1 - torch.hypot(across, down)) * math.sqrt(math.prod(_ELLIPSE_RADII)))
    if shape == "hull" and outline is not None:
        for (x, y), reach in zip(_directions(torch.device("cpu")).T.tolist(), outline.tolist(), strict=True):
            distance = torch.minimum(distance, reach - (x * u + y * v))
    return distance


def soft_edge(distance: Tensor, width: float) -> Tensor:
    """Raised cosine: 0 up to a distance of 0, 1 from `width` on."""
    return 0.5 - 0.5 * torch.cos((distance / width).clamp(0, 1) * math.pi)


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
    for kernel, pad in (((2 * radius + 1, 1), (0, 0, radius, radius)), ((1, 2 * radius + 1), (radius, radius, 0, 0))):
        soft = -F.max_pool2d(-F.pad(soft, pad, mode="replicate"), kernel, stride=1)
    for shape, pad in (((1, 1, -1, 1), (0, 0, radius, radius)), ((1, 1, 1, -1), (radius, radius, 0, 0))):
        soft = F.conv2d(F.pad(soft, pad, mode="replicate"), taps.view(shape))
    if shrink > 1:
        soft = F.interpolate(soft, size=mask.shape, mode="bilinear", align_corners=False)
    return torch.minimum(soft[0, 0], mask)
