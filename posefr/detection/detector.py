"""A RetinaFace network behind one small interface: images in, Faces out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..devices import default_device, desk_of
from ..errors import PoseFRError
from ..faces import Faces
from ..pose import estimate_pose
from ..stamps import Stamp, stamp_of
from .fusion import fused
from .inference import Candidates, find_candidates
from .networks import build_network
from .releases import BUNDLED, RELEASES, SECOND_LOOK, SUFFIXES, cache_folder, find_file, names_in
from .releases import download as fetch
from .second_look import CROP, SecondLook, cut_out, load_second_look, look_again, view_transforms
from .suppression import same_face, suppress
from .weights import architecture_of, read_state, read_weights

__all__ = ["Detector", "detector_names", "detector_stamp", "load_detector"]

_TILTED = 45.0  # degrees of roll above which another of the angles sees the face nearer to upright
_TILT_PENALTY = 0.5
_LARGE_VIEW = 448  # px; a face that fills a larger view is beyond the sizes that the bundled network learnt
_LARGE_FACE = 256.0  # px; faces from here on are taken from the view at half size
_MISMEASURED = 0.1  # share of that size that two views may differ by: a face so near to it is taken from either
_BENEFIT_OF_DOUBT = 3.0  # by how much the first look's logit may lie below the threshold where there is a second look
_LEAST_TILE = 128  # px
_TILE_OVERLAP = 0.25  # of a tile's side
_SEAM = 3.0  # px; a find so near to a tile's inner border is cut by it, and found whole elsewhere


class Detector:
    """Finds faces.

    Attributes:
        name: what it was loaded as.
        first_look: the RetinaFace module. Its weights stay as they are: on a CPU a copy is used.
        second_look: judges each find once more and places its landmarks; None: the first look stands.
        network: all of it in one module. A host may move it between devices; it is used where its parameters are.
    """

    def __init__(self, name: str, first_look: nn.Module, second_look: SecondLook | None = None) -> None:
        self.name = name
        self.first_look, self.second_look = first_look, second_look
        self.network = nn.ModuleList([first_look] if second_look is None else [first_look, second_look]).eval()
        self._fused: nn.Module | None = None

    @torch.inference_mode()
    def detect(
        self,
        images: Tensor,
        *,
        threshold: float = 0.5,
        size: int = 640,
        angles: Sequence[int] = (0,),
        tile: int = 0,
        batch: int = 8,
        on_chunk: Callable[[int, int], None] | None = None,
    ) -> Faces:
        """Find the faces in a batch of images.

        Args:
            images: [B, H, W, 3] RGB, 0..1, on any device.
            threshold: 0..1, the least confidence.
            size: px; images whose longer side is larger are scaled down to it first, with antialiasing. 0: never.
            angles: degrees, of 0, 90, 180 and 270: the images are looked at turned by each, and a face seen several
                times is given once. Its landmarks are named as they are when it stands upright.
            tile: px; images that `size` scales down are also looked at unscaled, in overlapping squares of this side,
                for faces that are too small otherwise. What squares and whole image both show is given once. 0: not.
            batch: how many images go through the network at a time.
            on_chunk: called with chunks done and chunks in all, after each and before each square; may raise to stop.

        Returns:
            Faces on the images' device, in order of frame and then of falling score, in px of the images.

        Raises:
            PoseFRError: images of another shape, or an argument outside its range.
        """
        _check(images, threshold, size, angles, tile, batch)
        frames, height, width, _ = images.shape
        starts = range(0, frames, batch)
        total, done = len(starts) * len(angles), 0
        least = threshold
        if self.second_look is not None:
            least = float(torch.sigmoid(torch.logit(torch.tensor(threshold), 1e-6) - _BENEFIT_OF_DOUBT))

        def tell() -> None:
            if on_chunk is not None:
                on_chunk(done, total)

        sets = []
        for start in starts:
            whole = images[start : start + batch]
            chunk = _shrink(whole, size, self._desk())
            small = chunk.shape[3], chunk.shape[2]
            scale = torch.tensor([width / small[0], height / small[1]], device=chunk.device)
            tiled = tile if chunk.shape[2:] != whole.shape[1:3] else 0
            views = []
            for angle in angles:
                found = self._look(torch.rot90(chunk, k=angle // 90, dims=(2, 3)), least)
                if tiled:
                    found = [
                        _join_tiles(coarse, self._look_in_tiles(image, angle, least, tiled, tell), _swap(scale, angle))
                        for coarse, image in zip(found, whole, strict=True)
                    ]
                views.append([_turn_back(c, angle, small) for c in found])
                done += 1
                tell()
            for offset, seen in enumerate(zip(*views, strict=True)):
                merged = _merge(seen, angles)
                merged = self._look_again(merged, chunk[offset : offset + 1], whole[offset], scale, threshold)
                sets.append((start + offset, merged, scale))
        return _faces(sets, (height, width), frames, images.device)

    def _look(self, images: Tensor, threshold: float) -> list[Candidates]:
        """B sets from one view [B, 3, H, W]; faces that are large in it are looked for at half its size, and so on."""
        found = find_candidates(self._quickest(), images, threshold)
        if max(images.shape[2:]) < _LARGE_VIEW:
            return found
        height, width = images.shape[2:]
        half = _resize(images, max(1, height // 2), max(1, width // 2))
        scale = torch.tensor([width / half.shape[3], height / half.shape[2]], device=images.device)
        return [_join(fine, coarse, scale) for fine, coarse in zip(found, self._look(half, threshold), strict=True)]

    def _look_in_tiles(
        self, image: Tensor, angle: int, threshold: float, tile: int, before_each: Callable[[], None]
    ) -> Candidates:
        """One set from the squares of an image [H, W, 3] turned by `angle`, in px of the turned image."""
        turned = torch.rot90(image, k=angle // 90, dims=(0, 1))
        height, width = turned.shape[:2]
        network = self._quickest()
        parts: list[Candidates] = []
        for y in _tile_starts(height, tile):
            for x in _tile_starts(width, tile):
                before_each()
                square = turned[None, y : y + tile, x : x + tile]
                seen = find_candidates(network, _shrink(square, 0, self._desk()), threshold)[0]
                box = seen.boxes
                cut = (box[:, 0] < _SEAM) & (x > 0) | (box[:, 2] > square.shape[2] - _SEAM) & (x + tile < width)
                cut |= (box[:, 1] < _SEAM) & (y > 0) | (box[:, 3] > square.shape[1] - _SEAM) & (y + tile < height)
                # What is larger than the overlap may be cut in every square; the whole image shows it.
                cut |= (box[:, 2:] - box[:, :2]).amax(1) > 1.5 * _TILE_OVERLAP * tile
                corner = torch.tensor([x, y], device=box.device)
                parts.append(Candidates(box[~cut] + corner.repeat(2), seen.landmarks[~cut] + corner, seen.scores[~cut]))
        return Candidates(*(torch.cat([getattr(p, k) for p in parts]) for k in ("boxes", "landmarks", "scores")))

    def _look_again(
        self, found: Candidates, view: Tensor, image: Tensor, scale: Tensor, threshold: float
    ) -> Candidates:
        """What stands a second look: faces as large as its crops are cut from the view, smaller ones from the image.

        Args:
            found: in px of the view.
            view: [1, 3, h, w].
            image: [H, W, 3], which the view is a copy of.
            scale: [2], the image's px in one of the view's.
            threshold: 0..1, the least score.
        """
        if self.second_look is None:
            return found
        transforms = view_transforms(found.boxes, found.landmarks)
        crops = torch.empty((*transforms.shape[:2], 3, CROP, CROP), device=view.device)
        fine = (transforms[0, :, :, :2].det() > 1) & (scale > 1).any()
        crops[:, ~fine] = cut_out(view, transforms[:, ~fine])
        if fine.any():
            larger = view_transforms(found.boxes[fine] * scale.repeat(2), found.landmarks[fine] * scale)
            crops[:, fine] = cut_out(image.permute(2, 0, 1)[None], larger.to(image.device)).to(view.device)
        again = look_again(self.second_look, crops, transforms, found)
        again = _pick(again, again.scores >= threshold)
        return _pick(again, same_face(again.landmarks))

    def _quickest(self) -> nn.Module:
        """The first look, or on a CPU its quicker copy, made when it is first asked for."""
        parameter = next(self.first_look.parameters())
        if parameter.device.type != "cpu" or parameter.dtype != torch.float32:
            return self.first_look
        if self._fused is None:
            self._fused = fused(self.first_look)
        return self._fused

    def _desk(self) -> torch.device:
        return desk_of(next(self.first_look.parameters()).device)


def detector_names(folders: Sequence[Path] = ()) -> list[str]:
    """What `load_detector` can be asked for: "bundled", the public releases, and RetinaFace files in the folders."""
    return ["bundled", *RELEASES, *names_in(folders)]


def detector_stamp(name: str, folders: Sequence[Path] = ()) -> Stamp | None:
    """What changes when the file behind one of `detector_names` does; None if it is not there and cannot be fetched."""
    stamp = stamp_of(find_file(name, folders))
    return RELEASES[name].stamp if stamp is None and name in RELEASES else stamp


def load_detector(
    name_or_path: str | Path = "bundled",
    *,
    device: torch.device | str | None = None,
    folders: Sequence[Path] = (),
    download: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Detector:
    """Load a detector.

    Args:
        name_or_path: one of `detector_names(folders)`, or a path to a .safetensors or .pth file.
        device: where its networks go; None takes CUDA when there is one.
        folders: the host's model folders, looked into first.
        download: fetch a public release that is not there, into the first of the folders, or the user's cache folder.
        progress: called with bytes done and bytes in all during a download; may raise to stop.

    Raises:
        PoseFRError: the name is unknown, its file is absent, or the file does not hold a RetinaFace.
    """
    name = str(name_or_path)
    path = _locate(name, [Path(f) for f in folders], download, progress)
    state = read_state(path)
    architecture = architecture_of(state, path)
    if name in RELEASES and architecture != name:
        raise PoseFRError(f"{path} holds a RetinaFace {architecture}, expected was {name}; replace the file.")
    network = build_network(architecture)
    read_weights(network, path, architecture, state)
    detector = Detector(name, network, load_second_look(SECOND_LOOK) if name == "bundled" else None)
    detector.network.to(device or default_device())
    return detector


def _locate(name: str, folders: list[Path], download: bool, progress: Callable[[int, int], None] | None) -> Path:
    if name == "bundled":
        return BUNDLED
    places = folders or [cache_folder()]
    if (found := find_file(name, places)) is not None:
        return found
    if (release := RELEASES.get(name)) is not None:
        if download:
            return fetch(release, places[0], progress)
        raise PoseFRError(
            f"The detector {name} is not in {', '.join(map(str, places))}; fetch {release.url} and put it there, "
            'or pick "bundled".'
        )
    if Path(name).suffix.lower() in SUFFIXES:
        return Path(name)
    raise PoseFRError(
        f"There is no detector named {name!r}; there are {', '.join(detector_names(folders))}, "
        f"or give the path of a file ending in {', '.join(SUFFIXES)}."
    )


def _check(images: Tensor, threshold: float, size: int, angles: Sequence[int], tile: int, batch: int) -> None:
    if images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape[1:]:
        raise PoseFRError(f"Images of the shape {list(images.shape)} were given; expected were [B, H, W, 3].")
    if not images.is_floating_point():
        raise PoseFRError(f"Images of the type {images.dtype} were given; expected were floats of 0..1.")
    if not 0 <= threshold <= 1 or size < 0 or batch < 1:
        raise PoseFRError(
            f"threshold {threshold}, size {size}, batch {batch}: expected were 0..1, 0 or more, and 1 or more."
        )
    if tile and tile < _LEAST_TILE:
        raise PoseFRError(f"Tiles of {tile} px were asked for; expected was {_LEAST_TILE} px or more, or 0 for none.")
    if not angles or any(angle not in (0, 90, 180, 270) for angle in angles):
        raise PoseFRError(f"The angles {list(angles)} were given; expected were some of 0, 90, 180 and 270.")


def _shrink(images: Tensor, size: int, device: torch.device) -> Tensor:
    """[B, H, W, 3] as [B, 3, h, w] float32 on the device, the longer side at most `size` px if that is not 0.

    What is not finite counts as black, and the rest is clamped to 0..1: one such pixel would hide every face of its
    image, or make some of nothing.
    """
    height, width = images.shape[1:3]
    longer = max(height, width)
    if size and longer > size:
        small = max(1, round(height * size / longer)), max(1, round(width * size / longer))
        # One after the other: on the device there is room for the batch at its small size.
        return torch.cat([_resize(_pixels(image, device), *small) for image in images.split(1)])
    return _pixels(images, device)


def _pixels(images: Tensor, device: torch.device) -> Tensor:
    return images.to(device, torch.float32).nan_to_num(0, 0, 0).clamp(0, 1).permute(0, 3, 1, 2)


def _resize(pixels: Tensor, height: int, width: int) -> Tensor:
    return functional.interpolate(pixels, (height, width), mode="bilinear", align_corners=False, antialias=True)


def _pick(found: Candidates, chosen: Tensor) -> Candidates:
    return Candidates(found.boxes[chosen], found.landmarks[chosen], found.scores[chosen])


def _swap(scale: Tensor, angle: int) -> Tensor:
    """The scales [2] of x and y for a picture turned by `angle`."""
    return scale.flip(0) if angle in (90, 270) else scale


def _tile_starts(length: int, tile: int) -> list[int]:
    """Where squares start that cover a length, evenly spread, overlapping by at least a quarter of their side."""
    if length <= tile:
        return [0]
    count = math.ceil((length - tile) / ((1 - _TILE_OVERLAP) * tile)) + 1
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def _join_tiles(coarse: Candidates, fine: Candidates, scale: Tensor) -> Candidates:
    """One set, in px of the view, from the view and the squares of its image; `scale` [2] is the image's px in one."""
    boxes = torch.cat((coarse.boxes, fine.boxes / scale.repeat(2)))
    landmarks = torch.cat((coarse.landmarks, fine.landmarks / scale))
    scores = torch.cat((coarse.scores, fine.scores))
    return _one_each(Candidates(boxes, landmarks, scores), scores)


