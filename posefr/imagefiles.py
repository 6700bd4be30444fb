"""Image files in and out: png, jpg, webp, bmp and tiff, with depth, alpha, grey and colour profile kept.

Pillow handles 8 bits per sample and narrows colour of 16 bits without a word. So OpenCV decodes 16-bit PNG and TIFF and
encodes 16-bit PNG; 16-bit TIFF is encoded here, because OpenCV's carries no alpha tag.
"""

from __future__ import annotations

import io
import logging
import os
import struct
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from .errors import PoseFRError, brief

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image
    from torch import Tensor

__all__ = [
    "SUFFIXES",
    "Picture",
    "atomic_file",
    "check_suffix",
    "is_stream",
    "picture_files",
    "read_picture",
    "readable",
    "write_picture",
]

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
_EXIF_ORIENTATION = 0x0112
_TIFF_BITS_PER_SAMPLE = 258
_TIFF_PHOTOMETRIC = 262
_TIFF_SAMPLE_FORMAT = 339
_TIFF_PLANAR_CONFIGURATION = 284
_TIFF_EXTRA_SAMPLES = 338
_PNG_GREY_ALPHA = 4  # a colour type in IHDR
_MOST_PIXELS = 2**30  # OpenCV's limit, too
# Rec. 601 luma, which Pillow uses for its grey too.
_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Picture:
    """One still image as its file holds it.

    Attributes:
        pixels: [H, W, C] uint8 or uint16, upright; C is 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha).
        icc: the colour profile that describes the pixels, or None.
    """

    pixels: np.ndarray
    icc: bytes | None = None

    @property
    def has_alpha(self) -> bool:
        return self.pixels.shape[2] in (2, 4)

    @property
    def is_grey(self) -> bool:
        return self.pixels.shape[2] < 3

    @property
    def bits(self) -> int:
        """Bits per sample, 8 or 16."""
        return 8 * self.pixels.dtype.itemsize

    @property
    def image(self) -> Tensor:
        """The colour as float32 [1, H, W, 3], 0..1; grey is repeated, alpha left out."""
        import numpy as np
        import torch

        colour = self.pixels[..., :1].repeat(3, axis=2) if self.is_grey else self.pixels[..., :3]
        return torch.from_numpy(colour.astype(np.float32) / np.float32(2**self.bits - 1)).unsqueeze(0)

    def with_image(self, image: Tensor) -> Picture:
        """This picture with the colour of `image` (float [1, H, W, 3], 0..1) in its own depth; alpha and grey stay."""
        import numpy as np

        top = 2**self.bits - 1
        colour = image[0].detach().cpu().float().clamp(0, 1).numpy()
        if self.is_grey:
            colour = (colour @ np.asarray(_LUMA, np.float32))[..., None]
        colour = (colour * np.float32(top)).round().astype(self.pixels.dtype)
        alpha = self.pixels[..., -1:] if self.has_alpha else self.pixels[..., :0]
        return replace(self, pixels=np.concatenate([colour, alpha], axis=2))


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Write a file whole or not at all: a temporary file beside it takes its place at the end of the block.

    A link stays one, and the file that it leads to is written. A pipe or a device is written to as it is.

    Raises PoseFRError if the folder cannot be written or the disk is full.
    """
    temporary = None
    try:
        if is_stream(path):
            with path.open("wb") as file:
                yield file
            return
        target = Path(os.path.realpath(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=".posefr-", suffix=".part", dir=target.parent)
        with os.fdopen(descriptor, "wb") as file:
            yield file
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
        temporary = None
    except OSError as error:
        raise PoseFRError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def is_stream(path: Path) -> bool:
    """Whether the path names a pipe, a device or the like, which no file may take the place of."""
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def read_picture(path: Path) -> Picture:
    """Read a still image, turned upright as its EXIF orientation says.

    Raises PoseFRError if the file is missing, truncated, of another format, has several pages or frames, or holds
    samples that are not whole numbers of at most 16 bits.
    """
    from PIL import UnidentifiedImageError

    try:
        data = path.read_bytes()
    except OSError as error:
        raise PoseFRError(f"{path} cannot be read: {error.strerror or error}.") from error
    try:
        return _decode(data, str(path))
    except PoseFRError:
        raise
    except Exception as error:  # Pillow's decoders raise many types on damaged files
        reason = "unknown format" if isinstance(error, UnidentifiedImageError) else brief(error)
        raise PoseFRError(
            f"{path} is not an image that can be read ({reason}); expected a whole png, jpg, webp, bmp or tiff file."
        ) from error


def picture_files(folder: Path, nested: bool = False) -> list[Path]:
    """The picture files of a folder, sorted, with `nested` those of its sub-folders too; hidden ones are left out.

    A folder that is not there has none. A sub-folder that cannot be read is logged and left out. Raises PoseFRError if
    the folder itself cannot be read.
    """

    def tell(error: OSError) -> None:
        if isinstance(error, FileNotFoundError):
            return
        said = f"The folder {error.filename} cannot be read: {error.strerror}."
        if error.filename == os.fspath(folder):
            raise PoseFRError(said) from error
        logging.getLogger(__name__).warning("left out: %s", said)

    found = []
    for root, inside, names in os.walk(folder, onerror=tell):
        inside[:] = [name for name in inside if nested and not name.startswith(".")]
        found += [Path(root, name) for name in names if not name.startswith(".")]
    return sorted(path for path in found if path.suffix.lower() in SUFFIXES and os.path.isfile(path))


def readable(paths: Iterable[Path]) -> Iterator[tuple[Path, Tensor]]:
    """Each path with its picture's colour, float32 [1, H, W, 3] in 0..1; what cannot be read is logged and left out."""
    for path in paths:
        try:
            picture = read_picture(path)
        except PoseFRError as error:
            logging.getLogger(__name__).warning("left out: %s", error)
            continue
        yield path, picture.image


