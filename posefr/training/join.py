"""Joins weights that were written as shards (--shard-mib) into one file. Loading needs no joining."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import PoseFRError
from ..restoration.checkpoint import read_metadata
from ..restoration.shards import read_tensors, shard_base
from ..weightfiles import write_safetensors

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m posefr.training join`."""
    parser.add_argument(
        "shard", type=Path, help="one of the shards, NAME-00001-of-00003.safetensors; all lie beside it"
    )
    parser.add_argument("-o", "--output", type=Path, help="file to write (default: NAME.safetensors beside them)")


def run(args: argparse.Namespace) -> int:
    """Join and say where."""
    found = shard_base(args.shard)
    if found is None:
        raise PoseFRError(f"{args.shard.name} is not called as a shard is, NAME-00001-of-00003.safetensors.")
    output: Path = args.output or args.shard.with_name(found[0])
    metadata = read_metadata(args.shard)
    write_safetensors(read_tensors(args.shard), metadata, output)
    print(output)
    return 0