def _join(fine: Candidates, coarse: Candidates, scale: Tensor) -> Candidates:
    """One set from a view and from the same at half its size, whose px are `scale` [2] times as large.

    Each view gives the faces of its sizes, and those that the other measures as its own too and therefore lacks.
    """
    boxes = torch.cat((fine.boxes, coarse.boxes * scale.repeat(2)))
    landmarks = torch.cat((fine.landmarks, coarse.landmarks * scale))
    scores = torch.cat((fine.scores, coarse.scores))
    size = (boxes[:, 2:] - boxes[:, :2]).clamp_min(0).prod(1).sqrt()
    of_coarse = torch.arange(len(scores), device=scores.device) >= len(fine.scores)
    own = (size >= _LARGE_FACE) == of_coarse
    chosen = own | ((size / _LARGE_FACE - 1).abs() < _MISMEASURED)
    found = _pick(Candidates(boxes, landmarks, scores), chosen)
    return _one_each(found, found.scores + own[chosen])


def _one_each(found: Candidates, rank: Tensor) -> Candidates:
    """Of the finds of one face that of the highest rank [N], by falling score."""
    kept = suppress(found.boxes, rank)
    return _pick(found, kept[torch.argsort(found.scores[kept], descending=True, stable=True)])


def _turn_back(found: Candidates, angle: int, size: tuple[int, int]) -> Candidates:
    """What was found in the picture turned anticlockwise by `angle`, in px of the unturned one (width, height)."""
    if angle == 0:
        return found
    corners = _turn_points(found.boxes.view(-1, 2, 2), angle, size)
    boxes = torch.cat((corners.amin(1), corners.amax(1)), dim=1)
    return Candidates(boxes, _turn_points(found.landmarks, angle, size), found.scores)


