"""`python -m posefr.evaluation`: measure detectors, poses, restorers and videos on held-out data, and draw it."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from ..errors import PoseFRError
from . import detector, photos, pose, restore, video

_COMMANDS = {"restore": restore, "photos": photos, "video": video, "detector": detector, "pose": pose}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m posefr.evaluation", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, module in _COMMANDS.items():
        command = commands.add_parser(name, help=(module.__doc__ or "").split("\n")[0])
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        status: int = args.run(args)
    except PoseFRError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
