"""Compares face detectors: recall, false finds and landmark error, on clean and on spoilt pictures.

On photos the truth is what the reference network finds in the clean picture with a score of 0.9; so the reference has
no false finds there, and what another detector finds beyond it may be a real face. Such faces that somebody saw on the
contact sheets are listed in seen_faces.json: finding them is neither right nor wrong. The reference's landmarks move by
several hundredths of the eye-to-mouth distance when the picture is mirrored or scaled a little; the truth is therefore
the mean of what it says about the picture in several sizes, as it is and mirrored. On canvases, composed from
validation faces that no detector here was trained on, the truth is known from the composition.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ..detection import Detector, load_detector
from ..detection.releases import BUNDLED, RELEASES, cache_folder, find_file
from ..detection.suppression import overlaps
from ..errors import PoseFRError
from ..faces import Faces
from ..imagefiles import picture_files
from ..pose import estimate_pose
from .options import SHARED, add_input

__all__ = ["Picture", "Score", "add_arguments", "find_and_score", "run"]

Image = NDArray[np.uint8]

_SEEN = Path(__file__).with_name("seen_faces.json")
_SETS = ("groups_detection", "whole_lq", "diffusion_small_faces")
_SURE, _MAYBE = 0.9, 0.3
_SAME_IOU = 0.4
# Sizes of a picture, and whether it is mirrored, that the reference's landmarks are averaged over beside the plain one.
_VIEWS = ((1.0, True), (0.8, False), (0.8, True), (1.25, False), (1.25, True), (1.5, False), (1.5, True))
_SEED = 4711
# Where eyes, nose and mouth lie in an aligned FFHQ photo of 512 px, nearly: facexlib's template.
_TEMPLATE = ((193.0, 240.0), (319.0, 240.0), (257.0, 314.0), (201.0, 371.0), (313.0, 371.0))
_SIZES = ((0, 16), (16, 32), (32, 64), (64, 1e9))
_YAWS = ((0, 20), (20, 45), (45, 181))


@dataclass
class Picture:
    """A picture with its truth: image [H, W, 3] uint8 BGR, faces' boxes [N, 4] and landmarks [N, 5, 2], and the boxes
    [M, 4] of what may be a face, which counts neither way."""

    group: str
    name: str
    image: Image
    boxes: Tensor
    landmarks: Tensor
    unsure: Tensor


@dataclass
class Score:
    """How one picture went: of each true face if it was found, its landmark error, size and yaw; and what was false."""

    found: NDArray[np.bool_]
    errors: NDArray[np.float32]
    sizes: NDArray[np.float32]
    yaws: NDArray[np.float32]
    boxes: Tensor
    false: NDArray[np.bool_]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m posefr.evaluation detector`."""
    add = parser.add_argument
    add_input(parser, "--data", SHARED / "data", "folder with photos/ and validation/")
    weights = SHARED / "reference" / "retinaface_mobile0.25.pth"
    add_input(parser, "--reference", weights, "weights whose finds in clean photos are the truth")
    add("--detector", action="append", help="a detector to compare, name or path; may be given more than once")
    add("--threshold", type=float, default=0.5, help="least score of a find (default: %(default)s)")
    add("--size", type=int, default=640, help="pictures are shrunk to this longer side in px (default: %(default)s)")
    add("--canvases", type=int, default=80, help="how many canvases (default: %(default)s)")
    add("--copies", type=int, default=2, help="spoilt copies of each picture (default: %(default)s)")
    add("--sheet", type=Path, help="write contact sheets into this folder, one picture for each detector")
    add("--json", type=Path, help="write the figures into this file as well")
    add("--threads", type=int, default=0, help="CPU threads; 0 for PyTorch's choice")