def _turn_points(points: Tensor, angle: int, size: tuple[int, int]) -> Tensor:
    (x, y), (width, height) = points.unbind(-1), size
    turned = {90: (width - y, x), 180: (width - x, height - y), 270: (y, height - x)}[angle]
    return torch.stack(turned, dim=-1)


def _merge(seen: Sequence[Candidates], angles: Sequence[int]) -> Candidates:
    """One set from those of all angles. Of the finds of one face that one wins in whose view it is upright."""
    if len(seen) == 1:
        return seen[0]
    rank = torch.cat([c.scores - _TILT_PENALTY * _tilted(c, angle) for c, angle in zip(seen, angles, strict=True)])
    boxes, landmarks, scores = (torch.cat([getattr(c, k) for c in seen]) for k in ("boxes", "landmarks", "scores"))
    return _one_each(Candidates(boxes, landmarks, scores), rank)


def _tilted(found: Candidates, angle: int) -> Tensor:
    """[N] 1 where the line from eyes to mouth was turned by more than 45 degrees in the view at `angle`, else 0."""
    points = found.landmarks
    down = (points[:, 3] + points[:, 4] - points[:, 0] - points[:, 1]) / 2
    roll = torch.rad2deg(torch.atan2(-down[:, 0], down[:, 1])) - angle
    return ((((roll + 180) % 360) - 180).abs() > _TILTED).float()


def _faces(
    sets: list[tuple[int, Candidates, Tensor]], image_size: tuple[int, int], frames: int, device: torch.device
) -> Faces:
    """Join what was found in each frame, scaled to the images."""
    if not sets or not sum(len(found.scores) for _, found, _ in sets):
        return Faces.empty(image_size, frames, device)
    boxes = torch.cat([found.boxes * scale.repeat(2) for _, found, scale in sets])
    landmarks = torch.cat([found.landmarks * scale for _, found, scale in sets])
    scores = torch.cat([found.scores for _, found, _ in sets])
    frame = torch.cat([torch.full((len(found.scores),), index) for index, found, _ in sets])
    pose = estimate_pose(landmarks)
    return Faces.make(frame, boxes, landmarks, scores, image_size, frames, pose=pose).to(device)
