"""Canvases for training the detector: many faces at many sizes and angles in one picture, with exact labels.

A canvas is a background (a photo with its own faces, a part of one without faces, a gradient, a texture) with layers on
it: photos warped by a known similarity, cut out in several ways, and faceless cut-outs made in the same ways, so that a
seam says nothing about a face. Labels go through the same similarity as the pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from .detector_photos import Photo

__all__ = ["Canvas", "compose", "mirror", "transform_boxes"]

Generator = np.random.Generator

SMALLEST = 10.0  # px, the square root of a box's area; what is smaller is neither face nor background
LARGEST = 500.0  # px
_COVERED, _HIDDEN = 0.35, 0.75  # a face covered by less is a face, by more is none, between the two may be one
_MIRRORED_POINTS = [1, 0, 2, 4, 3]


@dataclass
class Canvas:
    """A picture and its labels: image [S, S, 3] uint8 BGR, and boxes, landmarks and sure as in Photo."""

    image: NDArray[np.uint8]
    boxes: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 4), np.float32))
    landmarks: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 5, 2), np.float32))
    sure: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))

    def sizes(self) -> NDArray[np.float32]:
        """[N] px: the square roots of the boxes' areas."""
        return np.sqrt(np.prod(self.boxes[:, 2:] - self.boxes[:, :2], axis=1))


def compose(photos: Sequence[Photo], rng: Generator, size: int = 320) -> Canvas:
    """A canvas of size x size px from photos; the same generator state gives the same canvas."""
    kind = rng.random()
    if kind < 0.1:
        return _finish(_side_by_side(photos, rng, size), size)
    if kind < 0.18:  # no face
        canvas = Canvas(_faceless(photos, rng, size))
        for _ in range(rng.integers(0, 6)):
            _add_distractor(canvas, photos, rng)
        return _finish(canvas, size)
    canvas = _background(photos, rng, size)
    if kind < 0.28:  # one photo, large
        return _finish(canvas, size)
    crowd = rng.random() < 0.35
    low, high = (SMALLEST, 44.0) if crowd else (SMALLEST, min(0.78 * size, LARGEST))
    area = 0.0
    for _ in range(rng.integers(6, 31) if crowd else rng.integers(1, 10)):
        side = float(np.exp(rng.uniform(np.log(low), np.log(high))))
        area += (1.8 * side / size) ** 2
        if area > 1.0:
            break
        _add_face(canvas, photos, rng, side)
        if rng.random() < 0.3:
            _add_distractor(canvas, photos, rng)
    return _finish(canvas, size)


def mirror(canvas: Canvas) -> Canvas:
    """The canvas seen in a mirror; left and right landmarks change places."""
    width = canvas.image.shape[1]
    boxes, landmarks = canvas.boxes.copy(), canvas.landmarks[:, _MIRRORED_POINTS].copy()
    boxes[:, [0, 2]] = width - canvas.boxes[:, [2, 0]]
    landmarks[..., 0] = width - landmarks[..., 0]
    return Canvas(np.ascontiguousarray(canvas.image[:, ::-1]), boxes, landmarks, canvas.sure.copy())


def transform_boxes(boxes: NDArray[np.float32], matrix: NDArray[np.float64]) -> NDArray[np.float32]:
    """Boxes [N, 4] through a 2x3 similarity: the boxes around the transformed ellipses that they hold.

    A head is nearer an ellipse than a rectangle, so that a turned face's box does not grow by its empty corners.
    """
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 @ matrix[:, :2].T + matrix[:, 2]
    half = np.sqrt(((boxes[:, 2:] - boxes[:, :2]) / 2) ** 2 @ (matrix[:, :2] ** 2).T)
    return np.concatenate((centre - half, centre + half), axis=1).astype(np.float32)


def _finish(canvas: Canvas, size: int) -> Canvas:
    """Drop what lies outside; what is cut by the border or too small may be a face, no more."""
    boxes = canvas.boxes
    inside = np.clip(boxes, 0, size)
    visible = np.prod(inside[:, 2:] - inside[:, :2], axis=1) / np.maximum(canvas.sizes() ** 2, 1e-6)
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    whole = (visible > 0.6) & ((centre > 0) & (centre < size)).all(1)
    fits = (canvas.sizes() >= SMALLEST) & (canvas.sizes() <= min(1.2 * size, LARGEST))
    seen = visible > 0.05
    sure = (canvas.sure & whole & fits)[seen]
    return Canvas(canvas.image, boxes[seen], canvas.landmarks[seen], sure)


