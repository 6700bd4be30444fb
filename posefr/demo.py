"""`posefr demo`: one photo restored with what is bundled, and a picture that shows it beside its input."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

from .errors import PoseFRError
from .imagefiles import Picture, read_picture, write_picture

__all__ = ["make_worse", "run_demo"]

_SHRINK = 2
_NOISE = 20  # standard deviation, of 255
_JPEG_QUALITY = 60
_MADE_WORSE = f"shrunk {_SHRINK} times, noise of {_NOISE}/255, JPEG {_JPEG_QUALITY}, enlarged"


def run_demo(photo: Path | None, folder: Path) -> bool:
    """Restore a photo into `folder` and print where the pictures lie. Returns whether a face was found.

    Args:
        photo: a file, restored as it is; None for scikit-image's astronaut, which is first made worse.
        folder: made if missing; files of the same names are replaced.

    Raises PoseFRError if the photo cannot be read, the folder not written, or scikit-image is missing.
    """
    from .detection import load_detector
    from .drawing import compare
    from .pipeline import restore_report
    from .report import plural
    from .restoration import load_restorer

    if photo is None:
        original = _astronaut()
        picture, name = make_worse(original), "astronaut"
        print(f"The photo is scikit-image's astronaut. It needs no restoring, so it was made worse: {_MADE_WORSE}.")
        columns = [("original", original.image), (f"input: {_MADE_WORSE}", picture.image)]
    else:
        picture, name = read_picture(photo), photo.stem
        columns = [("input", picture.image)]
    result = restore_report(picture.image, detector=load_detector("bundled"), restorer=load_restorer("posefr-256"))
    if len(result.faces) == 0:
        print(f"No face was found in {photo or name}; nothing was written.")
        return False
    columns.append(("restored", result.images))
    written = {"the result": (f"{name}-restored.png", picture.with_image(result.images))}
    if photo is None:
        written["the input"] = (f"{name}-input.png", picture)
    sheet = Picture(
        (compare(columns, result.faces)[0] * 255).round().byte().numpy(), None if picture.is_grey else picture.icc
    )
    written["before and after"] = (f"{name}-before-after.png", sheet)
    print(f"{plural(len(result.faces), 'face')} restored.")
    for what, (file, content) in written.items():
        write_picture(folder / file, content)
        print(f"{what}: {(folder / file).resolve()}")
    return True


def _astronaut() -> Picture:
    try:
        from skimage import data
    except ImportError as error:
        raise PoseFRError(
            "The demo's photo comes with scikit-image, which is not installed; run `pip install scikit-image` or name "
            "a photo: posefr demo PHOTO."
        ) from error
    return Picture(data.astronaut())


def make_worse(picture: Picture) -> Picture:
    """An 8-bit RGB picture shrunk, with noise, stored as JPEG and enlarged to its size again; always the same way."""
    import numpy as np
    from PIL import Image

    image = Image.fromarray(picture.pixels)
    small = image.resize((image.width // _SHRINK, image.height // _SHRINK), Image.Resampling.LANCZOS)
    noisy = np.random.default_rng(0).normal(np.asarray(small), _NOISE)
    stream = io.BytesIO()
    Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=_JPEG_QUALITY)
    with Image.open(stream) as stored:
        return replace(picture, pixels=np.asarray(stored.resize(image.size, Image.Resampling.BICUBIC)))
