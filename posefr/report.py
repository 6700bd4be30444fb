"""What is told of faces: JSON-ready records, and counts in words."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from .faces import Faces

__all__ = ["face_records", "faces_report", "plural"]


def plural(count: int, noun: str, nouns: str = "") -> str:
    """A count with its noun: 1 face, 2 faces; `nouns` where it takes more than an s."""
    return f"{count} {noun if count == 1 else nouns or noun + 's'}"


def face_records(faces: Faces, numbers: Sequence[int] | None = None) -> list[dict[str, Any]]:
    """One dictionary per face, in the set's order.

    Keys: `index` (from `numbers`, one for each face; without them counted per frame, from 0), `frame`, `box` (x0 y0 x1
    y1, px), `landmarks` (five x y, px), `size` (px) and `score` (0..1), `yaw`, `pitch`, `roll` (degrees, None where
    unknown), `track` (None where unknown).
    """
    counts: dict[int, int] = {}
    records = []
    for i, (face, size) in enumerate(zip(faces.to_list(), faces.size.tolist(), strict=True)):
        place = counts.get(face.frame, 0)
        counts[face.frame] = place + 1
        records.append(
            {
                "index": place if numbers is None else numbers[i],
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


def faces_report(faces: Faces, sharpness: Tensor | None = None) -> dict[str, Any]:
    """All that is known of a set of faces, ready for JSON.

    Args:
        faces: the set.
        sharpness: [N], of `face_sharpness`; each record then has a `sharpness` (per cent, None where it is none).

    Returns:
        `frames`, `width` and `height` (px) of the images, `count` of the faces, `per_frame` (the count in each image),
        `tracks` (those among the faces) and `faces` (`face_records`).
    """
    records = face_records(faces)
    if sharpness is not None:
        for record, value in zip(records, sharpness.tolist(), strict=True):
            record["sharpness"] = _known(value)
    per_frame = [0] * faces.frames
    for record in records:
        per_frame[record["frame"]] += 1
    return {
        "frames": faces.frames,
        "width": faces.image_size[1],
        "height": faces.image_size[0],
        "count": len(records),
        "per_frame": per_frame,
        "tracks": sorted({r["track"] for r in records if r["track"] is not None}),
        "faces": records,
    }


def _known(value: float) -> float | None:
    return round(value, 2) if math.isfinite(value) else None