def run(args: argparse.Namespace) -> int:
    """Compare and print; returns the exit status."""
    if args.threads:
        torch.set_num_threads(args.threads)
    reference = load_detector(args.reference, device="cpu")
    reference.name = "reference"
    detectors = _detectors(args.detector, reference)
    pictures = [*_photos(args.data / "photos", args.size, reference), *_canvases(args, reference)]
    if not pictures:
        raise PoseFRError(f"There are no pictures in {args.data}; name another folder with --data.")
    figures = {}
    for condition in ("clean", "spoilt"):
        shown = pictures if condition == "clean" else _spoil(pictures, args.copies)
        for detector in detectors:
            scores = [find_and_score(detector, picture, args.threshold) for picture in shown]
            figures[f"{condition} {detector.name}"] = _summary(shown, scores)
            if args.sheet:
                args.sheet.mkdir(parents=True, exist_ok=True)
                _sheet(shown, scores, args.sheet / f"detector_{condition}_{Path(detector.name).stem}.jpg")
    _print(figures, args)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    return 0


def find_and_score(detector: Detector, picture: Picture, threshold: float) -> Score:
    """Run a detector on a picture at full size and compare with the truth.

    A face counts as found where a find overlaps it by 0.4 (intersection over union), the best scored find first, each
    find once. Every other find is false, a second one of the same face too, unless it lies on an unsure face.
    """
    faces = detector.detect(_tensor(picture.image), threshold=threshold, size=0)
    truth, landmarks = picture.boxes, picture.landmarks
    iou = _iou(faces.box, truth)
    taken = np.full(len(truth), -1)
    for i in range(len(faces)):
        if len(truth):
            free = torch.where(torch.from_numpy(taken < 0), iou[i], -1.0)
            best = int(free.argmax())
            if free[best] >= _SAME_IOU:
                taken[best] = i
    false = torch.ones(len(faces), dtype=torch.bool)
    false[torch.from_numpy(taken[taken >= 0])] = False
    if len(picture.unsure):
        inside = overlaps(faces.box, picture.unsure) / (faces.box[:, 2:] - faces.box[:, :2]).prod(1, keepdim=True)
        false &= ~((_iou(faces.box, picture.unsure) > 0.2).any(1) | (inside > 0.7).any(1))
    errors = np.full(len(truth), np.nan, np.float32)
    for face, i in enumerate(taken):
        if i >= 0:
            points = landmarks[face]
            unit = ((points[0] + points[1]) / 2 - (points[3] + points[4]) / 2).norm().clamp_min(1e-3)
            errors[face] = float((faces.landmarks[i] - points).norm(dim=1).mean() / unit)
    sizes = (truth[:, 2:] - truth[:, :2]).prod(1).sqrt().numpy()
    yaws = estimate_pose(landmarks)[:, 0].abs().numpy()
    return Score(taken >= 0, errors, sizes, yaws, faces.box, false.numpy())


def _detectors(names: Sequence[str] | None, reference: Detector) -> list[Detector]:
    """Those asked for, or the bundled one and every public release at hand; the reference comes last."""
    if not names:
        names = [name for name in RELEASES if find_file(name, [cache_folder()])]
        names = ["bundled", *names] if BUNDLED.is_file() else names
    return [*(load_detector(name, device="cpu") for name in names), reference]


def _tensor(image: Image) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image[..., ::-1]))[None].float() / 255


