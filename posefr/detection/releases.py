"""Where detector weights come from: the host's folders, what is bundled, and the public releases.

detection_Resnet50_Final.pth and detection_mobilenet0.25_Final.pth are assets of facexlib's release v0.1.0. Both SHA-256
are the ones that a public Arch Linux package of facexlib 0.2.5 pins for these very addresses; the small file's, and its
size, are also those that public mirrors give for Pytorch_Retinaface's mobilenet0.25_Final.pth.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ..errors import PoseFRError
from ..stamps import Stamp

__all__ = [
    "BUNDLED",
    "RELEASES",
    "SECOND_LOOK",
    "SUFFIXES",
    "Release",
    "cache_folder",
    "download",
    "find_file",
    "names_in",
]

BUNDLED = Path(__file__).resolve().parents[1] / "weights" / "detector.safetensors"
SECOND_LOOK = BUNDLED.with_name("second_look.safetensors")
SUFFIXES = (".safetensors", ".pth", ".pt")  # of files with weights
_CHUNK = 1 << 18
_TIMEOUT = 30.0
_DATE = 1_640_995_200  # s; the time of change of every file that was fetched: 2022, when they were long published


@dataclass(frozen=True)
class Release:
    """A public file: its architecture, other names under which users have it, address, size in bytes and SHA-256."""

    architecture: str
    files: tuple[str, ...]
    url: str
    size: int
    sha256: str

    @property
    def stamp(self) -> Stamp:
        """Of the file that `download` puts there: so a host that asks before and after it takes both for the same."""
        return self.size, _DATE * 10**9


_FACEXLIB = "https://github.com/xinntao/facexlib/releases/download/v0.1.0/"
RELEASES = {
    "mobile0.25": Release(
        "mobile0.25",
        ("detection_mobilenet0.25_Final.pth", "mobilenet0.25_Final.pth", "retinaface_mobile0.25.pth"),
        _FACEXLIB + "detection_mobilenet0.25_Final.pth",
        1_789_735,
        "2979b33ffafda5d74b6948cd7a5b9a7a62f62b949cef24e95fd15d2883a65220",
    ),
    "resnet50": Release(
        "resnet50",
        ("detection_Resnet50_Final.pth", "Resnet50_Final.pth", "retinaface_resnet50.pth"),
        _FACEXLIB + "detection_Resnet50_Final.pth",
        109_497_761,
        "6d1de9c2944f2ccddca5f5e010ea5ae64a39845a86311af6fdf30841b0a5a16d",
    ),
}


def cache_folder() -> Path:
    """The user's own folder for fetched weights, where no host names one. It is not made here."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = str(Path.home() / "Library" / "Caches")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "posefr"


def find_file(name: str, folders: Sequence[Path]) -> Path | None:
    """The file of a public release, or of that very name, in the first of the folders that has it."""
    candidates = RELEASES[name].files if name in RELEASES else (name,)
    for folder in folders:
        for file in candidates:
            if os.path.isfile(Path(folder) / file):
                return Path(folder) / file
    return None


def names_in(folders: Sequence[Path]) -> list[str]:
    """The files in the folders that have RetinaFace in their name and are none of the releases."""
    released = {file for release in RELEASES.values() for file in release.files}
    files = {name for folder in folders for _, _, names in islice(os.walk(folder), 1) for name in names}
    return sorted(
        name for name in files - released if Path(name).suffix.lower() in SUFFIXES and "retinaface" in name.lower()
    )


def download(release: Release, folder: Path, progress: Callable[[int, int], None] | None = None) -> Path:
    """Fetch a release into a folder; the file appears there whole and checked, or not at all.

    Args:
        release: what to fetch.
        folder: where to; made if absent.
        progress: called with bytes done and bytes in all; may raise to stop.

    Raises:
        PoseFRError: no connection, no space, or another file than the one expected.
    """
    target = Path(folder) / release.files[0]
    by_hand = f"fetch {release.url} by hand and put it into {folder}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=target.name, suffix=".part", dir=target.parent)
    except OSError as error:
        raise PoseFRError(f"{folder} cannot be written to ({error}); {by_hand}.") from error
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            size, digest = _receive(release, file.write, progress)
        if (size, digest) != (release.size, release.sha256):
            raise PoseFRError(
                f"{release.url} gave {size:,} bytes with SHA-256 {digest}, expected were {release.size:,} bytes with "
                f"{release.sha256}; nothing was kept, try again later or {by_hand}."
            )
        partial.chmod(0o644)
        os.utime(partial, (_DATE, _DATE))
        partial.replace(target)
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        raise PoseFRError(f"{release.url} could not be fetched ({error}); {by_hand}.") from error
    finally:
        partial.unlink(missing_ok=True)
    return target


def _receive(
    release: Release, write: Callable[[bytes], object], progress: Callable[[int, int], None] | None
) -> tuple[int, str]:
    """Copy the response, at most one chunk more than expected; the size and SHA-256 of what came."""
    digest, size = hashlib.sha256(), 0
    request = urllib.request.Request(release.url, headers={"User-Agent": "posefr"})
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
        while size <= release.size and (chunk := response.read(_CHUNK)):
            write(chunk)
            digest.update(chunk)
            size += len(chunk)
            if progress is not None:
                progress(min(size, release.size), release.size)
    return size, digest.hexdigest()
