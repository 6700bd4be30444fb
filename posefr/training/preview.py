"""Draws what the degradation does to a face: each part of it alone, and whole draws of each severity."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from .data import load_crops
from .degradation import SEVERITIES, Degradation, degrade, draw
from .journal import write_png

__all__ = ["NOTHING", "PARTS", "add_arguments", "draws_sheet", "parts_sheet", "run"]

Image = NDArray[np.uint8]

NOTHING = Degradation(
    sigma=(0.0, 0.0), angle=0.7, motion=0.0, downsampling=1.0, interpolation=cv2.INTER_AREA, noise=0.0, poisson=0.0,
    grey_noise=False, codec="jpeg", quality=0, smear=0.0, warp=0.0, gain=(1.0, 1.0, 1.0), offset=(0.0, 0.0, 0.0),
    grey=False, seed=1,
)  # fmt: skip

# Each part weak, middling and strong; the ranges are those of SEVERITIES["training"].
PARTS: dict[str, Sequence[Degradation]] = {
    "blur": [replace(NOTHING, sigma=(s, s)) for s in (1.5, 4.0, 10.0)],
    "anisotropic blur": [replace(NOTHING, sigma=(s, 0.3 * s)) for s in (2.0, 5.0, 10.0)],
    "motion": [replace(NOTHING, motion=m) for m in (8.0, 18.0, 32.0)],
    "downsampling": [replace(NOTHING, downsampling=d) for d in (3.0, 7.0, 16.0)],
    "Gaussian noise": [replace(NOTHING, noise=n) for n in (5.0, 12.0, 22.0)],
    "grey noise": [replace(NOTHING, noise=n, grey_noise=True) for n in (5.0, 12.0, 22.0)],
    "shot noise": [replace(NOTHING, poisson=n) for n in (5.0, 12.0, 22.0)],
    "JPEG": [replace(NOTHING, quality=q) for q in (70, 40, 20)],
    "WebP": [replace(NOTHING, quality=q, codec="webp") for q in (70, 40, 20)],
    "smear": [replace(NOTHING, smear=s) for s in (0.3, 0.6, 1.0)],
    "warp": [replace(NOTHING, warp=w, seed=4) for w in (2.0, 5.0, 8.0)],
    "colour": [
        replace(NOTHING, gain=gain, offset=offset)
        for gain, offset in (
            ((1.05, 1.0, 0.95), (0.02, 0.0, -0.02)),
            ((0.9, 1.0, 1.1), (-0.04, 0.0, 0.04)),
            ((1.12, 0.95, 0.88), (0.06, -0.02, -0.06)),
        )
    ],
    "grey": [replace(NOTHING, grey=True)],
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m posefr.training preview`."""
    add = parser.add_argument
    add("--faces", type=Path, required=True, help="folder of photos")
    add("--out", type=Path, default=Path("preview"), help="folder for parts.png and draws.png (default: %(default)s)")
    add("--size", type=int, default=256, help="px of the crops (default: %(default)s)")
    add("--draws", type=_count, default=6, help="whole draws of each severity (default: %(default)s)")
    add("--seed", type=int, default=0)


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{count} is less than 1")
    return count


def run(args: argparse.Namespace) -> int:
    """Draw and say where."""
    faces = load_crops(args.faces, args.size, limit=args.draws).images
    for name, picture in (
        ("parts", parts_sheet(faces[0])),
        ("draws", draws_sheet(faces, args.draws, args.seed)),
    ):
        path = args.out / f"{name}.png"
        write_png(path, picture)
        print(path)
    return 0


def parts_sheet(face: Image) -> Image:
    """Each part alone, weak to strong, two parts a row, for a face [S, S, 3]."""
    strips = []
    for name, steps in {"as it is": [NOTHING], **PARTS}.items():
        pictures = [degrade(face, how) for how in steps]
        pictures += [np.full_like(face, 255)] * (3 - len(pictures))
        strips.append(_labelled(np.hstack(pictures), name))
    strips += [np.full_like(strips[0], 255)] * (len(strips) % 2)
    return np.vstack([np.hstack(strips[i : i + 2]) for i in range(0, len(strips), 2)])


def draws_sheet(faces: Image, count: int, seed: int) -> Image:
    """A row for each severity, `count` draws of it on the faces [N, S, S, 3] in turn; the faces as they are above."""
    shown = [faces[i % len(faces)] for i in range(count)]
    rows = [_labelled(np.hstack(shown), "as they are")]
    for name, severity in SEVERITIES.items():
        rng = np.random.default_rng(seed)
        rows.append(_labelled(np.hstack([degrade(face, draw(rng, severity)) for face in shown]), name))
    return np.vstack(rows)


def _labelled(picture: Image, label: str) -> Image:
    header = np.full((20, picture.shape[1], 3), 255, np.uint8)
    cv2.putText(header, label, (4, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return np.vstack([header, picture])
