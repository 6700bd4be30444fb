"""Alignment frames, similarity fits, and crops of faces.

One convention holds in the whole project: coordinates are continuous, and the centre of the pixel in column x and row y
is at (x + 0.5, y + 0.5). A picture of width W therefore reaches from 0 to W, and scaling a picture scales coordinates
without any offset.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import memory
from .errors import PoseFRError
from .faces import Faces
from .resampling import kernel_reach, resample

__all__ = [
    "FRAMES",
    "Crops",
    "alignment_transform",
    "apply_transform",
    "check_crops",
    "check_frames",
    "check_images",
    "crop_faces",
    "invert_similarity",
    "sample_crops",
    "transform_scale",
]

FRAMES = ("ffhq", "template5")

# Five points (eyes, nose, mouth corners) in a crop of 512 px: facexlib, utils/face_restoration_helper.py.
_TEMPLATE5 = (
    (192.98138, 239.94708),
    (318.90277, 240.1936),
    (256.63416, 314.01935),
    (201.26117, 371.41043),
    (313.08905, 371.15118),
)
_TEMPLATE5_SIZE = 512.0

# A face whose landmarks fall together still gets a crop of some extent, so that no transform is ever singular.
_MIN_SIDE = 1.0


def alignment_transform(landmarks: Tensor, size: int, frame: str = "ffhq") -> Tensor:
    """The similarity that takes each face from its image into an upright crop.

    `ffhq` is the oriented square of the FFHQ data set (Karras et al. 2019; NVlabs/ffhq-dataset, download_ffhq.py): its
    x axis runs along eye_to_eye - rot90(eye_to_mouth), half its side is max(2 |eye_to_eye|, 1.8 |eye_to_mouth|), and
    its centre lies at the middle of the eyes plus 0.1 eye_to_mouth. A profile keeps its scale, since the longer of the
    two distances sets it. `template5` is the least-squares similarity without reflection (Umeyama 1991, in two
    dimensions) from the five landmarks to the template that GFPGAN-like networks were trained with.

    Args:
        landmarks: [N, 5, 2], px, continuous image coordinates: left eye, right eye, nose, left and right mouth corner.
        size: side of the crop in px.
        frame: `ffhq` or `template5`.

    Returns:
        [N, 2, 3] float32: image coordinates to crop coordinates, both continuous.

    Raises:
        PoseFRError: an unknown frame, a size below 1, another shape, or landmarks that are not finite.
    """
    if landmarks.ndim != 3 or landmarks.shape[1:] != (5, 2):
        raise PoseFRError(f"Landmarks have the shape {list(landmarks.shape)}; expected [N, 5, 2], five points a face.")
    if size < 1:
        raise PoseFRError(f"The crop size is {size}; it has to be at least 1 px.")
    if not bool(torch.isfinite(landmarks).all()):
        raise PoseFRError("Some landmarks are not finite numbers; leave those faces out before cropping.")
    # So small a fit is quickest on the CPU, and some devices have no doubles.
    points = torch.view_as_complex(landmarks.cpu().double().contiguous())
    if frame == "ffhq":
        factor, shift = _fit_ffhq(points, size)
    elif frame == "template5":
        factor, shift = _fit_template5(points, size)
    else:
        raise PoseFRError(f"The alignment frame {frame!r} is unknown; pick one of {', '.join(FRAMES)}.")
    row_x = torch.stack([factor.real, -factor.imag, shift.real], dim=1)
    row_y = torch.stack([factor.imag, factor.real, shift.imag], dim=1)
    return torch.stack([row_x, row_y], dim=1).float().to(landmarks.device)


def _fit_ffhq(points: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Factor and shift of crop = factor * image + shift; points are [N, 5] complex, x + iy."""
    eye_mid = (points[:, 0] + points[:, 1]) / 2
    eye_to_eye = points[:, 1] - points[:, 0]
    eye_to_mouth = (points[:, 3] + points[:, 4]) / 2 - eye_mid
    axis = eye_to_eye - 1j * eye_to_mouth
    axis = torch.where(axis.abs() > 0, axis, torch.ones_like(axis))
    half = torch.maximum(2.0 * eye_to_eye.abs(), 1.8 * eye_to_mouth.abs()).clamp_min(_MIN_SIDE / 2)
    factor = size / (2 * half) * axis.abs() / axis
    centre = eye_mid + 0.1 * eye_to_mouth
    return factor, size / 2 * (1 + 1j) - factor * centre


