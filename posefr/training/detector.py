"""Trains the bundled face detector: `python -m posefr.training.detector --faces DIR --reference FILE --out DIR`.

The network is facexlib's RetinaFace mobile0.25 with random weights at the start; nothing is copied from the reference,
which only says once where the faces in the photos are. Each step composes canvases from the photos, spoils them, and
teaches the network to find the faces. The learning rate follows the time budget, so that a run of any length ends well.

The output folder holds `state.pt` (to resume from), `log.jsonl`, and `detector.safetensors` (the averaged weights).
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, autocast, nn

from ..detection.inference import find_candidates, network_input
from ..detection.networks import build_network
from ..detection.priors import prior_boxes
from ..detection.suppression import overlaps
from ..detection.weights import read_weights, write_weights
from ..errors import PoseFRError
from ..pose import estimate_pose
from .detector_canvas import Canvas, compose, mirror
from .detector_degradation import degrade
from .detector_loss import Targets, detection_loss, match
from .detector_photos import Photo, load_faceless, load_photos
from .manifest import read_manifest
from .state import write_state

__all__ = [
    "add_options",
    "average",
    "calibrate",
    "held_out_canvases",
    "load_stock",
    "main",
    "pixels",
    "score_canvases",
    "train",
    "turned_more_often",
    "use_threads",
]  # fmt: skip

_ARCHITECTURE = "mobile0.25"
_BOX_WEIGHT = 1.0
_LANDMARK_WEIGHT = 0.5
_LEAST_SEEN = 9.0  # px of detail left in a face, below which it is neither face nor background
_HELD_OUT = 40  # every 40th photo is kept for the score that the log shows
_LARGE_EVERY = 8  # every 8th step has a quarter of the canvases at twice the size, for large faces
_TURNED = ((20.0, 2), (45.0, 5))  # degrees of yaw, and how often a photo turned by more is taken instead of once


@dataclass(frozen=True)
class Recipe:
    """What a run needs beside its photos: the numbers of the command line."""

    minutes: float
    canvas: int
    batch: int
    rate: float
    warm_up: int
    decay: float
    ema: float
    seed: int
    bfloat16: bool
    save_every: float
    false_per_canvas: float


def _batch(photos: Sequence[Photo], seed: int, step: int, size: int, count: int) -> tuple[Tensor, list[Targets]]:
    """The canvases of one step [B, 3, S, S] RGB 0..1, and their targets; both depend on seed and step alone."""
    rng = np.random.default_rng((seed, step))
    if step % _LARGE_EVERY == 0 and count >= 4:
        size, count = 2 * size, count // 4
    priors = prior_boxes(size, size)
    images, targets = [], []
    for _ in range(count):
        canvas = compose(photos, rng, size)
        if rng.random() < 0.5:
            canvas = mirror(canvas)
        image, loss = degrade(canvas.image, rng)
        sure = canvas.sure & (canvas.sizes() >= _LEAST_SEEN * loss)
        boxes, landmarks = torch.from_numpy(canvas.boxes), torch.from_numpy(canvas.landmarks)
        targets.append(match(boxes, landmarks, torch.from_numpy(sure), priors))
        images.append(pixels(image))
    return torch.stack(images), targets


def turned_more_often(photos: Sequence[Photo]) -> list[Photo]:
    """The photos, those whose subject is turned several times over."""
    landmarks = [torch.from_numpy(p.landmarks[0]) if len(p.landmarks) else torch.full((5, 2), nan) for p in photos]
    yaws = estimate_pose(torch.stack(landmarks))[:, 0].abs().tolist()
    more: list[Photo] = []
    for photo, yaw in zip(photos, yaws, strict=True):
        more += [photo] * max((times for least, times in _TURNED if yaw > least), default=1)
    return more


def pixels(image: np.ndarray) -> Tensor:
    """[3, H, W] RGB 0..1 of [H, W, 3] BGR uint8."""
    return torch.from_numpy(np.ascontiguousarray(image[..., ::-1])).permute(2, 0, 1).float() / 255


@torch.no_grad()
def average(ema: nn.Module, network: nn.Module, decay: float) -> None:
    """Move the average of the weights, and of the normalisation's statistics, towards the network's."""
    own = dict(ema.state_dict())
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            own[name].lerp_(value, 1 - decay)
        else:
            own[name].copy_(value)


@torch.inference_mode()
def score_canvases(network: nn.Module, canvases: Sequence[Canvas], threshold: float = 0.5) -> dict[str, float]:
    """Recall, false positives a canvas, and landmark error (share of the eye-to-mouth distance) on labelled canvases.

    A find is right if it overlaps a labelled face by half (intersection over union); finds on faces that are not sure
    do not count at all.
    """
    found = wanted = false = 0
    errors: list[float] = []
    for canvas in canvases:
        answer = find_candidates(network, pixels(canvas.image)[None], threshold)[0]
        boxes = torch.from_numpy(canvas.boxes)
        common = overlaps(answer.boxes, boxes)
        area = (answer.boxes[:, 2:] - answer.boxes[:, :2]).prod(1)
        iou = common / (area[:, None] + (boxes[:, 2:] - boxes[:, :2]).prod(1)[None] - common)
        wanted += int(canvas.sure.sum())
        if not len(boxes):
            false += len(area)
            continue
        false += int(((common < 0.5 * area[:, None]).all(1) & (iou < 0.3).all(1)).sum())
        if not len(area):
            continue
        best, index = iou.max(0)
        for face in np.flatnonzero(canvas.sure & (best >= 0.5).numpy()):
            found += 1
            truth = torch.from_numpy(canvas.landmarks[face])
            scale = ((truth[0] + truth[1]) / 2 - (truth[3] + truth[4]) / 2).norm()
            errors.append(float((answer.landmarks[index[face]] - truth).norm(dim=1).mean() / scale.clamp_min(1e-3)))
    return {
        "recall": found / max(wanted, 1),
        "false_per_canvas": false / max(len(canvases), 1),
        "landmark_error": float(np.median(errors)) if errors else float("nan"),
    }


def held_out_canvases(photos: Sequence[Photo], size: int, count: int = 60) -> list[Canvas]:
    """Canvases, always the same, every second of them spoilt, of photos that are not trained on."""
    rng = np.random.default_rng(2205)
    canvases = []
    for i in range(count):
        canvas = compose(photos, rng, size)
        if i % 2:
            canvas.image, loss = degrade(canvas.image, rng)
            canvas.sure = canvas.sure & (canvas.sizes() >= _LEAST_SEEN * loss)
        canvases.append(canvas)
    return canvases


@torch.no_grad()
def calibrate(network: Any, canvases: Sequence[Canvas], false_per_canvas: float) -> float:
    """Shift all scores alike, so that at 0.5 the network has at most so many false finds a canvas.

    The shift goes into the biases of the class heads. It is the least one of steps of 0.1, and never below 0.

    Args:
        network: a RetinaFace in evaluation mode; changed in place.
        canvases: labelled ones that it was not trained on.
        false_per_canvas: how many are borne.

    Returns:
        The shift that face logits were lowered by.
    """
    shift = 0.0
    while score_canvases(network, canvases, 1 / (1 + math.exp(-shift)))["false_per_canvas"] > false_per_canvas:
        shift = round(shift + 0.1, 1)
    for head in network.ClassHead:
        head.conv1x1.bias[1::2] -= shift  # background and face in turn, for each prior
    return shift


def train(
    photos: Sequence[Photo],
    recipe: Recipe,
    out: Path,
    metadata: dict[str, str],
    resume: bool,
    faceless: Sequence[Photo] = (),
) -> nn.Module:
    """Train until the time budget is spent; returns the averaged network.

    Args:
        photos: at least 40; some are held out for the score in the log.
        recipe: the numbers.
        out: folder for the state, the log and the weights; made if absent.
        metadata: strings stored with the weights.
        resume: go on from `out`/state.pt; time already spent counts against the budget.
        faceless: pictures without faces; one thing in eight that are no faces is a part of them.

    Raises:
        PoseFRError: too few photos, or nothing to resume from.
    """
    if len(photos) < _HELD_OUT:
        raise PoseFRError(f"The reference found faces in {len(photos)} photos; training needs at least {_HELD_OUT}.")
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    random.seed(recipe.seed)
    network: Any = build_network(_ARCHITECTURE)
    network.phase = "train"
    network.train().to(memory_format=torch.channels_last)
    ema: Any = copy.deepcopy(network).eval()
    ema.phase = "test"
    optimizer = torch.optim.AdamW(_groups(network, recipe.decay), lr=recipe.rate, betas=(0.9, 0.99))
    step, spent = 0, 0.0
    state_path = out / "state.pt"
    if resume:
        if not state_path.is_file():
            raise PoseFRError(f"{state_path} does not exist, so there is nothing to resume; leave --resume out.")
        state = torch.load(state_path, weights_only=True)
        network.load_state_dict(state["network"])
        ema.load_state_dict(state["ema"])
        optimizer.load_state_dict(state["optimizer"])
        step, spent = state["step"], state["seconds"]

    held_out = held_out_canvases(photos[::_HELD_OUT], recipe.canvas)
    learnt = turned_more_often([p for i, p in enumerate(photos) if i % _HELD_OUT])
    learnt += [p for p in faceless for _ in range(max(1, len(learnt) // (7 * len(faceless))))]
    started, budget, saved = time.monotonic() - spent, recipe.minutes * 60, spent
    sums: dict[str, float] = {}
    with (out / "log.jsonl").open("a", encoding="utf-8") as log:
        while spent < budget:
            part = min(spent / budget, 1.0)
            rate = recipe.rate * min(1.0, (step + 1) / recipe.warm_up) * max(0.01, 0.5 + 0.5 * math.cos(math.pi * part))
            for group in optimizer.param_groups:
                group["lr"] = rate
            images, targets = _batch(learnt, recipe.seed, step, recipe.canvas, recipe.batch)
            inputs = network_input(images).contiguous(memory_format=torch.channels_last)
            with autocast("cpu", torch.bfloat16, enabled=recipe.bfloat16):
                outputs = network(inputs)
            terms = detection_loss(outputs, targets)
            loss = _BOX_WEIGHT * terms["box"] + terms["face"] + _LANDMARK_WEIGHT * terms["landmarks"]
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = float(nn.utils.clip_grad_norm_(network.parameters(), 10.0))
            if math.isfinite(norm):
                optimizer.step()
                average(ema, network, min(recipe.ema, (1 + step) / (10 + step)))
            step += 1
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach())
            sums["norm"] = sums.get("norm", 0.0) + min(norm, 1e3)
            spent = time.monotonic() - started
            if step % 100 == 0:
                record = {"step": step, "minutes": round(spent / 60, 2), "rate": rate}
                record |= {name: round(value / 100, 4) for name, value in sums.items()}
                sums = {}
                if step % 500 == 0:
                    record |= {name: round(value, 4) for name, value in score_canvases(ema, held_out).items()}
                print(json.dumps(record), file=log, flush=True)
                print(json.dumps(record), flush=True)
            if spent - saved > recipe.save_every * 60 or spent >= budget:
                saved = spent
                _save(out, network, ema, optimizer, step, spent, metadata)
    shift = calibrate(ema, held_out, recipe.false_per_canvas)
    facts = {**metadata, "steps": str(step), "minutes": f"{spent / 60:.0f}", "score_shift": f"{shift:.1f}"}
    write_weights(ema, _ARCHITECTURE, out / "detector.safetensors", facts)
    return ema


def _groups(network: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Weight decay for convolutions only, not for biases and normalisation."""
    parameters = list(network.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _save(
    out: Path,
    network: nn.Module,
    ema: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    seconds: float,
    metadata: dict[str, str],
) -> None:
    state = {
        "network": network.state_dict(),
        "ema": ema.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
        "seconds": seconds,
    }
    write_state(state, out / "state.pt")
    facts = {**metadata, "steps": str(step), "minutes": f"{seconds / 60:.0f}"}
    write_weights(ema, _ARCHITECTURE, out / "detector.safetensors", facts)


def load_stock(faces: Path, reference: Path, faceless: Path | None, every: int = 1) -> tuple[list[Photo], list[Photo]]:
    """The labelled photos of a folder with a manifest.csv, and the pictures without faces of another one.

    Args:
        faces: the folder of photos.
        reference: RetinaFace mobile0.25 weights that label them.
        faceless: the other folder, if there is one.
        every: take every n-th photo only.

    Raises:
        PoseFRError: a file is missing or cannot be read.
    """
    network = build_network(_ARCHITECTURE)
    read_weights(network, reference, _ARCHITECTURE)
    rows = read_manifest(faces, required=True)[::every]
    photos = list(load_photos(faces, rows, network))
    empty = list(load_faceless(faceless, network)) if faceless else []
    print(f"{len(photos)} of {len(rows)} photos labelled, {len(empty)} pictures without faces", flush=True)
    return photos, empty


def add_options(
    parser: argparse.ArgumentParser, *, minutes: float, rate: float, decay: float, false_per_canvas: float
) -> None:
    """The options that training either of the detector's networks has, with these defaults."""
    add = parser.add_argument
    add("--faces", type=Path, required=True, help="folder of face photos with a manifest.csv")
    add("--reference", type=Path, required=True, help="RetinaFace mobile0.25 weights that label the photos")
    add("--faceless", type=Path, help="folder of any pictures; those without a face show what a face is not")
    add("--out", type=Path, required=True, help="folder for the state, the log and the weights")
    add("--minutes", type=float, default=minutes, help="time budget of the training itself (default: %(default)s)")
    add("--resume", action="store_true", help="go on from the state in --out")
    add("--threads", type=int, default=0, help="CPU threads; 0 for PyTorch's choice (default: %(default)s)")
    add("--canvas", type=int, default=320, help="canvas side in px (default: %(default)s)")
    add("--batch", type=int, default=16, help="canvases a step (default: %(default)s)")
    add("--rate", type=float, default=rate, help="highest learning rate (default: %(default)s)")
    add("--decay", type=float, default=decay, help="weight decay of AdamW (default: %(default)s)")
    add("--ema", type=float, default=0.998, help="decay of the averaged weights (default: %(default)s)")
    add("--seed", type=int, default=0)
    add("--float32", action="store_true", help="no bfloat16 autocast")
    add("--save-every", type=float, default=5.0, help="minutes between checkpoints (default: %(default)s)")
    add(
        "--false-per-canvas",
        type=float,
        default=false_per_canvas,
        help="false finds a canvas that the final scores are set for, at 0.5 (default: %(default)s)",
    )
    add(
        "--licence",
        default="research and non-commercial use only, as the licences of the training photos ask",
        help="kept with the weights (default: %(default)s)",
    )
    add("--every", type=int, default=1, help="take every n-th photo only (default: all)")


def use_threads(count: int) -> None:
    """Threads for torch and OpenCV each; 0 leaves both alone."""
    if count:
        import cv2

        torch.set_num_threads(count)
        cv2.setNumThreads(count)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m posefr.training.detector", description="Trains a face detector.")
    add_options(parser, minutes=90.0, rate=3e-3, decay=0.01, false_per_canvas=0.05)
    parser.add_argument(
        "--warm-up", type=int, default=300, help="steps until the highest learning rate (default: %(default)s)"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    args = _parser().parse_args(arguments)
    use_threads(args.threads)
    recipe = Recipe(
        args.minutes, args.canvas, args.batch, args.rate, args.warm_up, args.decay, args.ema, args.seed,
        not args.float32, args.save_every, args.false_per_canvas,
    )  # fmt: skip
    try:
        photos, faceless = load_stock(args.faces, args.reference, args.faceless, args.every)
        metadata = {
            "provenance": "trained from random weights by posefr.training.detector",
            "data": f"{len(photos)} face photos of {args.faces.name}",
            "licence": args.licence,
            "recipe": f"canvas {args.canvas}, batch {args.batch}, rate {args.rate}, seed {args.seed}",
        }
        train(photos, recipe, args.out, metadata, args.resume, faceless)
    except PoseFRError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
