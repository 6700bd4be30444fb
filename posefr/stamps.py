"""What changes when a file does, so that what was made of it is made anew."""

from __future__ import annotations

from pathlib import Path

__all__ = ["Stamp", "stamp_of"]

Stamp = tuple[int, int]


def stamp_of(path: Path | None) -> Stamp | None:
    """A file's size in bytes and time of change in ns; None if there is none."""
    try:
        status = None if path is None else path.stat()
    except (OSError, ValueError):  # unlike is_file, also for a name that no system takes
        return None
    return None if status is None else (status.st_size, status.st_mtime_ns)
