"""Stage 2: trains or fine-tunes a restorer on a folder of photos."""

from __future__ import annotations

import argparse
import json
import logging
from dataclasses import replace
from pathlib import Path

import torch

from ..devices import default_device
from ..errors import PoseFRError
from ..restoration.checkpoint import read_metadata
from ..restoration.network import CONFIGURATIONS
from ..restoration.shards import written_path
from .card import write_card
from .data import load_crops
from .identity import IdentityLoss
from .processes import Processes
from .recipe import Recipe, add_options, from_options
from .start import start_network
from .state import origin
from .trainer import train

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m posefr.training`."""
    add = parser.add_argument
    add("--faces", type=Path, required=True, help="folder of photos; the faces in them are cut out and kept in --out")
    add("--out", type=Path, required=True, help="folder for weights, log and samples; a run found there is resumed")
    add("--configuration", default="posefr-256", choices=sorted(CONFIGURATIONS), help="of a network that starts at "
        "random; one of --weights keeps its widths, takes only size and parts (default: %(default)s)")  # fmt: skip
    add("--size", type=_sizes, default=(), help="train at this size in px, or at one after the other: 128,256 shares "
        "the budget between them and grows the network (default: the configuration's)")  # fmt: skip
    add("--weights", type=Path, help="checkpoint to start from; a smaller one is grown")
    add("--prior", type=Path, help="prior of stage 1, taken up at the start")
    add("--identity", type=Path, help="MobileFaceNet checkpoint (.pt) for the identity loss")
    add("--shard-mib", type=float, default=0, help="write the weights as files of at most so many MiB")
    add("--device", default=default_device().type)
    add("--note", default="", help="goes into the checkpoint's provenance")
    add_options(parser, Recipe)


def _sizes(text: str) -> tuple[int, ...]:
    sizes = tuple(int(part) for part in text.split(","))
    if list(sizes) != sorted(set(sizes)):
        raise argparse.ArgumentTypeError("sizes must rise")
    return sizes


def run(args: argparse.Namespace) -> int:
    """Train and say where the weights are."""
    config = CONFIGURATIONS[args.configuration]
    recipe = from_options(args, Recipe)
    recipe.check()
    identity = IdentityLoss.load(args.identity) if args.identity else None
    sizes = args.size or (config.size,)
    left = _left(sizes, args.out)
    recipe = replace(recipe, minutes=recipe.minutes / len(left), steps=-(-recipe.steps // len(left)))
    processes = Processes.start(args.device)
    weights, prior_from = args.weights, 4
    started = [origin(path) for path in (args.weights, args.prior) if path is not None]
    grown = [f"sizes {' and '.join(map(str, sizes))}, the figures are the last one's"] if len(sizes) > 1 else []
    note = ", ".join([*started, *grown, *([args.note] if args.note else [])])
    for size in left:
        torch.manual_seed(args.seed)
        network = start_network(config.at(size), weights, args.prior, prior_from)
        crops = processes.in_turn(
            lambda size=size: load_crops(  # type: ignore[misc]
                args.faces, size, args.out / f"faces-{size}.npz", device=processes.device
            )
        )
        try:
            weights = train(network, crops, recipe, args.out, processes, note, identity, args.shard_mib)
        except KeyboardInterrupt:  # a run that is stopped leaves weights too
            _describe(written_path(args.out / "network.safetensors"), args.faces, len(crops), processes)
            raise
        _describe(weights, args.faces, len(crops), processes)
        prior_from = 2 * size
    if processes.first:
        logging.getLogger(__name__).info("Weights: %s", weights)
    processes.stop()
    return 0


def _describe(weights: Path, faces: Path, count: int, processes: Processes) -> None:
    """Write the card of the weights that a run left, if it left any."""
    if processes.first and weights.exists():
        provenance = json.loads(read_metadata(weights)["provenance"])
        write_card(weights, faces, count, provenance, weights.with_name("log.jsonl"), processes)


def _left(sizes: tuple[int, ...], out: Path) -> tuple[int, ...]:
    """The sizes from the one on at which the run in `out` stopped."""
    state = out / "state.pt"
    if not state.exists():
        return sizes
    reached = torch.load(state, map_location="cpu", weights_only=True, mmap=True)["size"]
    if reached not in sizes:
        raise PoseFRError(
            f"{out} holds a run for {reached} px, and this one is for {', '.join(map(str, sizes))} px; choose another "
            f"--out. Its weights are a start for larger sizes (--weights)."
        )
    return tuple(size for size in sizes if size >= reached)
