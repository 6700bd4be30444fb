"""Averages the weights of two restorers, of which one was trained on from the other.

A part that the first lacks is the second's. The mean of two points of one training path is often better than
either, for the noise of the steps averages out (stochastic weight averaging, arXiv 1803.05407).
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch

from ..errors import PoseFRError
from ..restoration.checkpoint import load_network, save_network
from ..restoration.network import PoseFRNet

__all__ = ["add_arguments", "average", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m posefr.training average`."""
    parser.add_argument("first", type=Path, help="weights")
    parser.add_argument("second", type=Path, help="weights that were trained on from those")
    parser.add_argument("--share", type=float, default=0.5, help="of the second, 0 to 1 (default: %(default)s)")
    parser.add_argument("-o", "--output", type=Path, required=True, help="file to write")


def run(args: argparse.Namespace) -> int:
    """Average and say where."""
    if not 0 <= args.share <= 1:
        raise PoseFRError(f"--share is 0 to 1; found {args.share:g}.")
    if args.output.suffix.lower() != ".safetensors":
        raise PoseFRError(f"{args.output} has to end in .safetensors.")
    (first, _), (second, provenance) = load_network(args.first), load_network(args.second)
    network = average(first, second, args.share)
    note = f"averaged: {1 - args.share:g} {args.first.name}, {args.share:g} {args.second.name}"
    logging.getLogger(__name__).info(
        "Weights: %s", save_network(network, args.output, {**provenance, "note": note, "before": provenance})
    )
    return 0


@torch.no_grad()
def average(first: PoseFRNet, second: PoseFRNet, share: float) -> PoseFRNet:
    """A network of the weights (1 - share) * first + share * second.

    Args:
        second: its filters, chroma and refinements may be missing in the first.

    Raises:
        PoseFRError: the networks differ in more than that.
    """
    whole = first.with_parts_of(second.config)
    if whole.config != second.config:
        raise PoseFRError(
            "The weights are of networks that differ in their sizes or widths, or the second lacks parts of the first; "
            "they have no average."
        )
    known, theirs = first.state_dict(), second.state_dict()
    for name, value in whole.state_dict().items():
        value.lerp_(theirs[name], share if name in known else 1.0)
    return whole