def _similarity(scale: float, degrees: float, source: NDArray[np.float32], target: NDArray[np.float64]) -> NDArray:
    """The 2x3 similarity in continuous coordinates that takes `source` to `target`."""
    cos, sin = scale * np.cos(np.radians(degrees)), scale * np.sin(np.radians(degrees))
    linear = np.array([[cos, -sin], [sin, cos]])
    return np.concatenate((linear, (target - linear @ source)[:, None]), axis=1)


def _warp(image: NDArray, matrix: NDArray[np.float64], width: int, height: int, border: int) -> NDArray:
    """Warp by a similarity in continuous coordinates; a shrinking one averages over areas first."""
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    if scale < 0.8:
        small = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
        ratio = np.array([image.shape[1] / small[0], image.shape[0] / small[1]])
        image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
        matrix = np.concatenate((matrix[:, :2] * ratio, matrix[:, 2:]), axis=1)
    shifted = matrix.copy()  # OpenCV counts a pixel's centre as a whole number
    shifted[:, 2] += matrix[:, :2] @ [0.5, 0.5] - 0.5
    return cv2.warpAffine(image, shifted, (width, height), flags=cv2.INTER_LINEAR, borderMode=border)


def _angle(rng: Generator) -> float:
    """Degrees: most heads stand, some lean to 60, few lie or are upside down."""
    kind = rng.random()
    if kind < 0.66:
        return float(rng.normal(0, 12))
    if kind < 0.9:
        return float(rng.uniform(-60, 60))
    return float(rng.uniform(-110, 110) if kind < 0.95 else rng.normal(180, 15))


def _subject(photos: Sequence[Photo], rng: Generator) -> Photo:
    """One of the photos that show a face."""
    while True:
        photo = photos[int(rng.integers(len(photos)))]
        if len(photo.boxes):
            return photo


def _recolour(image: NDArray[np.uint8], rng: Generator) -> NDArray[np.uint8]:
    """Other brightness, contrast and white balance."""
    if rng.random() < 0.4:
        return image
    gain = rng.uniform(0.6, 1.3) * rng.uniform(0.88, 1.12, 3)
    table = np.clip(np.arange(256)[:, None] * gain + rng.uniform(-20, 20), 0, 255).astype(np.uint8)
    return cv2.LUT(image, table[:, None, :])


def _background(photos: Sequence[Photo], rng: Generator, size: int) -> Canvas:
    kind = rng.random()
    if kind < 0.45:
        return _photo_background(photos, rng, size)
    return Canvas(_faceless(photos, rng, size))


def _photo_background(photos: Sequence[Photo], rng: Generator, size: int) -> Canvas:
    """A photo that covers the canvas, with its faces as labels; sometimes its subject's face is covered up."""
    photo = _subject(photos, rng)
    height, width = photo.image.shape[:2]
    least = 1.05 * size / min(height, width)
    scale = least * float(np.exp(rng.uniform(0, 0.9)))
    degrees = float(rng.normal(0, 6))
    spare = np.maximum(np.array([width, height]) * scale - size, 0) / 2
    target = size / 2 + rng.uniform(-1, 1, 2) * spare
    matrix = _similarity(scale, degrees, np.array([width / 2, height / 2], np.float32), target)
    image = _recolour(_warp(photo.image, matrix, size, size, cv2.BORDER_REPLICATE), rng)
    landmarks = (photo.landmarks @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)
    canvas = Canvas(image, transform_boxes(photo.boxes, matrix), landmarks, photo.sure.copy())
    if rng.random() < 0.25:
        for box in canvas.boxes.copy():
            _cover(canvas, photos, rng, box)
    return canvas


