"""Trains the detector's second look: `python -m posefr.training.detector_second_look --faces DIR --reference FILE ...`.

Each step composes and spoils canvases as the detector's own training does, lets the detector find faces in them, and
cuts its finds out, true and false ones, with some more around known faces and some taken anywhere. The network learns
which of them are faces, and where the landmarks lie.

The output folder holds `second_look.pt` (to resume from), `second_look.jsonl` (the log) and `second_look.safetensors`.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, autocast, nn
from torch.nn import functional

from ..detection import load_detector
from ..detection.inference import Candidates, find_candidates
from ..detection.second_look import CROP, SecondLook, crop_transforms, cut_out, look_again, view_transforms
from ..detection.suppression import overlaps
from ..errors import PoseFRError
from ..weightfiles import write_safetensors
from .detector import add_options, average, held_out_canvases, load_stock, pixels, turned_more_often, use_threads
from .detector_canvas import Canvas, compose, mirror
from .detector_degradation import degrade
from .detector_photos import Photo
from .state import write_state

__all__ = ["Samples", "calibrate", "gather", "main", "second_look_loss", "train"]

Generator = np.random.Generator

_LEAST_SEEN = 9.0  # px of detail left in a face, below which it is neither face nor background
_FACE_IOU, _NO_FACE_IOU = 0.4, 0.33
_PROPOSED = 0.1  # the detector's score from which on its finds are cut out
_AROUND, _ANYWHERE, _BESIDE = 2, 3, 1  # crops more: of each known face, of each canvas, and beside each known face
_LANDMARK_WEIGHT = 20.0
_QUADRATIC_BELOW = 0.01  # of the eye-to-mouth distance


@dataclass(frozen=True)
class Samples:
    """N crops [N, 3, 64, 64] of 0..1: face [N] 1 or 0, landmarks [N, 5, 2] in px of the crop, their unit [N] (the
    distance from eyes to mouth, 0 where there is no face)."""

    crops: Tensor
    face: Tensor
    landmarks: Tensor
    unit: Tensor


def gather(canvas: Canvas, found: Candidates, rng: Generator) -> Samples:
    """Crops of what a detector found in a canvas and of some places more, with what they show.

    Args:
        canvas: a picture with labels.
        found: a detector's finds in it.
        rng: draws the further places.
    """
    size = canvas.image.shape[0]
    boxes, landmarks = torch.from_numpy(canvas.boxes), torch.from_numpy(canvas.landmarks)
    sure = torch.from_numpy(canvas.sure)
    further = [_shaken(boxes[sure], landmarks[sure], rng, _AROUND, 0.06, 0.12, 10.0)]
    further.append(_shaken(boxes[sure], landmarks[sure], rng, _BESIDE, 0.4, 0.5, 40.0))
    further.append(_anywhere(rng, size))
    proposals = torch.cat([found.boxes, *(b for b, _ in further)])
    rough = torch.cat([found.landmarks, *(p for _, p in further)])

    common = overlaps(proposals, boxes)
    area, own = (_area(proposals), _area(boxes))
    iou = common / (area[:, None] + own[None] - common)
    face = torch.zeros(len(proposals))
    index = torch.zeros(len(proposals), dtype=torch.int64)
    known = torch.ones(len(proposals), dtype=torch.bool)
    if len(boxes):
        best, index = iou.max(1)
        face = ((best >= _FACE_IOU) & sure[index]).float()
        known = (face > 0) | (best < _NO_FACE_IOU)
        if (~sure).any():  # a part of what may be a face may be one
            doubtful = (common[:, ~sure] > 0.3 * area[:, None]).any(1) | (iou[:, ~sure] > 0.1).any(1)
            known &= (face > 0) | ~doubtful
    proposals, rough, face, index = proposals[known], rough[known], face[known], index[known]
    transforms = crop_transforms(proposals, rough)
    if not len(transforms):
        return Samples(torch.zeros(0, 3, CROP, CROP), face, torch.zeros(0, 5, 2), face)
    crops = cut_out(pixels(canvas.image)[None], transforms)
    if not len(boxes):
        return Samples(crops, face, torch.zeros(len(face), 5, 2), face)
    true = landmarks[index] @ transforms[:, :, :2].transpose(1, 2) + transforms[:, None, :, 2]
    unit = ((true[:, 0] + true[:, 1] - true[:, 3] - true[:, 4]) / 2).norm(dim=1)
    spread = (true[:, 0] - true[:, 1]).norm(dim=1)
    return Samples(crops, face, true, torch.maximum(unit, spread * 0.8) * face)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).clamp_min(0).prod(1)


def _shaken(
    boxes: Tensor, landmarks: Tensor, rng: Generator, times: int, shift: float, zoom: float, degrees: float
) -> tuple[Tensor, Tensor]:
    """Boxes and landmarks moved, scaled and turned about their middle by normal noise of these deviations."""
    boxes, landmarks = boxes.repeat(times, 1), landmarks.repeat(times, 1, 1)
    count = len(boxes)
    side = (boxes[:, 2:] - boxes[:, :2]) / 2
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    moved = middle + 2 * side * torch.from_numpy(rng.normal(0, shift, (count, 2))).float()
    half = side * torch.from_numpy(np.exp(rng.normal(0, zoom, (count, 1)))).float()
    angle = torch.from_numpy(np.radians(rng.normal(0, degrees, count))).float()
    cos, sin = angle.cos(), angle.sin()
    turn = torch.stack((torch.stack((cos, sin), 1), torch.stack((-sin, cos), 1)), 1)
    return torch.cat((moved - half, moved + half), 1), (landmarks - middle[:, None]) @ turn + moved[:, None]


def _anywhere(rng: Generator, size: int) -> tuple[Tensor, Tensor]:
    """Squares anywhere in a canvas, seen from any side."""
    half = np.exp(rng.uniform(np.log(5), np.log(size / 3), (_ANYWHERE, 1)))
    middle = rng.uniform(0, size, (_ANYWHERE, 2))
    boxes = torch.from_numpy(np.concatenate((middle - half, middle + half), 1)).float()
    return boxes, torch.from_numpy(rng.normal(0, 1, (_ANYWHERE, 5, 2))).float()


def second_look_loss(logits: Tensor, points: Tensor, samples: Samples) -> dict[str, Tensor]:
    """The terms `face` (cross-entropy) and `landmarks` (distance over the eye-to-mouth distance), each a mean."""
    face = functional.binary_cross_entropy_with_logits(logits, samples.face)
    true = samples.unit > 0
    unit = samples.unit[true].clamp_min(4.0)[:, None, None]
    wanted, answer = samples.landmarks[true] / unit, points[true] / unit
    distance = functional.smooth_l1_loss(answer, wanted, beta=_QUADRATIC_BELOW) if true.any() else points.sum() * 0
    return {"face": face, "landmarks": distance}


def _batch(photos: Sequence[Photo], detector: nn.Module, seed: int, step: int, size: int, count: int) -> Samples:
    """The crops of one step; they depend on seed and step alone."""
    rng = np.random.default_rng((seed, step))
    canvases = []
    for _ in range(count):
        canvas = compose(photos, rng, size)
        if rng.random() < 0.5:
            canvas = mirror(canvas)
        canvas.image, loss = degrade(canvas.image, rng)
        canvas.sure = canvas.sure & (canvas.sizes() >= _LEAST_SEEN * loss)
        canvases.append(canvas)
    with torch.inference_mode():
        found = find_candidates(detector, torch.stack([pixels(c.image) for c in canvases]), _PROPOSED)
    parts = [gather(canvas, seen, rng) for canvas, seen in zip(canvases, found, strict=True)]
    return Samples(*(torch.cat([getattr(p, k) for p in parts]) for k in ("crops", "face", "landmarks", "unit")))


@torch.inference_mode()
def _figures(network: SecondLook, samples: Samples) -> dict[str, float]:
    """How it does on samples: landmark error, and the share of faces kept while one other in twenty is."""
    logits, points = network(samples.crops.clone())
    true = samples.unit > 0
    error = (points - samples.landmarks).norm(dim=2).mean(1)[true] / samples.unit[true]
    limit = logits[samples.face == 0].quantile(0.95)
    return {
        "landmark_error": round(float(error.mean()), 4),
        "landmark_error_median": round(float(error.median()), 4),
        "kept_at_5_percent": round(float((logits[samples.face > 0] > limit).float().mean()), 4),
    }


@torch.no_grad()
def calibrate(network: SecondLook, detector: nn.Module, canvases: Sequence[Canvas], false_per_canvas: float) -> float:
    """Shift the network's face logits alike, so that both looks together have at most so many false finds a canvas.

    A find is false if it scores 0.5 and lies on no labelled face. The shift goes into the last layer's bias.

    Args:
        network: changed in place.
        detector: the first look.
        canvases: labelled ones that it was not trained on.
        false_per_canvas: how many are borne.

    Returns:
        How much the logits were lowered by; raised, if it is negative.
    """
    logits: list[float] = []
    for canvas in canvases:
        image = pixels(canvas.image)[None]
        found = find_candidates(detector, image, _PROPOSED)[0]
        transforms = view_transforms(found.boxes, found.landmarks)
        seen = look_again(network, cut_out(image, transforms), transforms, found)
        false = torch.ones(len(seen.scores), dtype=torch.bool)
        if len(canvas.boxes):
            boxes = torch.from_numpy(canvas.boxes)
            common, area = overlaps(seen.boxes, boxes), _area(seen.boxes)[:, None]
            false = (common < 0.5 * area).all(1) & (common / (area + _area(boxes) - common) < 0.3).all(1)
        logits += torch.logit(seen.scores[false], 1e-6).tolist()
    borne = int(false_per_canvas * len(canvases))
    highest = sorted(logits, reverse=True)[borne] if len(logits) > borne else -1.0
    shift = 2 * highest + 0.01  # the score's logit is the mean of both looks'
    head: Any = network.head[-1]
    head.bias[0] -= shift
    return shift


def train(
    photos: Sequence[Photo], faceless: Sequence[Photo], detector: nn.Module, args: argparse.Namespace
) -> SecondLook:
    """Train until the time budget is spent; returns the averaged network.

    Args:
        photos: labelled ones; every 40th is held out for the figures in the log.
        faceless: pictures without faces.
        detector: the network that proposes.
        args: the command line's.

    Raises:
        PoseFRError: nothing to resume from.
    """
    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    network: Any = SecondLook().train()
    network.to(memory_format=torch.channels_last)
    ema = copy.deepcopy(network).eval()
    optimizer = torch.optim.AdamW(network.parameters(), lr=args.rate, weight_decay=args.decay)
    step, spent, state_path = 0, 0.0, out / "second_look.pt"
    if args.resume:
        if not state_path.is_file():
            raise PoseFRError(f"{state_path} does not exist, so there is nothing to resume; leave --resume out.")
        state = torch.load(state_path, weights_only=True)
        network.load_state_dict(state["network"])
        ema.load_state_dict(state["ema"])
        optimizer.load_state_dict(state["optimizer"])
        step, spent = state["step"], state["seconds"]
    learnt = turned_more_often([p for i, p in enumerate(photos) if i % 40])
    learnt += [p for p in faceless for _ in range(max(1, len(learnt) // (7 * len(faceless))))]
    held_out = _batch(photos[::40], detector, 2205, 0, args.canvas, 60)
    started, budget, saved = time.monotonic() - spent, args.minutes * 60, spent
    sums: dict[str, float] = {}
    with (out / "second_look.jsonl").open("a", encoding="utf-8") as log:
        while spent < budget:
            part = min(spent / budget, 1.0)
            rate = args.rate * min(1.0, (step + 1) / 200) * max(0.005, 0.5 + 0.5 * math.cos(math.pi * part))
            for group in optimizer.param_groups:
                group["lr"] = rate
            samples = _batch(learnt, detector, args.seed, step, args.canvas, args.batch)
            with autocast("cpu", torch.bfloat16, enabled=not args.float32):
                logits, points = network(samples.crops.clone().contiguous(memory_format=torch.channels_last))
            terms = second_look_loss(logits, points, samples)
            loss = terms["face"] + _LANDMARK_WEIGHT * terms["landmarks"]
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            norm = float(nn.utils.clip_grad_norm_(network.parameters(), 5.0))
            if math.isfinite(norm):
                optimizer.step()
                average(ema, network, min(args.ema, (1 + step) / (10 + step)))
            step += 1
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach())
            spent = time.monotonic() - started
            if step % 100 == 0:
                record: dict[str, Any] = {"step": step, "minutes": round(spent / 60, 2), "rate": round(rate, 6)}
                record |= {name: round(value / 100, 4) for name, value in sums.items()}
                record |= {"crops": len(samples.face), "faces": int(samples.face.sum())}
                record |= _figures(ema, held_out)
                sums = {}
                print(json.dumps(record), file=log, flush=True)
                print(json.dumps(record), flush=True)
            if spent - saved > args.save_every * 60 or spent >= budget:
                saved = spent
                _save(out, network, ema, optimizer, step, spent, args)
    shift = calibrate(ema, detector, held_out_canvases(photos[::40], args.canvas, 300), args.false_per_canvas)
    _write(ema, out / "second_look.safetensors", step, spent, args, shift)
    return ema


def _save(
    out: Path,
    network: SecondLook,
    ema: SecondLook,
    optimizer: torch.optim.Optimizer,
    step: int,
    seconds: float,
    args: argparse.Namespace,
) -> None:
    state = {
        "network": network.state_dict(),
        "ema": ema.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
        "seconds": seconds,
    }
    write_state(state, out / "second_look.pt")
    _write(ema, out / "second_look.safetensors", step, seconds, args, 0.0)


def _write(network: SecondLook, path: Path, step: int, seconds: float, args: argparse.Namespace, shift: float) -> None:
    weights = {
        name: (value.half() if value.ndim > 1 else value).contiguous() for name, value in network.state_dict().items()
    }
    facts = {
        "format": "pt",
        "provenance": "trained from random weights by posefr.training.detector_second_look",
        "data": f"face photos of {args.faces.name}",
        "licence": args.licence,
        "steps": str(step),
        "minutes": f"{seconds / 60:.0f}",
        "score_shift": f"{shift:.2f}",
    }
    write_safetensors(weights, facts, path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m posefr.training.detector_second_look", description="Trains the detector's second look."
    )
    add_options(parser, minutes=60.0, rate=2e-3, decay=0.02, false_per_canvas=0.01)
    parser.add_argument(
        "--detector", default="bundled", help="the detector whose finds are looked at (default: %(default)s)"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    args = _parser().parse_args(arguments)
    use_threads(args.threads)
    try:
        photos, faceless = load_stock(args.faces, args.reference, args.faceless, args.every)
        train(photos, faceless, load_detector(args.detector, device="cpu").first_look, args)
    except PoseFRError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
