"""PoseFR finds every face in images, aligns it, restores it with its own network and pastes it back.

Images are float tensors [B, H, W, 3], values 0..1, on any device. The names below are loaded on first use, so that
importing the package costs next to nothing.

Example:
    detector = posefr.load_detector("bundled")
    restorer = posefr.load_restorer("posefr-256")
    out = posefr.restore_images(images, detector=detector, restorer=restorer)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .compositing import paste_faces
    from .cuts import find_cuts
    from .detection import load_detector
    from .errors import PoseFRError
    from .faces import Faces
    from .geometry import crop_faces
    from .parsing import load_parser
    from .pipeline import restore_images, restore_video
    from .restoration import load_restorer
    from .selection import select_faces
    from .sharpness import face_sharpness
    from .steadying import steady_restored
    from .tracking import smooth_faces, track_faces

__version__ = "0.1.0"

__all__ = [
    "Faces",
    "PoseFRError",
    "__version__",
    "crop_faces",
    "face_sharpness",
    "find_cuts",
    "load_detector",
    "load_parser",
    "load_restorer",
    "paste_faces",
    "restore_images",
    "restore_video",
    "select_faces",
    "smooth_faces",
    "steady_restored",
    "track_faces",
]

_HOME = {
    "Faces": "faces",
    "PoseFRError": "errors",
    "crop_faces": "geometry",
    "face_sharpness": "sharpness",
    "find_cuts": "cuts",
    "load_detector": "detection",
    "load_parser": "parsing",
    "load_restorer": "restoration",
    "paste_faces": "compositing",
    "restore_images": "pipeline",
    "restore_video": "pipeline",
    "select_faces": "selection",
    "smooth_faces": "tracking",
    "steady_restored": "steadying",
    "track_faces": "tracking",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