def _decode(data: bytes, name: str) -> Picture:
    import warnings

    from PIL import Image

    if not data:
        raise PoseFRError(f"{name} is empty; expected a png, jpg, webp, bmp or tiff file.")
    usual = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        # Pillow warns of scans above 89 Mpx and of damage that it then raises for, and refuses what a phone of 200 Mpx
        # takes.
        warnings.simplefilter("ignore")
        Image.MAX_IMAGE_PIXELS = _MOST_PIXELS // 2
        try:
            return _decode_quietly(data, name)
        finally:
            Image.MAX_IMAGE_PIXELS = usual


def _decode_quietly(data: bytes, name: str) -> Picture:
    import numpy as np
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format != "MPO":  # an MPO is a camera's JPEG with a second view behind the first
            raise PoseFRError(f"{name} holds {frames} pages or frames; expected one: split it into files first.")
        deep = _is_deep(image, data, name)
        # Also for 16 bits: Pillow notices a truncated file, OpenCV fills the rest with black.
        image.load()
        orientation = _orientation(image)
        icc = image.info.get("icc_profile")
        pixels = _decode_16(data) if deep else np.asarray(_plain(image))
        if deep and image.format == "PNG" and data[25] == _PNG_GREY_ALPHA:  # OpenCV makes three colours of its grey
            pixels = pixels[..., ::3]
        if pixels.ndim == 2:
            pixels = pixels[..., None]
        if deep and image.format == "TIFF":
            tags: Any = image.tag_v2  # type: ignore[attr-defined]
            if tags.get(_TIFF_PHOTOMETRIC) == 0:  # white is 0, which OpenCV does not heed
                pixels[..., :1] = 65535 - pixels[..., :1]
            if 1 in tags.get(_TIFF_EXTRA_SAMPLES, ()):
                pixels = _straight(pixels)
    space = b"GRAY" if pixels.shape[2] < 3 else b"RGB "
    if not icc or icc[16:20] != space:
        icc = None  # of another colour space, CMYK for one: it does not describe these pixels
    return Picture(np.ascontiguousarray(_upright(pixels, orientation)), icc)


def _orientation(image: Image.Image) -> int:
    """1 where the picture stands upright or nothing tells: damaged EXIF, which Pillow raises for, hides no pixels."""
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:
        return 1