def _side_by_side(photos: Sequence[Photo], rng: Generator, size: int) -> Canvas:
    """Photos cheek by cheek in two or three columns, one or two rows: what lies between two faces is none."""
    columns, rows = int(rng.integers(2, 4)), int(rng.integers(1, 3))
    canvas = Canvas(_faceless(photos, rng, size))
    width, height = size // columns, size // rows
    for row in range(rows):
        for column in range(columns):
            photo = _subject(photos, rng)
            box = photo.boxes[0]
            scale = float(rng.uniform(0.6, 1.05)) * width / float(box[2] - box[0])
            target = np.array([width, height]) / 2 + rng.normal(0, 0.06, 2) * width
            matrix = _similarity(scale, float(rng.normal(0, 8)), (box[:2] + box[2:]) / 2, target)
            layer = _recolour(_warp(photo.image, matrix, width, height, cv2.BORDER_REPLICATE), rng)
            corner = np.array([column * width, row * height])
            canvas.image[corner[1] : corner[1] + height, corner[0] : corner[0] + width] = layer
            matrix[:, 2] += corner
            landmarks = (photo.landmarks[:1] @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)
            box = transform_boxes(photo.boxes[:1], matrix)
            low, high = np.maximum(box[0, :2], corner), np.minimum(box[0, 2:], corner + np.array([width, height]))
            uncut = np.prod(np.maximum(high - low, 0)) > (1 - _COVERED) * np.prod(box[0, 2:] - box[0, :2])
            canvas.boxes = np.concatenate((canvas.boxes, box))
            canvas.landmarks = np.concatenate((canvas.landmarks, landmarks))
            canvas.sure = np.append(canvas.sure, uncut)
    return canvas


def _cover(canvas: Canvas, photos: Sequence[Photo], rng: Generator, box: NDArray[np.float32]) -> None:
    """Hide a face behind something that is none, so that hair and shoulders alone do not make one."""
    centre, side = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) * 1.15
    patch = _margin(photos, rng, max(4, int(side[0])), max(4, int(side[1])))
    _blend(canvas, patch, _mask(patch.shape[:2], rng, whole=True), centre - side / 2)


def _faceless(photos: Sequence[Photo], rng: Generator, size: int) -> NDArray[np.uint8]:
    kind = rng.random()
    if kind < 0.35:  # patchwork: many things at the scale they were photographed at
        cells = int(rng.integers(2, 8))
        cuts = np.linspace(0, size, cells + 1).astype(int)
        image = np.empty((size, size, 3), np.uint8)
        for y0, y1 in pairwise(cuts):
            for x0, x1 in pairwise(cuts):
                image[y0:y1, x0:x1] = _margin(photos, rng, int(x1 - x0), int(y1 - y0))
        return image
    if kind < 0.65:
        image = _margin(photos, rng, size, size)
        if rng.random() < 0.3:
            image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(2, 12)))
        return image
    if kind < 0.74:  # soft blotches, the size of faces among others
        cells = int(rng.integers(2, 24))
        coarse = rng.integers(0, 256, (cells, cells, 3)).astype(np.uint8)
        image = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    elif kind < 0.86:
        image = _clouds(rng, size)
    elif kind < 0.94:  # a gradient
        corners = rng.integers(0, 256, (2, 2, 3)).astype(np.uint8)
        image = cv2.resize(corners, (size, size), interpolation=cv2.INTER_LINEAR)
    else:
        image = np.full((size, size, 3), rng.integers(0, 256, 3), np.uint8)
    if rng.random() < 0.5:
        _draw_shapes(image, rng)
    return image


def _clouds(rng: Generator, size: int) -> NDArray[np.uint8]:
    """Noise of many scales, stretched one way or not: fur, bark, stone, water, folds."""
    fall, stretch = rng.uniform(0.4, 0.9), np.exp(rng.uniform(-1.5, 1.5))
    image = np.zeros((size, size, 3), np.float32)
    for octave in range(1, 8):
        cells = np.clip((2**octave * np.array([stretch**0.5, stretch**-0.5])).astype(int), 2, size)
        noise = rng.standard_normal((cells[0], cells[1], 3), dtype=np.float32)
        noise += 2 * rng.standard_normal((cells[0], cells[1], 1), dtype=np.float32)
        image += cv2.resize(noise, (size, size), interpolation=cv2.INTER_CUBIC) * fall**octave
    image = image / image.std() * rng.uniform(15, 60) + rng.uniform(40, 215, 3)
    return np.clip(image, 0, 255).astype(np.uint8)


