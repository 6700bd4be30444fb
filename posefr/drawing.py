"""Pictures for people: faces marked on an image, images beside each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

import torch

from .faces import Faces
from .report import face_records

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

__all__ = ["compare", "draw_faces"]

_COLOURS = ((255, 80, 60), (60, 200, 90), (70, 140, 255), (250, 190, 40), (210, 90, 230), (50, 210, 220))
_COLUMN = 480  # px, the width of a column of a comparison
_TITLE = 34  # px
_GAP = 6  # px


def draw_faces(
    images: Tensor,
    faces: Faces,
    *,
    numbers: Sequence[int] | None = None,
    on_image: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Mark each face with its box, landmarks, index, score, yaw and track; pixels beside the marks stay as they are.

    The indices count per image in the set's order, as `face_records` does: after `select_faces(faces, order=...)` they
    are those that `select_faces` picks by with the same order. A yaw or track that is unknown is left out. A track
    keeps its colour over the images.

    Args:
        images: [B, H, W, 3] float, 0..1.
        faces: faces in these images.
        numbers: one for each face, in the place of its index.
        on_image: called with images done and images in all, of those that have faces; may raise to stop.
    """
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    marked = images.clone()
    height, width = images.shape[1:3]
    line = max(1, round(max(height, width) / 400))
    font = ImageFont.load_default(size=max(10, 7 * line))
    records = sorted(face_records(faces, numbers), key=itemgetter("frame"))
    frames = [(frame, list(group)) for frame, group in groupby(records, itemgetter("frame"))]
    for done, (frame, group) in enumerate(frames, 1):
        layer = Image.new("RGBA", (width, height))
        pen = ImageDraw.Draw(layer)
        for record in group:
            number = record["index"] if record["track"] is None else record["track"]
            colour = _COLOURS[number % len(_COLOURS)]
            # Pillow names a pixel by its index: the one whose centre is at (x + 0.5, y + 0.5).
            x0, y0, x1, y1 = (v - 0.5 for v in record["box"])
            pen.rectangle((x0, y0, max(x0, x1), max(y0, y1)), outline=colour, width=line)
            for x, y in record["landmarks"]:
                pen.ellipse((x - 0.5 - line, y - 0.5 - line, x - 0.5 + line, y - 0.5 + line), fill=colour)
            label = f"{record['index']}: {record['score']:.2f}"
            if record["yaw"] is not None:
                label += f" yaw {record['yaw']:.0f}"
            if record["track"] is not None:
                label += f" track {record['track']}"
            left, top, right, bottom = pen.textbbox((x0, y0), label, font=font, anchor="lb")
            down = max(0.0, line - top)  # a box at the upper edge has its label inside
            across = max(line - left, min(0.0, width - line - right))  # and so at either side, from the left if need be
            left, top, right, bottom = left + across, top + down, right + across, bottom + down
            pen.rectangle((left - line, top - line, right + line, bottom + line), fill=colour)
            pen.text((x0 + across, y0 + down), label, font=font, anchor="lb", fill=(0, 0, 0))
        if area := layer.getbbox():  # all may lie outside the image
            x0, y0, x1, y1 = area
            marks = torch.from_numpy(np.asarray(layer.crop(area), np.float32) / 255).to(images)
            colour_layer, cover = marks[..., :3], marks[..., 3:]
            below = images[frame, y0:y1, x0:x1]
            marked[frame, y0:y1, x0:x1] = torch.where(cover > 0, colour_layer * cover + below * (1 - cover), below)
        if on_image is not None:
            on_image(done, len(frames))
    return marked


def compare(columns: Sequence[tuple[str, Tensor]], faces: Faces, most: int = 3) -> Tensor:
    """Versions of one image beside each other, each under its title, and below them their largest faces enlarged.

    Args:
        columns: (title, image) pairs; the images are [1, H, W, 3] float 0..1, all of one size.
        faces: the faces of the image.
        most: the number of faces to show at most.

    Returns [1, H', W', 3] float32, 0..1.
    """
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    pictures = [_to_pillow(image) for _, image in columns]
    width, height = pictures[0].size
    # Squares around the faces, twice their size; boxes reach beyond the image, which Pillow fills with black.
    areas = [(0.0, 0.0, float(width), float(height))]
    for i in faces.size.argsort(descending=True)[:most].tolist():
        x0, y0, x1, y1 = faces.box[i].tolist()
        x, y, half = (x0 + x1) / 2, (y0 + y1) / 2, float(faces.size[i])
        areas.append((x - half, y - half, x + half, y + half))
    heights = [round(_COLUMN * (y1 - y0) / (x1 - x0)) for x0, y0, x1, y1 in areas]
    sheet = Image.new(
        "RGB",
        (len(columns) * (_COLUMN + _GAP) + _GAP, _TITLE + sum(h + _GAP for h in heights)),
        (24, 24, 24),
    )
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=18)
    for column, ((title, _), picture) in enumerate(zip(columns, pictures, strict=True)):
        left, top = _GAP + column * (_COLUMN + _GAP), _TITLE
        pen.text((left, _TITLE // 2), title, font=font, anchor="lm", fill=(240, 240, 240))
        for area, tall in zip(areas, heights, strict=True):
            cut = picture.crop(tuple(round(v) for v in area))  # type: ignore[arg-type]
            sheet.paste(cut.resize((_COLUMN, max(1, tall)), Image.Resampling.BICUBIC), (left, top))
            top += tall + _GAP
    return torch.from_numpy(np.asarray(sheet, np.float32) / 255).unsqueeze(0)


def _to_pillow(image: Tensor) -> Image.Image:
    from PIL import Image

    return Image.fromarray((image[0].detach().cpu().float().clamp(0, 1) * 255).round().byte().numpy())
