"""Faces as JSON-ready records."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .faces import Faces

__all__ = ["face_records"]


def face_records(faces: Faces) -> list[dict[str, Any]]:
    """One dictionary per face, in the set's order.

    Keys: `index` (counted per frame, from 0), `frame`, `box` (x0 y0 x1 y1, px), `landmarks` (five x y, px), `size` (px)
    and `score` (0..1), `yaw`, `pitch`, `roll` (degrees, None where unknown), `track` (None where unknown).
    """
    counts: dict[int, int] = {}
    records = []
    for face, size in zip(faces.to_list(), faces.size.tolist(), strict=True):
        index = counts.get(face.frame, 0)
        counts[face.frame] = index + 1
        records.append(
            {
                "index": index,
                "frame": face.frame,
                "box": [round(v, 2) for v in face.box],
                "landmarks": [[round(x, 2), round(y, 2)] for x, y in face.landmarks],
                "size": round(size, 2),
                "score": round(face.score, 4),
                "yaw": _known(face.yaw),
                "pitch": _known(face.pitch),
                "roll": _known(face.roll),
                "track": face.track if face.track >= 0 else None,
            }
        )
    return records


def _known(degrees: float) -> float | None:
    return round(degrees, 2) if math.isfinite(degrees) else None