def _iou(first: Tensor, second: Tensor) -> Tensor:
    common = overlaps(first, second)
    area, other = ((boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (first, second))
    return common / (area[:, None] + other[None] - common)


def _photos(folder: Path, size: int, reference: Detector) -> list[Picture]:
    """The photos, shrunk to `size`, with the reference's finds as truth."""
    import cv2

    # boxes x0 y0 x1 y1 in shares of width and height, by group and file
    seen = json.loads(_SEEN.read_text(encoding="utf-8"))
    pictures = []
    for group in _SETS:
        for path in picture_files(folder / group):
            image = cv2.imread(str(path))
            if image is None:
                raise PoseFRError(f"{path} is not a readable image; take it out of the folder.")
            scale = min(1.0, size / max(image.shape[:2]))
            if scale < 1:
                small = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
                image = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
            image = np.asarray(image, np.uint8)
            faces = reference.detect(_tensor(image), threshold=_MAYBE, size=0)
            sure = faces.score >= _SURE
            landmarks = _mean_landmarks(reference, _tensor(image), faces)[sure]
            also = torch.tensor(seen.get(f"{group}/{path.name}", [])).view(-1, 4)
            also = also * torch.tensor([image.shape[1], image.shape[0]]).repeat(2)
            unsure = torch.cat((faces.box[~sure], also))
            pictures.append(Picture(group, path.name, image, faces.box[sure], landmarks, unsure))
    return pictures


def _mean_landmarks(reference: Detector, image: Tensor, faces: Faces) -> Tensor:
    """[N, 5, 2]: of each face the mean of the reference's landmarks in several views, of those that show it."""
    height, width = image.shape[1:3]
    total, count = faces.landmarks.clone(), torch.ones(len(faces), 1, 1)
    for scale, mirrored in _VIEWS:
        small = max(1, round(height * scale)), max(1, round(width * scale))
        view = functional.interpolate(
            image.permute(0, 3, 1, 2), small, mode="bilinear", antialias=True, align_corners=False
        ).permute(0, 2, 3, 1)
        seen = reference.detect(view.flip(2) if mirrored else view, threshold=_MAYBE, size=0)
        back = torch.tensor([width / small[1], height / small[0]])
        boxes, landmarks = seen.box * back.repeat(2), seen.landmarks * back
        if mirrored:
            boxes = torch.stack((width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]), dim=1)
            landmarks = landmarks[:, [1, 0, 2, 4, 3]]
            landmarks = torch.stack((width - landmarks[..., 0], landmarks[..., 1]), dim=-1)
        if not len(boxes):
            continue
        best, index = _iou(faces.box, boxes).max(1)
        agrees = (best >= 0.5)[:, None, None].float()
        total += agrees * landmarks[index]
        count += agrees
    return total / count


def _canvases(args: argparse.Namespace, reference: Detector) -> list[Picture]:
    """Canvases of 640 px from validation faces: always the same ones."""
    import cv2

    from ..training.detector_canvas import compose
    from ..training.detector_photos import label_photo

    photos = []
    for path in picture_files(args.data / "validation"):
        image = cv2.imread(str(path))
        if image is not None:
            known = np.array(_TEMPLATE, np.float32)
            known *= np.array([image.shape[1] / 512, image.shape[0] / 512], np.float32)
            photo = label_photo(np.asarray(image, np.uint8), known, reference.first_look, trusted=False)
            photos += [photo] if photo is not None else []
    if not photos:
        return []
    rng = np.random.default_rng(_SEED)
    pictures = []
    for index in range(args.canvases):
        canvas = compose(photos, rng, 640 if index % 2 else 320)
        boxes, landmarks = torch.from_numpy(canvas.boxes), torch.from_numpy(canvas.landmarks)
        sure = torch.from_numpy(canvas.sure)
        pictures.append(Picture("canvases", str(index), canvas.image, boxes[sure], landmarks[sure], boxes[~sure]))
    return pictures


def _spoil(pictures: Sequence[Picture], copies: int) -> list[Picture]:
    """Degraded copies, always the same ones; faces with less than 9 px of detail left become unsure."""
    from ..training.detector_degradation import degrade

    spoilt = []
    for index, picture in enumerate(pictures):
        for copy in range(copies):
            image, loss = degrade(picture.image, np.random.default_rng((_SEED, index, copy)))
            seen = (picture.boxes[:, 2:] - picture.boxes[:, :2]).prod(1).sqrt() >= 9 * loss
            unsure = torch.cat((picture.unsure, picture.boxes[~seen]))
            name = f"{picture.name} {copy}"
            spoilt.append(
                Picture(picture.group, name, image, picture.boxes[seen], picture.landmarks[seen], unsure),
            )
    return spoilt


