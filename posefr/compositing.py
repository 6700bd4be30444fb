"""Paste restored faces back: masks, feather, colour match, and blending in each face's own region."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from . import memory
from .color import COLOR_MATCHES, apply_color, color_change
from .errors import PoseFRError
from .faces import Faces
from .geometry import (
    Crops,
    apply_transform,
    check_frames,
    check_images,
    invert_similarity,
    sample_crops,
    transform_scale,
)
from .masks import MASK_SHAPES, face_outline, feather_inwards, grow_mask, shape_distance, shape_extent, soft_edge
from .resampling import resample
from .steadying import smooth_over_tracks

__all__ = ["OverTracks", "paste_faces", "steady_scales"]

# A feather is never narrower than this many px of the image: a harder edge would show as stairs.
_MIN_FEATHER = 1.5
_ORDER_SIGMA = 25.0  # frames over which it is settled which of two faces lies on top


@dataclass(frozen=True)
class OverTracks:
    """What pasting takes from all frames of a face's track, so that a video does not flicker.

    Attributes:
        colors: [N, ...], from `color_change`.
        scales: [N], crop px to an image px: the face with fewer lies on top.
    """

    colors: Tensor
    scales: Tensor


def steady_scales(transforms: Tensor, faces: Faces) -> Tensor:
    """[N]: crop px to an image px under transforms [N, 2, 3], smoothed so that of two tracks the same is on top for
    long."""
    return smooth_over_tracks(transform_scale(transforms), faces, sigma=_ORDER_SIGMA)


def paste_faces(
    images: Tensor,
    crops: Crops,
    restored: Tensor,
    *,
    mask: str | Tensor = "ellipse",
    feather: float = 8.0,
    color_match: str = "none",
    strength: float = 1.0,
    mask_space: str | None = None,
    grow: float = 0.0,
    over_tracks: OverTracks | None = None,
    on_face: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Blend restored crops into the images that they were cut from.

    Each face is worked on in its own upright bounding rectangle alone, so that the cost follows the area of the faces.
    A crop finer than the image is low-pass filtered on its way in. A crop coarser than the image replaces only what it
    can show: the image's own detail above the crop's resolution stays, so that large faces do not become soft. From a
    crop of the image's resolution to one of 1.5 times that, the share of detail kept falls from all to nothing.

    Where faces overlap the larger one, which is nearer, lies on top (of two tracks the one that is larger over some 50
    frames); its feathered edge blends into the smaller one.

    Args:
        images: [B, H, W, C] floats, 0..1, C = 3 or more; channels after the third are handed through. They may also be
            an enlargement of the images that the crops were cut from, by the same factor in both directions.
        crops: the crops, from `crop_faces`.
        restored: [N, S, S, 3] floats, 0..1, the crops' successors in the same order; S may differ from the crops' size.
        mask: where to paste: `ellipse` (a face's outline), `box` (the whole crop), `hull` (around the landmarks, from
            forehead to chin), or a tensor of floats 0..1, [N, S, S] per crop or [B, H, W] (or [1, H, W]) in the image.
            Of crops with context the three shapes cover the frame in their middle; a tensor may cover the whole crop.
        feather: width of the soft edge, inside the mask, in per cent of the crop's side, 0..50. There is always a soft
            edge towards the crop's border.
        color_match: `none`, `mean_std` (in OKLab, over the face), `wavelet` (the input's lowest frequencies) or
            `detail` (all but the highest frequencies are the input's). The input is the crop, or on an enlargement
            what lies there: upscalers change colours too. Over the frames of a track it changes smoothly.
        strength: 0 (the input) to 1 (the restored face).
        mask_space: `crop` or `image`, what a mask tensor covers; found from its size where None, as `image` if it fits
            both.
        grow: how far the mask's border is moved outwards, or inwards if below 0, in per cent of the crop's side,
            -50..50; never beyond the crop.
        over_tracks: what is smoothed over the frames of tracks, where these are only some of their frames; None smooths
            it over the frames that are here.
        on_face: called with faces done, 0 at first, and faces in all; may raise to stop.

    Returns:
        The pasted images, [B, H, W, C] in the type of `images`, and where faces were pasted, [B, H, W] float32, 0..1,
        before `strength`. Where that is 0 the image is bit-identical to the input, and everywhere at strength 0. The
        input is not changed.

    Raises:
        PoseFRError: arguments that do not fit each other, or restored crops that are not finite.
    """
    check_images(images)
    _check_restored(crops, restored)
    if not 0 <= strength <= 1:
        raise PoseFRError(f"The strength is {strength}; expected a number from 0 to 1.")
    if not 0 <= feather <= 50:
        raise PoseFRError(f"The feather is {feather}; expected 0 to 50 per cent of the crop's side.")
    if not -50 <= grow <= 50:
        raise PoseFRError(f"The mask is to grow by {grow}; expected -50 to 50 per cent of the crop's side.")
    if color_match not in COLOR_MATCHES:
        raise PoseFRError(f"The colour match {color_match!r} is unknown; pick one of {', '.join(COLOR_MATCHES)}.")
    count, frames = len(crops), crops.faces.frame.tolist()
    enlargement = _enlargement(images, crops)
    check_frames(frames, len(images))
    shape, crop_masks, image_masks = _check_mask(mask, mask_space, images, count)
    shape_grow = grow / 100 if isinstance(mask, str) else 0.0

    device = images.device
    if isinstance(mask, str):  # a shape lies in the frame, where a mask of one's own may cover all of the crop
        crops, restored = _without_context(crops, restored)
    size = restored.shape[1]
    transforms = crops.transforms.cpu().double() * (size / crops.size)
    transforms[:, :, :2] /= enlargement
    outlines = face_outline(crops.faces.landmarks.to(device), crops.transforms.to(device), crops.size)
    first = torch.zeros(1, dtype=torch.int64)

    def own(i: int) -> Tensor:
        return sample_crops(images[frames[i] : frames[i] + 1], first, transforms[i : i + 1], size)[0]

    as_cropped = enlargement == 1 or color_match == "none"
    if over_tracks is None:
        changes = []
        for i, picture in enumerate(restored):
            source = crops.images[i].to(device) if as_cropped else own(i)
            changes.append(color_change(picture.to(device, torch.float32), source, color_match, crops.context))
            if on_face is not None:
                on_face(0, count)
        colors = smooth_over_tracks(torch.stack(changes), crops.faces) if changes else torch.empty(0)
        over_tracks = OverTracks(colors, steady_scales(transforms, crops.faces))
    out = memory.copy(images)
    coverage = memory.zeros(images.shape[:3], device)
    # Fewer crop px to an image px: larger in the image, nearer, on top.
    scales = over_tracks.scales.tolist()
    places = sorted(_places(transforms, size, shape, shape_grow, images), key=lambda place: scales[place.index])
    for done, place in enumerate(places, start=1):
        i, frame = place.index, frames[place.index]
        region = (frame, slice(place.top, place.top + place.height), slice(place.left, place.left + place.width))
        u, v = place.positions(device)
        inside = shape_distance(shape, u, v, outlines[i], shape_grow)
        weight = soft_edge(inside, max(feather / 100, _MIN_FEATHER / place.side))
        own_mask = None
        if crop_masks is not None:
            own_mask = _sample_mask(crop_masks[i], u, v, place.side)
        if image_masks is not None:
            own_mask = image_masks[frame][region[1:]]
        if own_mask is not None:
            own_mask = grow_mask(own_mask, grow / 100 * place.side)
            weight *= feather_inwards(own_mask, feather / 100 * place.side)
        weight *= 1 - coverage[region]
        coverage[region] += weight

        picture = apply_color(restored[i].to(device, torch.float32), over_tracks.colors[i], color_match)
        keep = min(max(3 - 2 * place.scale, 0.0), 1.0)
        if keep:
            picture = picture - keep * own(i)
        face = resample(picture, place.matrix, (place.left, place.top, place.width, place.height))
        _blend(out[region][:, :, :3], images[region][:, :, :3].float(), face, keep, weight.mul_(strength))
        if on_face is not None:
            on_face(done, len(places))
    return out, coverage


