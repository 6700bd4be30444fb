"""Faces from boxes that other nodes found, and boxes for other nodes: SEGS, BBOX and BOUNDING_BOX.

SEGS are the Impact Pack's: ((height, width), [SEG, ...]), a SEG being a named tuple (README and modules/impact/core.py
of ltdrdata/ComfyUI-Impact-Pack). A BOUNDING_BOX is the host's: a dictionary of x, y, width and height with a label and
a score where known; a list of them holds for every image, a list of lists has one for each (comfy_api/latest/_io.py and
DrawBBoxes of ComfyUI). BBOX has no definition that all packs share: boxes are lists of four numbers, corners in most.
"""

from __future__ import annotations

import math
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .errors import PoseFRError
from .faces import Faces
from .geometry import alignment_transform, apply_transform, check_images, invert_similarity, sample_crops
from .masks import face_outline, shape_distance
from .pose import estimate_pose

__all__ = [
    "BOX_LAYOUTS",
    "SEG",
    "SEG_MASKS",
    "Box",
    "faces_in_boxes",
    "find_landmarks",
    "read_boxes",
    "read_segs",
    "to_bounding_boxes",
    "to_boxes",
    "to_segs",
]

BOX_LAYOUTS = ("x0 y0 x1 y1", "x y width height")
SEG_MASKS = ("box", "ellipse", "hull")

SEG = namedtuple(
    "SEG",
    ("cropped_image", "cropped_mask", "confidence", "crop_region", "bbox", "label", "control_net_wrapper"),
    defaults=[None],
)

# Eyes, nose and mouth corners in the bundled detector's box, taken as 1 x 1: the mean of 52 upright frontal faces
# (portraits of three data sets), made symmetric.
_MEAN_IN_BOX = ((0.264, 0.400), (0.736, 0.400), (0.5, 0.599), (0.292, 0.746), (0.708, 0.746))

_VIEW = 320  # px, the side of the picture that a box's landmarks are looked for in
_VIEW_MARGIN = 2.0  # its side in sides of the box: a detector wants to see the head
_VIEWS_AT_ONCE = 32


class Box(NamedTuple):
    """A box in px of its image, continuous coordinates, and how sure its finder was, 0..1."""

    x0: float
    y0: float
    x1: float
    y1: float
    score: float = 1.0