def _is_deep(image: Image.Image, data: bytes, name: str) -> bool:
    """Whether the samples have 16 bits. Raises PoseFRError if they are of more, or of 9 to 15, or no whole numbers."""
    if image.format == "PNG":
        return data[24] == 16  # the bit depth in IHDR
    if image.format != "TIFF":
        return False
    tags: Any = image.tag_v2  # type: ignore[attr-defined]
    bits = max(tags.get(_TIFF_BITS_PER_SAMPLE, (1,)))
    kind = max(tags.get(_TIFF_SAMPLE_FORMAT, (1,)))
    if bits > 16 or 8 < bits < 16 or kind != 1:
        word = {2: "signed", 3: "floating point"}.get(kind, "unsigned")
        raise PoseFRError(f"{name} holds {word} samples of {bits} bits; expected unsigned ones of 8 or 16.")
    if bits == 16 and len(image.getbands()) > 1 and tags.get(_TIFF_PLANAR_CONFIGURATION, 1) == 2:
        # OpenCV 5.0 reads them as garbage and says nothing.
        raise PoseFRError(f"{name} holds its 16-bit colours in separate planes; save it with them side by side.")
    return bits == 16


def _straight(pixels: np.ndarray) -> np.ndarray:
    """16-bit colours that were multiplied by their alpha, without it."""
    import numpy as np

    alpha = pixels[..., -1:].astype(np.float64)
    colours = pixels[..., :-1].astype(np.float64) * 65535 / np.maximum(alpha, 1)
    return np.concatenate([np.minimum(colours.round(), 65535).astype(np.uint16), pixels[..., -1:]], -1)


def _plain(image: Image.Image) -> Image.Image:
    """A decoded image as L, LA, RGB or RGBA."""
    alpha = image.has_transparency_data
    if image.mode in ("1", "L", "LA", "La"):
        return image.convert("LA" if alpha else "L")
    return image.convert("RGBA" if alpha else "RGB")


