"""What a folder of photos tells of them in its manifest.csv."""

from __future__ import annotations

import csv
from pathlib import Path

from ..errors import PoseFRError

__all__ = ["LANDMARKS", "read_manifest"]

LANDMARKS = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")  # columns NAME_x and NAME_y, px


def read_manifest(folder: Path, required: bool = False) -> list[dict[str, str]]:
    """The rows of `manifest.csv` in a folder; none where there is no such file and none is required.

    Raises:
        PoseFRError: it is required and absent, or in another encoding than UTF-8.
    """
    path = folder / "manifest.csv"
    if not path.is_file():
        if required:
            raise PoseFRError(f"{folder} has no manifest.csv; give the folder of face photos that holds one.")
        return []
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:  # spreadsheets write a byte order mark
            return list(csv.DictReader(lines))
    except UnicodeDecodeError:
        raise PoseFRError(f"{path} is not in UTF-8; save it as CSV in UTF-8.") from None
