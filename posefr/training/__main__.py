"""`python -m posefr.training`: train a restorer on a folder of photos.

Without a command: codec and prior together, or fine-tuning. Commands, each with --help of its own:
"""

from __future__ import annotations

import argparse
import importlib
import logging
import signal
import sys
from collections.abc import Sequence

from ..errors import PoseFRError

_COMMANDS = {
    "restorer": ("restorer", "what is done without a command"),
    "prior": ("prior_trainer", "stage 1: the StyleGAN2 prior alone"),
    "preview": ("preview", "draw the degradation: each part of it, and whole draws"),
    "convert": ("convert", "take a StyleGAN2 generator (.pt with g_ema) as prior"),
    "average": ("average", "average the weights of a run and of what it started from"),
    "join": ("join", "join weights that were written as shards"),
    "ablation": ("ablation", "compare parts of the network and the recipe in short equal runs"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    name = arguments.pop(0) if arguments and arguments[0] in _COMMANDS else "restorer"
    module = importlib.import_module(f".{_COMMANDS[name][0]}", __package__)
    listing = "\n".join(f"  {command:10} {text}" for command, (_, text) in _COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="python -m posefr.training" + ("" if name == "restorer" else f" {name}"),
        description=(__doc__ or "") + listing if name == "restorer" else module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        status: int = module.run(args)
    except PoseFRError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        goes_on = "; the same command goes on from what was saved last" if name in ("restorer", "prior") else ""
        print(f"stopped{goes_on}", file=sys.stderr)
        return 130
    return status


if __name__ == "__main__":
    for name in ("SIGTERM", "SIGHUP"):  # a task that is ended or a terminal that is closed stops a run as Ctrl+C does
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)
    sys.exit(main())