def _decode_16(data: bytes) -> np.ndarray:
    import cv2
    import numpy as np

    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        raise ValueError("its 16-bit samples could not be decoded")
    if pixels.ndim == 2 or pixels.shape[2] < 3:
        return pixels
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB if pixels.shape[2] == 3 else cv2.COLOR_BGRA2RGBA)


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation, 1..8 (Exif 2.32, tag 0x0112); an unknown value counts as 1."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def write_picture(path: Path, picture: Picture, quality: int = 95) -> list[str]:
    """Write a picture whole or not at all, in the format of the path's suffix.

    Args:
        path: ends in one of SUFFIXES; missing folders are made.
        quality: 1..100, for jpg and webp; webp is lossless at 100.

    Returns what the format could not hold, as words for a report: "alpha", "16 bits", "colour profile", or nothing.

    Raises PoseFRError for another suffix, an image that the format cannot hold, or a file that cannot be written.
    """
    check_suffix(path)
    suffix, lost = path.suffix.lower(), []
    if picture.has_alpha and suffix in (".jpg", ".jpeg", ".bmp"):
        picture, lost = replace(picture, pixels=picture.pixels[..., :-1]), ["alpha"]
    if picture.bits == 16 and suffix not in (".png", ".tif", ".tiff"):
        picture = replace(picture, pixels=((picture.pixels.astype("uint32") + 128) // 257).astype("uint8"))
        lost.append("16 bits")
    as_colour = suffix == ".webp" or (picture.bits == 16 and picture.has_alpha)  # what is grey
    if picture.icc and (suffix == ".bmp" or (picture.is_grey and as_colour)):
        picture = replace(picture, icc=None)
        lost.append("colour profile")
    try:
        data = _encode(picture, suffix, quality)
    except (OSError, ValueError) as error:
        height, width = picture.pixels.shape[:2]
        raise PoseFRError(f"An image of {width} x {height} px cannot be stored as {path.name}: {error}.") from error
    with atomic_file(path) as file:
        file.write(data)
    return lost


def check_suffix(path: Path) -> None:
    """Raise PoseFRError unless the name ends as that of a file which can be written."""
    if path.suffix.lower() not in SUFFIXES:
        raise PoseFRError(f"{path} ends in '{path.suffix}'; expected one of {', '.join(SUFFIXES)}.")


def _encode(picture: Picture, suffix: str, quality: int) -> bytes:
    if picture.bits == 16:
        if picture.pixels.shape[2] == 2:  # OpenCV neither writes nor reads grey with alpha
            picture = replace(picture, pixels=picture.pixels[..., [0, 0, 0, 1]])
        return _encode_png_16(picture) if suffix == ".png" else _encode_tiff_16(picture)
    from PIL import Image

    pixels = picture.pixels
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    options: dict[str, Any] = {"icc_profile": picture.icc} if picture.icc else {}
    if suffix in (".jpg", ".jpeg"):
        options |= {"format": "JPEG", "quality": quality, "subsampling": 0}
    elif suffix == ".webp":
        # exact: colour under full transparency stays as it is
        options |= {"format": "WEBP", "quality": quality, "lossless": quality == 100, "exact": True}
    elif suffix in (".tif", ".tiff"):
        options |= {"format": "TIFF", "compression": "tiff_adobe_deflate"}
    else:
        options |= {"format": suffix[1:].upper()}
    stream = io.BytesIO()
    image.save(stream, **options)
    return stream.getvalue()


def _encode_png_16(picture: Picture) -> bytes:
    import cv2

    pixels = picture.pixels
    if pixels.shape[2] > 1:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR if pixels.shape[2] == 3 else cv2.COLOR_RGBA2BGRA)
    done, encoded = cv2.imencode(".png", pixels)
    if not done:
        raise ValueError("OpenCV could not encode it as PNG")
    data = encoded.tobytes()
    if picture.icc is None:
        return data
    body = b"iCCP" + b"ICC profile\0\0" + zlib.compress(picture.icc)
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    after_header = 8 + 25  # signature, IHDR
    return data[:after_header] + chunk + data[after_header:]


def _encode_tiff_16(picture: Picture) -> bytes:
    """Baseline TIFF 6.0, little-endian: one deflated strip, horizontal predictor, alpha tagged as unassociated."""
    height, width, channels = picture.pixels.shape
    differences = picture.pixels.copy()
    differences[:, 1:] -= picture.pixels[:, :-1]
    strip = zlib.compress(differences.astype("<u2").tobytes())
    short, long, undefined = 3, 4, 7
    entries: list[tuple[int, int, bytes]] = [
        (256, long, struct.pack("<I", width)),
        (257, long, struct.pack("<I", height)),
        (_TIFF_BITS_PER_SAMPLE, short, struct.pack("<H", 16) * channels),
        (259, short, struct.pack("<H", 8)),  # compression: deflate
        (262, short, struct.pack("<H", 1 if picture.is_grey else 2)),  # photometric: black is zero, RGB
        (273, long, struct.pack("<I", 8)),  # the strip begins after the file's header
        (277, short, struct.pack("<H", channels)),
        (278, long, struct.pack("<I", height)),
        (279, long, struct.pack("<I", len(strip))),
        (284, short, struct.pack("<H", 1)),  # samples interleaved
        (317, short, struct.pack("<H", 2)),  # horizontal predictor
    ]
    if picture.has_alpha:
        entries.append((338, short, struct.pack("<H", 2)))
    if picture.icc:
        entries.append((34675, undefined, picture.icc))
    directory = 8 + len(strip) + len(strip) % 2
    values_at = directory + 2 + 12 * len(entries) + 4
    table, values = struct.pack("<H", len(entries)), b""
    for tag, kind, value in entries:
        count = len(value) // {short: 2, long: 4, undefined: 1}[kind]
        table += struct.pack("<HHI", tag, kind, count)
        if len(value) <= 4:
            table += value.ljust(4, b"\0")
        else:
            table += struct.pack("<I", values_at + len(values))
            values += value + b"\0" * (len(value) % 2)
    body = strip + b"\0" * (len(strip) % 2) + table + struct.pack("<I", 0) + values
    if 8 + len(body) >= 2**32:
        raise ValueError("a TIFF file holds at most 4 GiB")
    return struct.pack("<2sHI", b"II", 42, directory) + body