def _without_context(crops: Crops, restored: Tensor) -> tuple[Crops, Tensor]:
    """The frames in the middle of crops that were cut wider, and of what became of them, each in whole px."""
    if crops.context == 1:
        return crops, restored

    def middle(pictures: Tensor) -> tuple[Tensor, int]:
        size = pictures.shape[1]
        edge = min(round(size / 2 * (1 - 1 / crops.context)), (size - 1) // 2)
        return pictures[:, edge : size - edge, edge : size - edge], edge

    images, _ = middle(crops.images)
    in_frame, edge = middle(restored)
    transforms = crops.transforms * (restored.shape[1] / crops.size)
    transforms[:, :, 2] -= edge
    transforms *= images.shape[1] / in_frame.shape[1]
    return Crops(images, transforms, crops.faces, crops.frame), in_frame


def _blend(result: Tensor, below: Tensor, face: Tensor, keep: float, weight: Tensor) -> None:
    """Add to a region of the output [h, w, 3] what turns the input into the face; at weight 0 every bit stays.

    Args:
        result: the output's region, changed in place: the input, or what was pasted on it before.
        below: the input's region, float32.
        face: what to paste, float32, less the share `keep` of the input; used up.
        weight: [h, w].
    """
    plain = _is_plain(below)
    if not plain:
        below = below.nan_to_num(0, 0, 0)
    if keep:
        face.add_(below, alpha=keep)
    change = face.clamp_(0, 1).sub_(below).mul_(weight[:, :, None])
    if plain:
        result.add_(change)
    else:
        mixed = change.add_(result.float().nan_to_num(0, 0, 0)).to(result.dtype)
        result.copy_(torch.where(weight[:, :, None] > 0, mixed, result))


def _is_plain(pixels: Tensor) -> bool:
    """Whether all are finite and none is below 0 or -0: then adding 0 changes no bit. Told on the CPU alone."""
    if pixels.device.type != "cpu":
        return False  # where() costs little there, an answer would have to be waited for
    low, high = pixels.contiguous().view(torch.int32).aminmax()
    return int(low) >= 0 and int(high) < 0x7F800000  # the bits of infinity


def _check_restored(crops: Crops, restored: Tensor) -> None:
    count, shape = len(crops), tuple(restored.shape)
    if len(shape) != 4 or shape[1] != shape[2] or shape[3] != 3 or 0 in shape[1:3]:
        raise PoseFRError(f"The restored crops have the shape {list(shape)}; expected square RGB, [{count}, S, S, 3].")
    if shape[0] != count:
        raise PoseFRError(f"There are {shape[0]} restored crops but {count} faces; hand on one crop for each face.")
    if not restored.is_floating_point():
        raise PoseFRError(f"The restored crops are of the type {restored.dtype}; expected floats from 0 to 1.")
    if not math.isfinite(float(restored.sum(dtype=torch.float32))):  # one pass, where isfinite().all() takes four
        raise PoseFRError("The restored crops hold values that are not finite numbers; restore in a higher precision.")


def _enlargement(images: Tensor, crops: Crops) -> float:
    """How many times larger the images are than those that the crops were cut from."""
    height, width = crops.faces.image_size
    if not len(crops):
        return 1.0
    rows, columns = images.shape[1:3]
    # Who enlarges an image rounds each of its sides.
    rounding = max(height, width) if rows != height and columns != width else 0
    if images.shape[0] != crops.faces.frames or abs(rows * width - columns * height) > rounding:
        raise PoseFRError(
            f"The crops were cut from {crops.faces.frames} images of {width}x{height} px and do not fit onto "
            f"{images.shape[0]} of {columns}x{rows} px; paste onto the same images or onto an "
            "enlargement of them that keeps their proportions."
        )
    return math.sqrt(rows * columns / (height * width))


def _check_mask(
    mask: str | Tensor, space: str | None, images: Tensor, count: int
) -> tuple[str, Tensor | None, Tensor | None]:
    """The shape to draw, the masks per crop, and the masks in the image; a mask tensor is bounded by the box."""
    if isinstance(mask, str):
        if mask not in MASK_SHAPES:
            raise PoseFRError(f"The mask {mask!r} is unknown; pick one of {', '.join(MASK_SHAPES)}, or give a tensor.")
        return mask, None, None
    if space not in (None, "crop", "image"):
        raise PoseFRError(f"The mask space {space!r} is unknown; pick crop or image.")
    batch, height, width = images.shape[:3]
    fits_image = mask.ndim == 3 and mask.shape[0] in (1, batch) and tuple(mask.shape[1:]) == (height, width)
    fits_crops = mask.ndim == 3 and mask.shape[0] == count and mask.shape[1] == mask.shape[2] > 0
    if not (fits_image and space != "crop") and not (fits_crops and space != "image"):
        raise PoseFRError(
            f"The mask has the shape {list(mask.shape)}; expected [{batch}, {height}, {width}] to cover the images or "
            f"[{count}, S, S] to cover the {count} crops."
        )
    mask = mask.to(images.device, torch.float32).nan_to_num(0, 1, 0).clamp(0, 1)
    if fits_image and space != "crop":
        return "box", None, mask.expand(batch, -1, -1)
    return "box", mask, None


def _sample_mask(mask: Tensor, u: Tensor, v: Tensor, side: float) -> Tensor:
    """A mask [S, S] at positions 0..1 across it, `side` px of the image in all; averaged where it is finer."""
    pictures = mask[None, None]
    if side < mask.shape[0]:
        pictures = F.adaptive_avg_pool2d(pictures, max(1, round(side)))
    grid = torch.stack([u, v], dim=2)[None] * 2 - 1
    return F.grid_sample(pictures, grid, mode="bilinear", padding_mode="border", align_corners=False)[0, 0]


@dataclass(frozen=True)
class _Place:
    """The upright rectangle of image px around what is pasted of one crop, clipped to the image."""

    index: int
    matrix: list[list[float]]  # image px to crop px
    size: int  # side of the crop in its own px
    left: int
    top: int
    width: int
    height: int

    @property
    def scale(self) -> float:
        """Crop px to an image px."""
        return math.hypot(self.matrix[0][0], self.matrix[1][0])

    @property
    def side(self) -> float:
        """Side of the crop in image px."""
        return self.size / self.scale

    def positions(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """[h, w] each: where the image's pixel centres lie across and down the crop, 0..1."""
        x = torch.arange(self.width, device=device) + (self.left + 0.5)
        y = torch.arange(self.height, device=device) + (self.top + 0.5)
        (xx, xy, x0), (yx, yy, y0) = [[number / self.size for number in row] for row in self.matrix]
        return (xx * x)[None, :] + (xy * y + x0)[:, None], (yx * x)[None, :] + (yy * y + y0)[:, None]


def _places(transforms: Tensor, size: int, shape: str, grow: float, images: Tensor) -> list[_Place]:
    """Where the shape lies for each crop; those wholly outside the image are left out."""
    inverse = invert_similarity(transforms)
    centre, half = shape_extent(shape, inverse[:, :, :2] * size, grow)
    middle = apply_transform(inverse, (centre * size).expand(len(inverse), 1, 2))[:, 0]
    limits = middle.new_tensor([images.shape[2], images.shape[1]])
    first = (middle - half).floor().clamp_min(0).minimum(limits)
    last = (middle + half).ceil().clamp_min(0).minimum(limits)
    boxes = torch.cat([first, last - first], dim=1).long().tolist()
    return [
        _Place(i, matrix, size, *box)
        for i, (matrix, box) in enumerate(zip(transforms.tolist(), boxes, strict=True))
        if box[2] > 0 and box[3] > 0
    ]