def _draw_shapes(image: NDArray[np.uint8], rng: Generator) -> None:
    """Ellipses, lines, boxes and letters in any colour: round and eye-like things that are no faces."""
    size = image.shape[0]
    for _ in range(rng.integers(2, 14)):
        x, y, a, b = (int(v) for v in rng.integers(2, size, 4))
        colour = tuple(int(v) for v in rng.integers(0, 256, 3))
        thickness = -1 if rng.random() < 0.6 else int(rng.integers(1, 6))
        kind = rng.integers(4)
        if kind == 0:
            axes = (max(2, a // 6), max(2, b // 6))
            cv2.ellipse(image, (x, y), axes, float(rng.uniform(0, 180)), 0, 360, colour, thickness, cv2.LINE_AA)
        elif kind == 1:
            cv2.line(image, (x, y), (a, b), colour, int(rng.integers(1, 8)), cv2.LINE_AA)
        elif kind == 2:
            cv2.rectangle(image, (x, y), (x + a // 4, y + b // 4), colour, thickness)
        else:
            text = "".join(chr(int(c)) for c in rng.integers(48, 91, 4))
            font, scale = int(rng.integers(0, 8)), float(rng.uniform(0.4, 3))
            cv2.putText(image, text, (x, y), font, scale, colour, 2, cv2.LINE_AA)


def _margin(photos: Sequence[Photo], rng: Generator, width: int, height: int) -> NDArray[np.uint8]:
    """A part of a photo without any face: hair, clothes, hands, rooms, landscapes; enlarged or turned to fit.

    Now and then it is a part of a face too small to be one, an eye or a cheek, or a face whose parts lie in disorder.
    """
    kind = rng.random()
    if kind < 0.14:
        return cv2.resize(_no_face(photos, rng, kind < 0.07), (width, height), interpolation=cv2.INTER_LINEAR)
    for _ in range(20):
        photo = photos[int(rng.integers(len(photos)))]
        rows, columns = photo.image.shape[:2]
        side = np.array([rng.uniform(0.12, 0.5) * columns, rng.uniform(0.12, 0.5) * rows])
        corner = rng.uniform(0, 1, 2) * (np.array([columns, rows]) - side)
        low = np.maximum(corner, photo.boxes[:, :2])
        high = np.minimum(corner + side, photo.boxes[:, 2:])
        shared = np.prod(np.maximum(high - low, 0), axis=1)
        area = np.prod(photo.boxes[:, 2:] - photo.boxes[:, :2], axis=1)
        if not len(area) and rng.random() < 0.5:
            corner, side = np.zeros(2), np.array([columns, rows], np.float64)
        if (shared < 0.04 * area).all():
            x, y = (int(v) for v in corner)
            part = photo.image[y : y + max(4, int(side[1])), x : x + max(4, int(side[0]))]
            part = np.rot90(part, int(rng.integers(4))) if rng.random() < 0.4 else part
            part = cv2.resize(np.ascontiguousarray(part), (width, height), interpolation=cv2.INTER_LINEAR)
            return _recolour(part, rng)
    return np.full((height, width, 3), rng.integers(0, 256, 3), np.uint8)


def _no_face(photos: Sequence[Photo], rng: Generator, shuffled: bool) -> NDArray[np.uint8]:
    """A small part of a face, or a face cut into 3 x 3 cells that change places."""
    photo = _subject(photos, rng)
    rows, columns = photo.image.shape[:2]
    box = photo.boxes[0]
    side = np.maximum((box[2:] - box[:2]) * (0.3 if shuffled else rng.uniform(0.2, 0.4)), 4)
    cells = []
    for place in np.ndindex(3, 3) if shuffled else [rng.uniform(0, 2, 2)]:
        corner = box[:2] + np.array(place)[::-1] * side
        x, y = (int(v) for v in np.clip(corner, 0, np.array([columns, rows]) - 4))
        part = photo.image[y : y + int(side[1]), x : x + int(side[0])]
        cells.append(cv2.resize(part, (int(side[0]), int(side[1])), interpolation=cv2.INTER_LINEAR))
    if not shuffled:
        return _recolour(cells[0], rng)
    while (order := rng.permutation(9)).tolist() == list(range(9)):
        pass
    return _recolour(np.vstack([np.hstack([cells[i] for i in order[row : row + 3]]) for row in (0, 3, 6)]), rng)


def _mask(shape: tuple[int, int], rng: Generator, whole: bool = False) -> NDArray[np.float32]:
    """[H, W] 0..1: a rectangle or an ellipse, its edge hard or soft."""
    height, width = shape
    y, x = np.ogrid[:height, :width]
    u, v = np.abs((x + 0.5) / width * 2 - 1), np.abs((y + 0.5) / height * 2 - 1)
    if whole or rng.random() < 0.45:
        distance = np.maximum(u, v)
    else:
        power = rng.uniform(2, 5)
        distance = (u**power + v**power) ** (1 / power)
    soft = 0.01 if rng.random() < 0.4 else rng.uniform(0.05, 0.35)
    return np.clip((1 - distance) / soft, 0, 1).astype(np.float32)


def _blend(
    canvas: Canvas, layer: NDArray[np.uint8], alpha: NDArray[np.float32], corner: NDArray[np.float64] | Sequence[float]
) -> None:
    """Lay a picture on the canvas at the px `corner` (rounded); faces below it are covered, and forgotten if hidden."""
    size = canvas.image.shape[0]
    x, y = round(float(corner[0])), round(float(corner[1]))
    x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + layer.shape[1], size), min(y + layer.shape[0], size)
    if x0 >= x1 or y0 >= y1:
        return
    part = alpha[y0 - y : y1 - y, x0 - x : x1 - x]
    below = canvas.image[y0:y1, x0:x1]
    above = layer[y0 - y : y1 - y, x0 - x : x1 - x]
    weight = part[..., None]
    canvas.image[y0:y1, x0:x1] = (below + weight * (above.astype(np.float32) - below) + 0.5).astype(np.uint8)

    covered = np.zeros(len(canvas.boxes))
    for i, box in enumerate(canvas.boxes):
        bx0, by0 = max(int(box[0]), x0), max(int(box[1]), y0)
        bx1, by1 = min(int(np.ceil(box[2])), x1), min(int(np.ceil(box[3])), y1)
        if bx0 < bx1 and by0 < by1:
            area = max(float(np.prod(box[2:] - box[:2])), 1.0)
            covered[i] = part[by0 - y0 : by1 - y0, bx0 - x0 : bx1 - x0].sum() / area
    kept = covered < _HIDDEN
    canvas.sure = (canvas.sure & (covered < _COVERED))[kept]
    canvas.boxes, canvas.landmarks = canvas.boxes[kept], canvas.landmarks[kept]


def _add_face(canvas: Canvas, photos: Sequence[Photo], rng: Generator, side: float) -> None:
    """Lay a photo on the canvas so that its subject's face is `side` px large."""
    photo = _subject(photos, rng)
    size = canvas.image.shape[0]
    box = photo.boxes[0]
    scale = side / float(np.sqrt(np.prod(box[2:] - box[:2])))
    centre = rng.uniform(0.3 * side, size - 0.3 * side, 2)
    matrix = _similarity(scale, _angle(rng), (box[:2] + box[2:]) / 2, centre)
    height, width = photo.image.shape[:2]
    alpha = np.zeros((height, width), np.float32)
    if rng.random() < 0.4:  # the whole photo
        alpha = _mask((height, width), rng, whole=True)
    else:  # the head and some of what is around it
        grow = rng.uniform(1.15, 2.0, 2) * (box[2:] - box[:2]) / 2
        middle = (box[:2] + box[2:]) / 2
        low = np.maximum(middle - grow, 0).astype(int)
        high = np.minimum(middle + grow, [width, height]).astype(int)
        alpha[low[1] : high[1], low[0] : high[0]] = _mask((high[1] - low[1], high[0] - low[0]), rng)
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]]) @ matrix[:, :2].T + matrix[:, 2]
    low = np.maximum(np.floor(corners.min(0)), 0).astype(int)
    high = np.minimum(np.ceil(corners.max(0)), size).astype(int)
    local = matrix.copy()
    local[:, 2] -= low
    extent = int(high[0] - low[0]), int(high[1] - low[1])
    layer = _recolour(_warp(photo.image, local, *extent, cv2.BORDER_REPLICATE), rng)
    warped = _warp(alpha, local, *extent, cv2.BORDER_CONSTANT)
    _blend(canvas, layer, warped, low)

    boxes = transform_boxes(photo.boxes, matrix)
    landmarks = (photo.landmarks @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)
    sure = photo.sure.copy()
    sure[1:] = False  # others in the photo may have been cut off
    if rng.random() < 0.15:
        _cover(canvas, photos, rng, boxes[0])
        boxes, landmarks, sure = boxes[1:], landmarks[1:], sure[1:]
    canvas.boxes = np.concatenate((canvas.boxes, boxes))
    canvas.landmarks = np.concatenate((canvas.landmarks, landmarks))
    canvas.sure = np.concatenate((canvas.sure, sure))


def _add_distractor(canvas: Canvas, photos: Sequence[Photo], rng: Generator) -> None:
    """Lay something that is no face on the canvas, cut out as faces are."""
    size = canvas.image.shape[0]
    side = float(np.exp(rng.uniform(np.log(10), np.log(0.5 * size))))
    width, height = max(6, int(side)), max(6, int(side * rng.uniform(0.7, 1.6)))
    patch = _margin(photos, rng, width, height)
    corner = rng.uniform(0, size, 2) - np.array([width, height]) / 2
    _blend(canvas, patch, _mask((height, width), rng), corner)