def _fit_template5(points: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """As `_fit_ffhq`. In complex numbers the least-squares similarity is a ratio of two sums."""
    template = torch.tensor(_TEMPLATE5, dtype=torch.float64) * (size / _TEMPLATE5_SIZE)
    target = torch.view_as_complex(template)
    source_mid, target_mid = points.mean(dim=1), target.mean()
    source, target = points - source_mid[:, None], target - target_mid
    spread = (source.abs() ** 2).sum(dim=1)
    factor = (source.conj() * target).sum(dim=1) / spread.clamp_min(1e-12)
    largest = size / _MIN_SIDE
    factor = torch.where(factor.abs() > 0, factor, torch.full_like(factor, largest))
    factor = factor * (largest / factor.abs()).clamp_max(1.0)
    return factor, target_mid - factor * source_mid


def invert_similarity(transforms: Tensor) -> Tensor:
    """The inverse of each similarity, [N, 2, 3] to [N, 2, 3]."""
    a, b = transforms[:, 0, 0], transforms[:, 1, 0]
    square = a * a + b * b
    linear = torch.stack([torch.stack([a, b], 1), torch.stack([-b, a], 1)], 1) / square[:, None, None]
    return torch.cat([linear, -linear @ transforms[:, :, 2:]], dim=2)


def apply_transform(transforms: Tensor, points: Tensor) -> Tensor:
    """Take points [N, K, 2] through the transforms [N, 2, 3]."""
    return points @ transforms[:, :, :2].transpose(1, 2) + transforms[:, None, :, 2]


def transform_scale(transforms: Tensor) -> Tensor:
    """[N]: how many px of the crop one px of the image becomes."""
    return torch.hypot(transforms[:, 0, 0], transforms[:, 1, 0])


@dataclass(frozen=True)
class Crops:
    """Aligned crops of N faces, with what it takes to paste them back.

    Attributes:
        images: [N, S, S, 3] float32, 0..1.
        transforms: [N, 2, 3] float32, image to crop, continuous coordinates in px of this size S.
        faces: the N faces, in the same order.
        frame: the alignment frame, `ffhq` or `template5`.
        context: how many times wider and higher the crops are than the frame, which lies in their middle; 1 or more.
    """

    images: Tensor
    transforms: Tensor
    faces: Faces
    frame: str
    context: float = 1.0

    def __post_init__(self) -> None:
        count = len(self.faces)
        shape = tuple(self.images.shape)
        if len(shape) != 4 or shape[0] != count or shape[1] != shape[2] or shape[3] != 3:
            raise PoseFRError(f"Crops of {count} faces have the shape {list(shape)}; expected [{count}, S, S, 3].")
        if tuple(self.transforms.shape) != (count, 2, 3):
            raise PoseFRError(
                f"Crops of {count} faces came with transforms of the shape {list(self.transforms.shape)}; "
                f"expected [{count}, 2, 3]."
            )

    def __len__(self) -> int:
        return len(self.faces)

    @property
    def size(self) -> int:
        """Side of the crops in px."""
        return self.images.shape[1]


def crop_faces(
    images: Tensor,
    faces: Faces,
    size: int = 256,
    frame: str = "ffhq",
    *,
    context: float = 1.0,
    on_face: Callable[[int, int], None] | None = None,
) -> Crops:
    """Cut every face out of its image, upright and at one size.

    A face larger than the crop is low-pass filtered before it is sampled. What lies outside the image is its mirror
    image.

    Args:
        images: [B, H, W, C] floats, 0..1, C = 3 or more (channels after the third are ignored).
        faces: the faces found in these images.
        size: side of the crops in px.
        frame: `ffhq` or `template5`, see `alignment_transform`.
        context: how many times wider and higher than the frame to cut, for what has to see around the face.
        on_face: called with faces done and faces in all; may raise to stop.

    Raises:
        PoseFRError: images of another shape or type, faces of other images, landmarks that are not finite, a context
            below 1.
    """
    check_images(images)
    if faces.frames != images.shape[0] or faces.image_size != tuple(images.shape[1:3]):
        raise PoseFRError(
            f"The faces were found in {faces.frames} images of {faces.image_size[1]}x{faces.image_size[0]} px, but "
            f"there are {images.shape[0]} of {images.shape[2]}x{images.shape[1]} px; detect faces on these images."
        )
    if not 1 <= context < math.inf:
        raise PoseFRError(f"The context is {context}; expected 1 for the face alone, or more.")
    faces = faces.to(images.device)
    transforms = alignment_transform(faces.landmarks, size, frame) / context
    transforms[:, :, 2] += size / 2 * (1 - 1 / context)
    pictures = sample_crops(images, faces.frame, transforms, size, on_face=on_face)
    return Crops(pictures, transforms, faces, frame, context)


def check_images(images: Tensor) -> None:
    """Raise PoseFRError unless images are floats [B, H, W, C] with at least one pixel and three channels."""
    shape = list(images.shape)
    if images.ndim != 4:
        raise PoseFRError(f"Images have the shape {shape}; expected [B, H, W, C] with three or four channels.")
    if not images.is_floating_point():
        raise PoseFRError(f"Images are of the type {images.dtype}; expected floats from 0 to 1.")
    if 0 in shape[1:3]:
        raise PoseFRError(f"Images have the shape {shape}; expected at least one pixel in height and width.")
    if shape[3] < 3:
        raise PoseFRError(f"Images have {shape[3]} channels; expected three (RGB) or four (RGBA).")


def check_frames(frames: Sequence[int], count: int) -> None:
    """Raise PoseFRError unless the image that each face is in is one of `count`."""
    for frame in frames:
        if not 0 <= frame < count:
            raise PoseFRError(
                f"A face names image {frame} (counted from 0), but there {'is' if count == 1 else 'are'} {count}."
            )


def check_crops(crops: Tensor) -> None:
    """Raise PoseFRError unless these are square face crops [N, S, S, 3]."""
    if crops.ndim != 4 or crops.shape[-1] != 3:
        raise PoseFRError(f"Face crops must have the shape [N, S, S, 3]; found {list(crops.shape)}.")
    height, width = crops.shape[1:3]
    if height != width:
        raise PoseFRError(
            f"A face crop is square, but these images are {width}x{height} px; take the images of Crop Faces."
        )


def sample_crops(
    images: Tensor,
    frame_index: Tensor,
    transforms: Tensor,
    size: int,
    *,
    on_face: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Sample square crops under given transforms; only each crop's own region of its image is read.

    Args:
        images: [B, H, W, C] floats, C >= 3, clamped to 0..1. What is not finite counts as black.
        frame_index: [N] the image that each crop is taken from, 0..B-1.
        transforms: [N, 2, 3] image to crop.
        size: side of the crops in px.
        on_face: called with crops done and crops in all; may raise to stop.

    Returns:
        [N, size, size, 3] float32, clamped to 0..1.

    Raises:
        PoseFRError: a frame index outside the batch.
    """
    height, width = images.shape[1:3]
    crops = memory.empty((len(transforms), size, size, 3), images.device)
    frames = frame_index.tolist()
    check_frames(frames, images.shape[0])
    for i, matrix in enumerate(invert_similarity(transforms.cpu().double()).tolist()):
        step = math.hypot(matrix[0][0], matrix[1][0])
        left, right, fold_x = _source_span(*_reach(matrix[0], size), width, step)
        top, bottom, fold_y = _source_span(*_reach(matrix[1], size), height, step)
        region = images[frames[i], top:bottom, left:right, :3].float()
        mirror = (width if fold_x else 0, height if fold_y else 0)
        # Before it is spread to what lies around it. On the CPU most regions need no more than a look.
        low, high = map(float, region.aminmax()) if region.device.type == "cpu" else (math.nan, math.nan)
        if not 0 <= low <= high <= 1:
            region = region.nan_to_num(0, 0, 0).clamp(0, 1)
        resample(region, matrix, (0, 0, size, size), corner=(left, top), mirror=mirror, out=crops[i]).clamp_(0, 1)
        if on_face is not None:
            on_face(i + 1, len(crops))
    return crops


def _reach(row: list[float], size: int) -> tuple[float, float]:
    """The lowest and highest image coordinate, on one axis, of a crop's square."""
    along_u, along_v, shift = row
    low = shift + size * (min(along_u, 0) + min(along_v, 0))
    return low, low + size * (abs(along_u) + abs(along_v))


def _source_span(low: float, high: float, length: int, step: float) -> tuple[int, int, bool]:
    """The pixels that a crop reaching from low to high needs on one axis, and whether it leaves the image there.

    What leaves the image is mirrored at its border, again and again.
    """
    leaves = low < 0 or high > length
    if leaves:
        low, high = (
            min(max(low, 0.0), 2 * length - high) if high > length else 0.0,
            max(min(high, length), -low) if low < 0 else float(length),
        )
    margin = kernel_reach(step)
    first = min(max(math.floor(low - margin), 0), length - 1)
    last = max(min(math.ceil(high + margin), length), first + 1)
    return first, last, leaves
