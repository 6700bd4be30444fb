"""Options that several evaluations have."""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["SHARED", "add_input"]

SHARED = Path(__file__).resolve().parents[2].parent / "shared"  # data and networks that may lie beside a checkout


def add_input(parser: argparse.ArgumentParser, name: str, default: Path, text: str) -> None:
    """An option for a file or folder: the default where there is such a one, else it has to be named."""
    if default.exists():
        parser.add_argument(name, type=Path, default=default, help=f"{text} (default: %(default)s)")
    else:
        parser.add_argument(name, type=Path, required=True, help=text)
