"""Runs face restorers over real low-quality photos, for which there is no truth, and draws the result.

What can be measured without a truth: how much the face is still the input's (identity cosine), how much more detail
it has than the input (energy in the upper half of the frequency band, as a ratio), and how far its mean colour moved.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from ..detection import Detector, load_detector
from ..errors import PoseFRError
from ..geometry import apply_transform, crop_faces, transform_scale
from ..imagefiles import picture_files, readable
from .metrics import Identity, detail_ratio, grid_share, pattern_height
from .options import SHARED, add_input
from .restore import (
    Row,
    add_restorer_arguments,
    apply,
    chosen_restorers,
    largest_face,
    load_identity,
    resized,
    side,
    write_csv,
)

__all__ = ["Face", "add_arguments", "find_faces", "measure", "run"]

Image = NDArray[np.uint8]
_SETS = ("aligned_lq", "whole_lq", "diffusion_small_faces")
_ALIGNED = "aligned_lq"  # its pictures are faces in the ffhq frame already
_FIGURES = ("identity", "detail", "colour", "grid", "pattern")
_LEAST = 0.7  # detection score; what is less sure may be no face
_CELL = 192  # px


@dataclass(frozen=True)
class Face:
    """A real face without a truth.

    Attributes:
        group: folder it is of. name: file, and the face's number. image: [S, S, 3] uint8 RGB, in the frame named.
        landmarks: [5, 2] px of the image, or None where no face was found in it.
        side: px of the photo that the crop is wide.
    """

    group: str
    name: str
    image: Image
    landmarks: NDArray[np.float32] | None
    side: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m posefr.evaluation photos`."""
    add = parser.add_argument
    text = "folder with photos; those in its sub-folder aligned_lq are faces cut out already"
    add_input(parser, "--photos", SHARED / "data" / "photos", text)
    add(
        "--set",
        action="append",
        help=f"sub-folder, may be given more than once (default: "
        f"{', '.join(_SETS)} where they are there, else the whole folder)",
    )
    add("--limit", type=int, default=40, help="how many faces of each set, the largest ones; 0 for all "
        "(default: %(default)s)")  # fmt: skip
    add("--size", type=side, default=256, help="px that faces are cut out at and compared at (default: %(default)s)")
    add_restorer_arguments(parser)
    add("--csv", type=Path, help="write a row per face and method")


def run(args: argparse.Namespace) -> int:
    """Restore, measure and print; returns the exit status."""
    detector = load_detector(args.detector)
    restorers = chosen_restorers(args)
    faces = []
    for group in args.set or [name for name in _SETS if (args.photos / name).is_dir()] or ["."]:
        found = sorted(find_faces(args.photos / group, args.size, detector), key=lambda face: -face.side)
        faces += found[: args.limit or None]
    if not faces:
        raise PoseFRError(f"No face was found in {args.photos}; name another folder with --photos.")
    identity = load_identity(args.reference)
    rows: list[Row] = []
    columns: dict[str, list[Image]] = {"input": [face.image for face in faces]}
    for name, restorer in restorers.items():
        for fidelity in args.fidelity or (1.0, 0.0):
            method = f"{name} f={fidelity:g}"
            columns[method] = []
            for face in tqdm(faces, desc=method, unit="face"):
                picture = apply(restorer, fidelity, face.image)
                columns[method].append(picture)
                facts = {"set": face.group, "face": face.name, "side": round(face.side, 1), "method": method}
                rows.append({**facts, **measure(picture, face, identity)})
    _print(rows)
    if args.csv:
        write_csv(args.csv, rows)
    if args.sheet:
        _sheet(args.sheet, faces, columns)
    return 0


