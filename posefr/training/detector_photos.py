"""The face photos that the detector learns from: decoded once into memory, and labelled once by a reference network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..detection.inference import Candidates, find_candidates
from ..errors import PoseFRError

__all__ = ["Photo", "label_photo", "load_faceless", "load_photos"]

_POINTS = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
_MIRRORED_POINTS = [1, 0, 2, 4, 3]
_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".tif")
_SURE = 0.8
_MAYBE = 0.2


@dataclass(frozen=True)
class Photo:
    """A photo and what is known about its faces, in continuous px of `image`.

    Attributes:
        image: [H, W, 3] uint8, BGR.
        boxes: [N, 4] float32, x0 y0 x1 y1; the photo's subject comes first.
        landmarks: [N, 5, 2] float32.
        sure: [N] bool; False marks what may be a face: neither learnt as one nor as background.
    """

    image: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    sure: NDArray[np.bool_]


def load_photos(folder: Path, rows: list[dict[str, str]], reference: nn.Module, side: int = 256) -> Iterator[Photo]:
    """Decode, shrink and label the photos of `rows`; those whose subject the reference does not find are left out.

    Args:
        folder: where the rows' files are.
        rows: manifest rows with file, ffhq_side and the five landmarks in px of the file.
        reference: a RetinaFace network with weights.
        side: px; photos are shrunk so that the square which FFHQ would cut out of them is at most this large.
    """
    import cv2

    for row in rows:
        image = cv2.imread(str(folder / row["file"]))
        if image is None:
            raise PoseFRError(f"{folder / row['file']} is not a readable image; the manifest names it.")
        height, width = image.shape[:2]
        scale = min(1.0, side / float(row["ffhq_side"]))
        size = round(width * scale), round(height * scale)
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        known = np.array([[float(row[f"{p}_x"]), float(row[f"{p}_y"])] for p in _POINTS], np.float32)
        known *= np.array([size[0] / width, size[1] / height], np.float32)
        photo = label_photo(image, known, reference)
        if photo is not None:
            yield photo


def load_faceless(folder: Path, reference: nn.Module, side: int = 512) -> Iterator[Photo]:
    """The pictures of a folder in which the reference sees nothing like a face; those that cannot be read are left out.

    Args:
        folder: holds pictures of anything.
        reference: a RetinaFace network with weights.
        side: px; larger ones are shrunk to this longer side.
    """
    import cv2

    for path in sorted(p for p in folder.iterdir() if p.suffix.lower() in _SUFFIXES):
        image = cv2.imread(str(path))
        if image is None or min(image.shape[:2]) < 32:
            continue
        scale = min(1.0, side / max(image.shape[:2]))
        size = round(image.shape[1] * scale), round(image.shape[0] * scale)
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        with torch.inference_mode():
            found = find_candidates(reference, _pixels(image), _MAYBE)[0]
        if not len(found.scores):
            yield Photo(image, found.boxes.numpy(), found.landmarks.numpy(), np.zeros(0, bool))


def _pixels(image: NDArray[np.uint8]) -> torch.Tensor:
    """[1, 3, H, W] RGB 0..1."""
    return torch.from_numpy(np.ascontiguousarray(image[..., ::-1])).permute(2, 0, 1)[None].float() / 255


def label_photo(
    image: NDArray[np.uint8], known: NDArray[np.float32], reference: nn.Module, trusted: bool = True
) -> Photo | None:
    """Label a photo with the reference's answers, seen as it is and mirrored; None if its subject is not found.

    The subject's box is the mean of both answers; its landmarks too, with the known ones if those are trusted.

    Args:
        image: [H, W, 3] uint8, BGR.
        known: [5, 2] the subject's landmarks.
        reference: a RetinaFace network with weights.
        trusted: False if `known` only tells roughly which of the faces is the subject.
    """
    pixels = _pixels(image)
    with torch.inference_mode():
        plain = find_candidates(reference, pixels, _MAYBE)[0]
        mirrored = _mirror(find_candidates(reference, pixels.flip(3), _MAYBE)[0], image.shape[1])
    target = torch.from_numpy(known)
    first, second = _nearest(plain, target), _nearest(mirrored, target)
    if first is None or second is None:
        return None
    order = [first] + [i for i in range(len(plain.scores)) if i != first]
    boxes, landmarks, sure = plain.boxes[order], plain.landmarks[order], plain.scores[order] >= _SURE
    boxes[0] = (boxes[0] + mirrored.boxes[second]) / 2
    answers = [landmarks[0], mirrored.landmarks[second]] + [target] * trusted
    landmarks[0] = torch.stack(answers).mean(0)
    sure[0] = True
    return Photo(image, boxes.numpy(), landmarks.numpy(), sure.numpy())


def _mirror(found: Candidates, width: int) -> Candidates:
    boxes = torch.stack((width - found.boxes[:, 2], found.boxes[:, 1], width - found.boxes[:, 0], found.boxes[:, 3]), 1)
    landmarks = found.landmarks[:, _MIRRORED_POINTS].clone()
    landmarks[..., 0] = width - landmarks[..., 0]
    return Candidates(boxes, landmarks, found.scores)


def _nearest(found: Candidates, known: torch.Tensor) -> int | None:
    """The sure candidate whose landmarks are nearest, if they are as near as a quarter of its box's width."""
    if not len(found.scores):
        return None
    distance = (found.landmarks - known).norm(dim=-1).mean(1)
    distance[found.scores < 0.5] = float("inf")
    best = int(distance.argmin())
    limit = (found.boxes[best, 2] - found.boxes[best, 0]) / 4
    return best if distance[best] < limit else None