def read_segs(segs: Any, image_size: tuple[int, int]) -> list[Box]:
    """The boxes of SEGS for one image of `image_size` (height, width); SEGS of another size are scaled to it.

    Raises:
        PoseFRError: what came is no SEGS.
    """
    try:
        (height, width), found = segs
        scale = image_size[1] / float(width), image_size[0] / float(height)
        boxes = [_seg_box(seg) for seg in found]
    except (TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise PoseFRError(
            "The SEGS cannot be read; expected ((height, width), [SEG, ...]) as the Impact Pack's detectors give it."
        ) from error
    return [Box(b.x0 * scale[0], b.y0 * scale[1], b.x1 * scale[0], b.y1 * scale[1], b.score) for b in boxes]


def _seg_box(seg: Any) -> Box:
    corners = seg.crop_region if seg.bbox is None else seg.bbox
    x0, y0, x1, y1 = (float(v) for v in corners)
    return Box(x0, y0, x1, y1, _score(seg.confidence))


def _score(value: Any) -> float:
    """A confidence, given as a number, an array of one, or something else, which counts as none: 1."""
    try:
        score = float(value.item() if hasattr(value, "item") else value)
    except (TypeError, ValueError, RuntimeError):
        return 1.0
    return min(max(score, 0.0), 1.0) if math.isfinite(score) else 1.0


def read_boxes(value: Any, frames: int, layout: str = BOX_LAYOUTS[0]) -> list[list[Box]]:
    """The boxes of each of `frames` images from a BBOX or BOUNDING_BOX.

    Args:
        value: one box, a list of boxes for every image, or one such list for each image. A box is four numbers or more
            (the fifth is its score), or a dictionary of x, y, width and height.
        frames: the number of images.
        layout: what the four numbers are, one of `BOX_LAYOUTS`; a dictionary says it itself.

    Raises:
        PoseFRError: what came is something else, or for another number of images.
    """
    if layout not in BOX_LAYOUTS:
        raise PoseFRError(f"The box layout {layout!r} is unknown; pick one of {', '.join(BOX_LAYOUTS)}.")
    value = _plain(value)
    depth = _depth(value)
    if depth == 0:
        value = [value]
    if depth == 2:
        if len(value) not in (1, frames):
            raise PoseFRError(
                f"The boxes are those of {len(value)} images, but there are {frames}; connect boxes of these images."
            )
        sets = [[_box(entry, layout) for entry in entries] for entries in value]
        return sets * frames if len(sets) == 1 else sets
    return [[_box(entry, layout) for entry in value]] * frames


def _plain(value: Any) -> Any:
    """Tensors, arrays and tuples as lists, all the way down."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return value if isinstance(value, (Mapping, str)) or not isinstance(value, Sequence) else [*map(_plain, value)]


def _depth(value: Any) -> int:
    """0 for a box, 1 for a list of boxes, 2 for a list of such lists."""
    if isinstance(value, Mapping) or (isinstance(value, list) and value and isinstance(value[0], (int, float))):
        return 0
    if not isinstance(value, list):
        raise _no_box(value)
    return max((1 + _depth(entry) if entry != [] else 2 for entry in value), default=1)


def _box(value: Any, layout: str) -> Box:
    try:
        if isinstance(value, Mapping):
            x0, y0, x1, y1 = (float(value[key]) for key in ("x", "y", "width", "height"))
            layout, score = BOX_LAYOUTS[1], value.get("score")
        else:
            (x0, y0, x1, y1), score = map(float, value[:4]), value[4] if len(value) > 4 else None
    except (TypeError, ValueError, KeyError) as error:
        raise _no_box(value) from error
    if layout == BOX_LAYOUTS[1]:
        x1, y1 = x0 + x1, y0 + y1
    return Box(x0, y0, x1, y1, _score(score))


def _no_box(value: Any) -> PoseFRError:
    said = repr(value)
    return PoseFRError(
        f"The box {said if len(said) < 80 else said[:77] + '...'} cannot be read; expected four numbers, or a "
        "dictionary of x, y, width and height."
    )


def faces_in_boxes(boxes: Sequence[Sequence[Box]], image_size: tuple[int, int]) -> Faces:
    """Faces in boxes, one list of boxes for each image, with the landmarks of an upright frontal mean face.

    Boxes without area, outside the image or not finite are left out. Pose and tracks are unknown.
    """
    height, width = image_size
    rows = [
        (frame, *box)
        for frame, found in enumerate(boxes)
        for box in found
        if all(map(math.isfinite, box)) and min(box.x1, width) > max(box.x0, 0) and min(box.y1, height) > max(box.y0, 0)
    ]
    if not rows:
        return Faces.empty(image_size, len(boxes))
    values = torch.tensor(rows, dtype=torch.float64)
    corners = values[:, 1:5]
    landmarks = corners[:, None, :2] + values.new_tensor(_MEAN_IN_BOX) * (corners[:, None, 2:] - corners[:, None, :2])
    return Faces.make(values[:, 0], corners, landmarks, values[:, 5], image_size, len(boxes))


def find_landmarks(images: Tensor, faces: Faces, detect: Callable[[Tensor], Faces]) -> tuple[Faces, Tensor]:
    """Look for a face inside each face's box, and take over where its box and landmarks are.

    Args:
        images: [B, H, W, 3] floats, 0..1.
        faces: the faces of these images, of which only frame, box, score and track are known.
        detect: finds the faces in pictures [K, 320, 320, 3], as `Detector.detect` does.

    Returns:
        The faces in the same order, and which of them were found, [N] bool. Where several faces are found in a box, the
        one counts that overlaps it most. Those not found keep their landmarks; scores and tracks stay as they were.
    """
    check_images(images)
    faces = faces.to(images.device)
    known = torch.zeros(len(faces), dtype=torch.bool, device=images.device)
    side = (faces.box[:, 2:] - faces.box[:, :2]).amax(dim=1) * _VIEW_MARGIN
    corner = (faces.box[:, :2] + faces.box[:, 2:] - side[:, None]) / 2
    scale = _VIEW / side
    linear = torch.eye(2, device=images.device) * scale[:, None, None]
    transforms = torch.cat([linear, (-corner * scale[:, None])[:, :, None]], dim=2)
    box, landmarks, pose = faces.box.clone(), faces.landmarks.clone(), faces.pose.clone()
    for start in range(0, len(faces), _VIEWS_AT_ONCE):
        part = slice(start, start + _VIEWS_AT_ONCE)
        views = sample_crops(images, faces.frame[part], transforms[part], _VIEW)
        found = detect(views).to(images.device)
        back = invert_similarity(transforms[part])
        for view in found.frame.unique().tolist():
            seen, own = found[found.frame == view], start + view
            corners = apply_transform(back[view : view + 1], seen.box.reshape(1, -1, 2)).reshape(-1, 4)
            best = _best(corners, faces.box[own])
            if best is not None:
                box[own] = corners[best]
                landmarks[own] = apply_transform(back[view : view + 1], seen.landmarks[best : best + 1])[0]
                pose[own] = estimate_pose(landmarks[own : own + 1])[0]
                known[own] = True
    made = Faces.make(faces.frame, box, landmarks, faces.score, faces.image_size, faces.frames, pose, faces.track)
    return made, known


def _best(found: Tensor, box: Tensor) -> int | None:
    """Which of the boxes [K, 4] with their middle in a box [4] overlaps it most, if any."""
    middle = (found[:, :2] + found[:, 2:]) / 2
    inside = ((middle > box[:2]) & (middle < box[2:])).all(dim=1)
    shared = (torch.minimum(found[:, 2:], box[2:]) - torch.maximum(found[:, :2], box[:2])).clamp_min(0).prod(dim=1)
    union = (found[:, 2:] - found[:, :2]).prod(dim=1) + (box[2:] - box[:2]).prod() - shared
    overlap = (shared / union).where(inside, torch.full_like(shared, -1))
    return int(overlap.argmax()) if bool(inside.any()) else None


def to_boxes(faces: Faces, layout: str = BOX_LAYOUTS[0]) -> list[list[list[float]]]:
    """A BBOX for each image: its faces' boxes, four numbers each, in the set's order."""
    boxes: list[list[list[float]]] = [[] for _ in range(faces.frames)]
    for face in faces.to_list():
        x0, y0, x1, y1 = face.box
        boxes[face.frame].append([x0, y0, x1, y1] if layout == BOX_LAYOUTS[0] else [x0, y0, x1 - x0, y1 - y0])
    return boxes


def to_bounding_boxes(faces: Faces) -> list[list[dict[str, Any]]]:
    """The host's BOUNDING_BOX: for each image a list of boxes with label and score, in the set's order."""
    boxes: list[list[dict[str, Any]]] = [[] for _ in range(faces.frames)]
    for face in faces.to_list():
        x0, y0, x1, y1 = face.box
        boxes[face.frame].append(
            {"x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0, "label": "face", "score": face.score}
        )
    return boxes


def to_segs(
    faces: Faces,
    *,
    factor: float = 3.0,
    mask: str = "box",
    images: Tensor | None = None,
    on_face: Callable[[int, int], None] | None = None,
) -> list[tuple[tuple[int, int], list[Any]]]:
    """SEGS for each image, with one SEG for each of its faces, in the set's order.

    Args:
        faces: the faces.
        factor: how many times wider and higher than the face's box a SEG's region is; cut off at the image's border.
        mask: what is white in a SEG's mask: the `box`, the `ellipse` of an upright head, turned as the face is, or the
            `hull` from forehead to chin.
        images: [B, H, W, 3], where the regions' pictures come from; without them a SEG has none.
        on_face: called with faces done and faces in all; may raise to stop.

    Raises:
        PoseFRError: an unknown mask, a factor below 1, or landmarks that are not finite.
    """
    if mask not in SEG_MASKS:
        raise PoseFRError(f"The mask {mask!r} is unknown; pick one of {', '.join(SEG_MASKS)}.")
    if not 1 <= factor < math.inf:
        raise PoseFRError(f"The factor of the region is {factor}; expected 1 or more.")
    height, width = faces.image_size
    segs: list[tuple[tuple[int, int], list[Any]]] = [((height, width), []) for _ in range(faces.frames)]
    for i, face in enumerate(faces.to_list()):
        x0, y0, x1, y1 = face.box
        left, right = _span(x0, x1, factor, width)
        top, bottom = _span(y0, y1, factor, height)
        picture = None if images is None else images[face.frame, None, top:bottom, left:right, :3].cpu().float().numpy()
        inside = _seg_mask(faces[i], mask, (left, top, right, bottom))
        bbox = [max(round(x0), 0), max(round(y0), 0), min(round(x1), width), min(round(y1), height)]
        segs[face.frame][1].append(
            SEG(picture, inside.numpy(), face.score, [left, top, right, bottom], bbox, "face", None)
        )
        if on_face is not None:
            on_face(i + 1, len(faces))
    return segs


def _span(low: float, high: float, factor: float, length: int) -> tuple[int, int]:
    """The pixels of an image's axis that are within `factor` times a box's extent around its middle; at least one."""
    middle, half = (low + high) / 2, (high - low) / 2 * factor
    first = min(max(math.floor(middle - half), 0), length - 1)
    return first, min(max(math.ceil(middle + half), first + 1), length)


def _seg_mask(face: Faces, mask: str, region: tuple[int, int, int, int]) -> Tensor:
    """[h, w] of a region of the image: 1 where a pixel's centre lies inside the mask, else 0."""
    left, top, right, bottom = region
    x, y = torch.arange(left, right) + 0.5, torch.arange(top, bottom) + 0.5
    if mask == "box":
        x0, y0, x1, y1 = face.box[0].tolist()
        return (((y >= y0) & (y <= y1))[:, None] & ((x >= x0) & (x <= x1))[None, :]).float()
    landmarks = face.landmarks.cpu()
    transform = alignment_transform(landmarks, 1)
    down, across = torch.meshgrid(y, x, indexing="ij")
    u, v = apply_transform(transform, torch.stack([across, down], dim=2).reshape(1, -1, 2))[0].unbind(dim=1)
    outline = face_outline(landmarks, transform, 1)[0] if mask == "hull" else None
    return (shape_distance(mask, u, v, outline) > 0).float().reshape(len(y), len(x))