def _summary(pictures: Sequence[Picture], scores: Sequence[Score]) -> dict[str, dict[str, float]]:
    """The figures of each set of pictures, of all, and of all by size and by yaw."""
    table = {}
    for group in (*dict.fromkeys(p.group for p in pictures), "all"):
        of_group = [s for p, s in zip(pictures, scores, strict=True) if group in (p.group, "all")]
        table[group] = _figures(of_group, [np.ones(len(s.found), bool) for s in of_group])
        table[group]["false per picture"] = sum(int(s.false.sum()) for s in of_group) / max(len(of_group), 1)
    for low, high in _SIZES:
        name = f"size {low}-{high:.0f} px" if high < 1e9 else f"size > {low} px"
        table[name] = _figures(scores, [(s.sizes >= low) & (s.sizes < high) for s in scores])
    for low, high in _YAWS:
        name = f"|yaw| {low}-{high}" if high < 181 else f"|yaw| > {low}"
        table[name] = _figures(scores, [(s.yaws >= low) & (s.yaws < high) for s in scores])
    return table


def _figures(scores: Sequence[Score], chosen: Sequence[NDArray[np.bool_]]) -> dict[str, float]:
    """The figures of the chosen faces of each picture."""
    found = np.concatenate([s.found[c] for s, c in zip(scores, chosen, strict=True)] or [np.zeros(0, bool)])
    errors = np.concatenate([s.errors[c] for s, c in zip(scores, chosen, strict=True)] or [np.zeros(0, np.float32)])
    known = errors[np.isfinite(errors)]
    return {
        "faces": len(found),
        "recall": float(found.mean()) if len(found) else float("nan"),
        "landmark error": float(known.mean()) if len(known) else float("nan"),
    }


def _print(figures: dict[str, dict[str, dict[str, float]]], args: argparse.Namespace) -> None:
    print(f"Score at least {args.threshold}, longer side at most {args.size} px, {args.copies} spoilt copies of each.")
    header = f"{'':34}{'faces':>7}{'recall':>9}{'false/picture':>15}{'landmark error':>16}"
    for name, table in figures.items():
        print(f"\n{name}\n{header}")
        for group, row in table.items():
            false = f"{row['false per picture']:15.3f}" if "false per picture" in row else " " * 15
            print(f"  {group:32}{row['faces']:7.0f}{row['recall']:9.3f}{false}{row['landmark error']:16.4f}")


def _sheet(pictures: Sequence[Picture], scores: Sequence[Score], path: Path, side: int = 300, columns: int = 8) -> None:
    """A contact sheet: found faces green, missed ones yellow, false finds red, unsure ones grey."""
    import cv2

    tiles = []
    for picture, score in zip(pictures, scores, strict=True):
        if picture.group == "canvases" and not score.false.any() and score.found.all():
            continue
        scale = side / max(picture.image.shape[:2])
        size = round(picture.image.shape[1] * scale), round(picture.image.shape[0] * scale)
        tile = np.zeros((side, side, 3), np.uint8)
        tile[: size[1], : size[0]] = cv2.resize(picture.image, size, interpolation=cv2.INTER_AREA)
        marks = [(box, (140, 140, 140)) for box in picture.unsure]
        marks += [(b, (0, 220, 0) if f else (0, 220, 255)) for b, f in zip(picture.boxes, score.found, strict=True)]
        marks += [(b, (0, 0, 255)) for b, f in zip(score.boxes, score.false, strict=True) if f]
        for box, colour in marks:
            x0, y0, x1, y1 = (int(v) for v in (box * scale).tolist())
            cv2.rectangle(tile, (x0, y0), (x1, y1), colour, 1)
        tiles.append(tile)
    tiles += [np.zeros((side, side, 3), np.uint8)] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
    if rows:
        cv2.imwrite(str(path), np.vstack(rows))