def find_faces(folder: Path, size: int, detector: Detector) -> Iterator[Face]:
    """The faces of a folder of photos, as crops of `size` px in the ffhq frame."""
    for path, tensor in readable(picture_files(folder, nested=True)):
        photo = (tensor[0] * 255).round().to(torch.uint8).numpy()
        if folder.name == _ALIGNED:
            image = resized(photo, size, path)
            yield Face(folder.name, path.name, image, largest_face(image, detector), float(photo.shape[0]))
            continue
        faces = detector.detect(tensor, threshold=_LEAST, size=1280)
        if not len(faces):
            continue
        crops = crop_faces(tensor, faces, size=size, frame="ffhq")
        landmarks = apply_transform(crops.transforms, faces.landmarks).float().numpy()
        sides = size / transform_scale(crops.transforms)
        for index, crop in enumerate((crops.images * 255).round().to(torch.uint8).numpy()):
            yield Face(folder.name, f"{path.name} {index}", crop, landmarks[index], float(sides[index]))


def measure(picture: Image, face: Face, identity: Identity | None) -> dict[str, float]:
    """identity: cosine to the input; detail: ratio to the input; colour: largest shift of a channel's mean, 1/255;
    grid, pattern: as `grid_share` and `pattern_height`."""
    same = float("nan")
    if identity is not None and face.landmarks is not None:
        same = float(identity.embed(picture, face.landmarks) @ identity.embed(face.image, face.landmarks))
    shift = picture.astype(np.float64).mean((0, 1)) - face.image.astype(np.float64).mean((0, 1))
    return {
        "identity": same,
        "detail": detail_ratio(picture, face.image),
        "colour": float(np.abs(shift).max()),
        "grid": grid_share(picture),
        "pattern": pattern_height(picture),
    }


def _print(rows: Sequence[Row]) -> None:
    methods = list(dict.fromkeys(row["method"] for row in rows))
    for group in dict.fromkeys(row["set"] for row in rows):
        chosen = [row for row in rows if row["set"] == group]
        sides = sorted({(row["face"], row["side"]) for row in chosen})
        print(f"\n{group}, {len(sides)} faces of {min(s for _, s in sides):.0f} to {max(s for _, s in sides):.0f} px")
        print(f"{'':28}{'identity':>10}{'lowest':>8}{'detail':>8}{'colour':>8}{'largest':>9}{'grid':>7}{'pattern':>9}")
        for method in methods:
            own = [row for row in chosen if row["method"] == method]
            identity, detail, colour, grid, pattern = (np.array([row[name] for row in own], float) for name in _FIGURES)
            known = identity[~np.isnan(identity)]
            mean, low = (known.mean(), known.min()) if len(known) else (np.nan, np.nan)
            # Ratios are averaged as logarithms: a half and a double cancel.
            ratio = np.exp(np.log(np.maximum(detail, 1e-6)).mean())
            print(
                f"{method:28}{mean:10.3f}{low:8.3f}{ratio:8.2f}{colour.mean():8.2f}{colour.max():9.2f}"
                f"{grid.mean():7.3f}{pattern.mean():9.2f}"
            )


def _sheet(path: Path, faces: Sequence[Face], columns: dict[str, list[Image]]) -> None:
    """A cell per face: input and every method side by side; three cells a row."""
    cells = []
    for index, face in enumerate(faces):
        strip = np.hstack([cv2.resize(own[index], (_CELL, _CELL)) for own in columns.values()])
        header = np.full((18, strip.shape[1], 3), 255, np.uint8)
        label = f"{face.group} {face.name} ({face.side:.0f} px)"
        label = label.encode("ascii", "replace").decode()
        cv2.putText(header, label, (3, 13), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (0, 0, 0), 1, cv2.LINE_AA)
        cells.append(np.vstack([header, strip]))
    across = max(1, min(3, 1800 // cells[0].shape[1]))
    cells += [np.full_like(cells[0], 255)] * (-len(cells) % across)
    rows = [np.hstack(cells[start : start + across]) for start in range(0, len(cells), across)]
    title = np.full((22, rows[0].shape[1], 3), 255, np.uint8)
    cv2.putText(title, " | ".join(columns), (3, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imencode(".png", np.vstack([title, *rows])[..., ::-1])[1].tofile(path)
