"""`python -m posefr.training`: train or fine-tune a restorer on a folder of photos."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch

from ..restoration.network import CONFIGURATIONS
from .data import load_crops
from .trainer import LOSSES, Recipe, start_network, train


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m posefr.training", description=__doc__)
    defaults = Recipe()
    add = parser.add_argument
    add("--faces", type=Path, required=True, help="folder of photos; the faces in them are cut out and kept in --out")
    add("--out", type=Path, required=True, help="folder for weights, log and samples; a run found there is resumed")
    add("--configuration", default="posefr-256", choices=sorted(CONFIGURATIONS))
    add("--size", type=int, help="train at this size in px first (default: the configuration's)")
    add("--weights", type=Path, help="checkpoint to start from; a smaller one is grown")
    add("--minutes", type=float, default=defaults.minutes, help="time budget")
    add("--steps", type=int, default=defaults.steps, help="stop after so many steps; 0 for no such limit")
    add("--batch", type=int, default=defaults.batch)
    add("--learning-rate", type=float, default=defaults.learning_rate)
    add("--ema", type=float, default=defaults.ema)
    add(
        "--loss",
        default=defaults.loss,
        choices=LOSSES,
        help="of the pixels: psnr is the logarithm of the squared error",
    )
    add("--pixel", type=float, default=defaults.pixel, help="weight of the pixel loss")
    add("--epsilon", type=float, default=defaults.epsilon, help="pixel errors below it count squared")
    add("--adversarial", type=float, default=defaults.adversarial, help="weight of the adversarial loss")
    add("--r1", type=float, default=defaults.r1)
    add("--clean", type=float, default=defaults.clean, help="share of faces that are their own target")
    add("--faithful", type=float, default=defaults.faithful, help="share of faces at fidelity 1; the others are random")
    add("--seed", type=int, default=defaults.seed)
    add("--workers", type=int, default=defaults.workers, help="threads that degrade faces")
    add("--bf16", action="store_true", help="bf16 autocast, for CUDA (on CPUs, torch 2.13 has NaN gradients in it)")
    add("--sample-every", type=int, default=defaults.sample_every)
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--note", default="", help="goes into the checkpoint's provenance")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = CONFIGURATIONS[args.configuration]
    if args.size:
        config = config.at(args.size)
    crops = load_crops(args.faces, config.size, cache=args.out / f"faces-{config.size}.npz")
    recipe = Recipe(
        minutes=args.minutes, steps=args.steps, batch=args.batch, learning_rate=args.learning_rate, ema=args.ema,
        loss=args.loss, pixel=args.pixel, epsilon=args.epsilon, adversarial=args.adversarial, r1=args.r1,
        clean=args.clean, faithful=args.faithful, seed=args.seed, bf16=args.bf16, workers=args.workers,
        sample_every=args.sample_every,
    )  # fmt: skip
    path = train(start_network(config, args.weights), crops, recipe, args.out, torch.device(args.device), args.note)
    logging.getLogger(__name__).info("Weights: %s", path)


if __name__ == "__main__":
    main()
