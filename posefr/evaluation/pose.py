"""Compares the poses that follow from five landmarks with those of FSA-Net: on training and on validation faces.

The mean face in `posefr.pose` was fitted to the training photos, none of it to the validation ones. FSA-Net (Yang et
al., CVPR 2019) has errors of its own, about 5 degrees a head in its paper: this measures agreement, not truth.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..detection import Detector, load_detector
from ..errors import PoseFRError
from ..imagefiles import picture_files
from ..pose import estimate_pose
from ..training.manifest import LANDMARKS, read_manifest
from .options import SHARED, add_input

__all__ = ["add_arguments", "agreement", "run"]

_ANGLES = ("yaw", "pitch", "roll")
_FSANET = ("fsanet-1x1-iter-688590.onnx", "fsanet-var-iter-688590.onnx")
_FSANET_SIDE = 1.4  # of the box's longer side: what comes nearest to the poses in the training photos' list


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m posefr.evaluation pose`."""
    add = parser.add_argument
    add_input(parser, "--data", SHARED / "data", "folder with faces/ and validation/")
    add_input(parser, "--fsanet", SHARED / "reference", "folder with FSA-Net's two files")
    add("--detector", default="bundled", help="whose landmarks are used (default: %(default)s)")
    add("--every", type=int, default=5, help="take every n-th training photo only (default: %(default)s)")
    add("--json", type=Path, help="write the figures into this file as well")
    add("--threads", type=int, default=0, help="CPU threads; 0 for PyTorch's choice")


def run(args: argparse.Namespace) -> int:
    """Compare and print; returns the exit status."""
    if args.threads:
        torch.set_num_threads(args.threads)
    detector = load_detector(args.detector)
    sets = {"training, the list's landmarks": _listed(args.data / "faces", args.every)}
    sets["training"] = _training(args.data / "faces", args.every, detector)
    sets["validation"] = _validation(args.data / "validation", args.fsanet, detector)
    figures = {name: agreement(ours, theirs) for name, (ours, theirs) in sets.items()}
    print(f"Landmarks by {detector.name}; every {args.every}. training photo; degrees against FSA-Net's.")
    print(f"{'':34}{'faces':>7}" + "".join(f"{angle + ' error':>13}{'correlation':>13}" for angle in _ANGLES))
    for name, row in figures.items():
        shown = "".join(f"{row[f'{a} error']:13.2f}{row[f'{a} correlation']:13.3f}" for a in _ANGLES)
        print(f"  {name:32}{row['faces']:7.0f}{shown}")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    return 0


def agreement(ours: Tensor, theirs: Tensor) -> dict[str, float]:
    """Mean absolute difference and Pearson's correlation of yaw, pitch and roll, two sets of [N, 3] degrees."""
    table: dict[str, float] = {"faces": len(ours)}
    for i, angle in enumerate(_ANGLES):
        pair = torch.stack((ours[:, i], theirs[:, i])).double()
        table[f"{angle} error"] = float((pair[0] - pair[1]).abs().mean())
        table[f"{angle} correlation"] = float(torch.corrcoef(pair)[0, 1])
    return table


def _rows(folder: Path, every: int) -> Iterator[tuple[dict[str, str], Tensor, Tensor]]:
    """Of every n-th training photo: its row in the list, its five landmarks, and its pose by FSA-Net."""
    for row in read_manifest(folder, required=True)[::every]:
        points = torch.tensor([[float(row[f"{p}_x"]), float(row[f"{p}_y"])] for p in LANDMARKS])
        yield row, points, torch.tensor([float(row[a]) for a in _ANGLES])


def _listed(folder: Path, every: int) -> tuple[Tensor, Tensor]:
    points, poses = zip(*((points, pose) for _, points, pose in _rows(folder, every)), strict=True)
    return estimate_pose(torch.stack(points)), torch.stack(poses)


def _training(folder: Path, every: int, detector: Detector) -> tuple[Tensor, Tensor]:
    ours, theirs = [], []
    for row, points, pose in _rows(folder, every):
        faces = detector.detect(_tensor(_read(folder / row["file"])))
        if len(faces):
            apart = (faces.landmarks - points).norm(dim=2).mean(1)
            if apart.min() < float(row["ffhq_side"]) / 8:
                ours.append(faces.pose[int(apart.argmin())])
                theirs.append(pose)
    return _stacked(ours, theirs, folder)


def _validation(folder: Path, fsanet: Path, detector: Detector) -> tuple[Tensor, Tensor]:
    networks = _load_fsanet(fsanet)
    ours, theirs = [], []
    for path in picture_files(folder):
        image = _read(path)
        faces = detector.detect(_tensor(image))
        if len(faces):
            middle = torch.tensor([image.shape[1], image.shape[0]]) / 2
            subject = int((faces.landmarks.mean(1) - middle).norm(dim=1).argmin())
            ours.append(faces.pose[subject])
            theirs.append(_ask_fsanet(networks, image, faces.box[subject]))
    return _stacked(ours, theirs, folder)


def _stacked(ours: list[Tensor], theirs: list[Tensor], folder: Path) -> tuple[Tensor, Tensor]:
    if len(ours) < 2:
        raise PoseFRError(f"The detector found {len(ours)} faces in {folder}, too few to compare poses.")
    return torch.stack(ours), torch.stack(theirs)


def _read(path: Path) -> NDArray[np.uint8]:
    import cv2

    image = cv2.imread(str(path))
    if image is None:
        raise PoseFRError(f"{path} is not a readable image; take it out of the folder.")
    return np.asarray(image, np.uint8)


def _tensor(image: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image[..., ::-1]))[None].float() / 255


def _load_fsanet(folder: Path) -> list[Any]:
    import cv2

    missing = [name for name in _FSANET if not (folder / name).is_file()]
    if missing:
        raise PoseFRError(f"{folder} has no {missing[0]}; give the folder that holds FSA-Net's two files.")
    return [cv2.dnn.readNetFromONNX(str(folder / name)) for name in _FSANET]


def _ask_fsanet(networks: list[Any], image: NDArray[np.uint8], box: Tensor) -> Tensor:
    """Yaw, pitch and roll [3] as the mean of FSA-Net's two networks sees them."""
    import cv2

    middle, half = (box[:2] + box[2:]) / 2, float((box[2:] - box[:2]).max()) * _FSANET_SIDE / 2
    x0, y0 = (max(int(v - half), 0) for v in middle.tolist())
    x1, y1 = (int(v + half) for v in middle.tolist())
    face = cv2.resize(image[y0:y1, x0:x1], (64, 64)).astype(np.float32)
    answers = []
    for network in networks:
        network.setInput(((face - 127.5) / 128).transpose(2, 0, 1)[None])
        answers.append(torch.from_numpy(network.forward().copy()).flatten())
    return torch.stack(answers).mean(0)
