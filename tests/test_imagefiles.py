"""Image files: what is read is what was stored, and what is written holds what the format can hold."""

from __future__ import annotations

import errno
import io
import os
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps

from posefr.errors import PoseFRError
from posefr.imagefiles import Picture, atomic_file, picture_files, read_picture, write_picture

RANDOM = np.random.default_rng(0)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def _pixels(channels: int, bits: int, height: int = 7, width: int = 5) -> np.ndarray:
    return RANDOM.integers(0, 2**bits, (height, width, channels)).astype(f"uint{bits}")


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("suffix", [".png", ".tiff", ".tif"])
def test_depth_alpha_and_profile_survive_a_lossless_round_trip(tmp_path, suffix, channels, bits):
    path = tmp_path / f"a{suffix}"
    picture = Picture(_pixels(channels, bits), SRGB if channels > 1 else None)
    assert write_picture(path, picture) == []
    back = read_picture(path)
    np.testing.assert_array_equal(back.pixels, picture.pixels)
    assert back.pixels.dtype == picture.pixels.dtype
    assert back.icc == picture.icc


def test_a_profile_of_another_colour_space_is_left_out(tmp_path):
    image = Image.fromarray(np.zeros((4, 4), np.uint8)).convert("CMYK")
    image.save(tmp_path / "a.jpg", icc_profile=b"\0" * 16 + b"CMYK" + b"\0" * 108)
    picture = read_picture(tmp_path / "a.jpg")
    assert picture.pixels.shape == (4, 4, 3)
    assert picture.icc is None


def test_a_16_bit_tiff_whose_white_is_0_is_no_negative(tmp_path):
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    tifffile.imwrite(tmp_path / "a.tif", 65535 - ramp, photometric="miniswhite")
    np.testing.assert_array_equal(read_picture(tmp_path / "a.tif").pixels[..., 0], ramp)


@pytest.mark.parametrize("channels", [3, 4])
def test_other_readers_agree_on_the_16_bit_tiff(tmp_path, channels):
    picture = Picture(_pixels(channels, 16), SRGB)
    write_picture(tmp_path / "a.tif", picture)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        page = file.pages[0]
        np.testing.assert_array_equal(page.asarray(), picture.pixels)
        assert page.extrasamples == (tifffile.EXTRASAMPLE.UNASSALPHA,) * (channels - 3)
        assert page.iccprofile == SRGB


def test_16_bit_files_of_other_writers_are_read_whole(tmp_path):
    pixels = _pixels(4, 16)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=["unassalpha"], compression="zlib")
    cv2.imwrite(str(tmp_path / "a.png"), cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGRA))
    for name in ("a.tif", "a.png"):
        np.testing.assert_array_equal(read_picture(tmp_path / name).pixels, pixels)


def test_16_bit_colours_multiplied_by_their_alpha_are_read_without_it(tmp_path):
    pixels = np.full((4, 4, 4), (1000, 20000, 0, 32768), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=["assocalpha"])
    np.testing.assert_allclose(read_picture(tmp_path / "a.tif").pixels[0, 0], (2000, 39999, 0, 32768), atol=1)


def test_16_bit_colours_in_separate_planes_are_refused(tmp_path):
    planes = np.full((3, 8, 8), 1000, np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="rgb", planarconfig="separate")
    with pytest.raises(PoseFRError, match=r"a\.tif holds its 16-bit colours in separate planes"):
        read_picture(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".png"])
def test_damaged_exif_hides_no_pixels(tmp_path, suffix):
    path, pixels = tmp_path / f"a{suffix}", np.full((24, 16, 3), 90, np.uint8)
    Image.fromarray(pixels).save(path, exif=b"Exif\x00\x00GARBAGE", quality=100)
    np.testing.assert_allclose(read_picture(path).pixels, pixels, atol=2)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".png", ".tif"])
def test_exif_orientation_is_applied(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    ramp = np.add.outer(np.arange(0, 96, 4), np.arange(0, 128, 8)).astype(np.uint8)
    path = tmp_path / f"a{suffix}"
    Image.fromarray(np.stack([ramp, 255 - ramp, ramp // 2], 2)).save(path, exif=exif, quality=100)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    picture = read_picture(path)
    np.testing.assert_array_equal(picture.pixels, expected)
    assert (picture.pixels.shape[0] < picture.pixels.shape[1]) == (orientation > 4)


def test_16_bit_orientation_is_applied_too(tmp_path):
    pixels = _pixels(3, 16)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="rgb", extratags=[(0x0112, "H", 1, 6, True)])
    np.testing.assert_array_equal(read_picture(tmp_path / "a.tif").pixels, np.rot90(pixels, -1))


@pytest.mark.parametrize(("mode", "channels"), [("1", 1), ("L", 1), ("LA", 2), ("RGB", 3), ("RGBA", 4)])
def test_every_mode_of_an_8_bit_file_has_a_place(tmp_path, mode, channels):
    Image.fromarray(_pixels(4, 8)).convert(mode).save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png").pixels.shape == (7, 5, channels)


def test_a_palette_with_transparency_keeps_it(tmp_path):
    image = Image.fromarray(_pixels(3, 8)).convert("P")
    image.save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png").pixels.shape == (7, 5, 3)
    image.save(tmp_path / "a.png", transparency=3)
    assert read_picture(tmp_path / "a.png").has_alpha


@pytest.mark.parametrize(
    ("name", "channels", "bits", "lost"),
    [
        ("a.jpg", 4, 16, ["alpha", "16 bits"]),
        ("a.bmp", 2, 8, ["alpha"]),
        ("a.webp", 4, 16, ["16 bits"]),
        ("a.jpg", 1, 8, []),
    ],
)
def test_what_a_format_cannot_hold_is_told(tmp_path, name, channels, bits, lost):
    assert write_picture(tmp_path / name, Picture(_pixels(channels, bits))) == lost
    back = read_picture(tmp_path / name)
    assert back.bits == 8
    assert back.has_alpha == (channels == 4 and "alpha" not in lost)


@pytest.mark.parametrize(
    ("name", "channels", "kept"), [("a.jpg", 1, True), ("a.webp", 1, False), ("a.webp", 3, True), ("a.bmp", 3, False)]
)
def test_a_profile_that_a_format_cannot_hold_is_told(tmp_path, name, channels, kept):
    profile = b"\0" * 16 + (b"GRAY" if channels == 1 else b"RGB ") + b"\0" * 108
    lost = write_picture(tmp_path / name, Picture(_pixels(channels, 8), profile))
    assert lost == ([] if kept else ["colour profile"])
    with Image.open(tmp_path / name) as image:
        assert image.info.get("icc_profile") == (profile if kept else None)


def test_pictures_of_200_megapixels_are_read(tmp_path, monkeypatch):
    for most in (2, 9):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
        write_picture(tmp_path / "a.png", Picture(_pixels(3, 8)))
        assert read_picture(tmp_path / "a.png").pixels.shape == (7, 5, 3)
        assert most == Image.MAX_IMAGE_PIXELS, "other packages keep their limit"
    monkeypatch.setattr("posefr.imagefiles._MOST_PIXELS", 34)
    with pytest.raises(PoseFRError, match="exceeds limit"):
        read_picture(tmp_path / "a.png")


def test_grey_with_alpha_of_16_bits_stays_that(tmp_path):
    pixels = _pixels(2, 16)

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    profile = b"\0" * 16 + b"GRAY" + b"\0" * 108
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 5, 7, 16, 4, 0, 0, 0))
        + chunk(b"iCCP", b"x\0\0" + zlib.compress(profile))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    picture = read_picture(tmp_path / "a.png")
    np.testing.assert_array_equal(picture.pixels, pixels)
    assert picture.icc == profile
    assert write_picture(tmp_path / "b.png", picture) == ["colour profile"]
    np.testing.assert_array_equal(read_picture(tmp_path / "b.png").pixels[..., ::3], pixels)


def test_16_bits_become_the_nearest_8(tmp_path):
    pixels = np.array([[[0, 128, 129], [65535, 65407, 65406]]], np.uint16)
    write_picture(tmp_path / "a.bmp", Picture(pixels))
    np.testing.assert_array_equal(read_picture(tmp_path / "a.bmp").pixels, [[[0, 0, 1], [255, 255, 254]]])


def test_webp_is_lossless_at_100(tmp_path):
    picture = Picture(_pixels(4, 8))
    write_picture(tmp_path / "a.webp", picture, quality=100)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.webp").pixels, picture.pixels)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_the_image_and_back_is_the_identity(channels, bits):
    picture = Picture(_pixels(channels, bits, 64, 64))
    image = picture.image
    assert image.shape == (1, 64, 64, 3)
    assert image.dtype == torch.float32
    np.testing.assert_array_equal(picture.with_image(image).pixels, picture.pixels)


def test_with_image_replaces_colour_and_keeps_alpha():
    picture = Picture(_pixels(4, 16))
    changed = picture.with_image(torch.full((1, 7, 5, 3), 2.0))
    assert (changed.pixels[..., :3] == 65535).all()
    np.testing.assert_array_equal(changed.pixels[..., 3], picture.pixels[..., 3])


def test_a_name_in_any_script_is_written_and_read(tmp_path):
    path = tmp_path / "\u5199\u771f \u00e9t\u00e9 \U0001f600" / "\u043b\u0438\u0446\u043e.png"
    write_picture(path, Picture(_pixels(3, 16)))
    assert read_picture(path).pixels.shape == (7, 5, 3)


def test_the_first_view_of_a_cameras_two_is_read(tmp_path):
    first, second = (Image.fromarray(np.full((4, 6, 3), v, np.uint8)) for v in (10, 200))
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second])
    assert abs(int(read_picture(tmp_path / "a.jpg").pixels.mean()) - 10) < 3


def _whole(suffix: str, bits: int) -> bytes:
    stream = io.BytesIO()
    if bits == 16:
        stream.write(cv2.imencode(suffix, _pixels(3, 16, 64, 64))[1].tobytes())
    else:
        Image.fromarray(_pixels(3, 8, 64, 64)).save(stream, {".jpg": "JPEG"}.get(suffix, suffix[1:].upper()))
    return stream.getvalue()


KINDS = [(".png", 8), (".png", 16), (".jpg", 8), (".webp", 8), (".bmp", 8), (".tiff", 8), (".tiff", 16)]


@pytest.mark.parametrize(("suffix", "bits"), KINDS)
def test_a_truncated_file_is_refused_by_name(tmp_path, suffix, bits):
    path = tmp_path / f"half{suffix}"
    whole = _whole(suffix, bits)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PoseFRError, match=r"half.*is not an image that can be read"):
        read_picture(path)


@pytest.mark.parametrize(("suffix", "bits"), KINDS)
@given(places=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=20))
@settings(max_examples=40, deadline=None)
def test_a_damaged_file_is_read_or_refused_but_nothing_else(tmp_path_factory, suffix, bits, places):
    data = bytearray(_whole(suffix, bits))
    for place, value in places:
        # Half of the damage falls on the first 64 bytes, where the headers are.
        data[int(place * len(data)) if value % 2 else int(place * 64)] = value
    path = tmp_path_factory.getbasetemp() / f"damaged{suffix}"
    path.write_bytes(data)
    with suppress(PoseFRError):  # any other error fails the test
        assert read_picture(path).pixels.ndim == 3


def test_files_that_are_no_still_image_are_refused_with_one_sentence(tmp_path):
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "empty.png").touch()
    frames = [Image.fromarray(_pixels(3, 8)) for _ in range(3)]
    frames[0].save(tmp_path / "pages.tif", save_all=True, append_images=frames[1:])
    tifffile.imwrite(tmp_path / "twelve.tif", np.zeros((4, 4), np.uint16), bitspersample=16)
    deep = (tmp_path / "twelve.tif").read_bytes()
    (tmp_path / "twelve.tif").write_bytes(
        deep.replace(struct.pack("<HHII", 258, 3, 1, 16), struct.pack("<HHII", 258, 3, 1, 12))
    )
    tifffile.imwrite(tmp_path / "float.tif", np.zeros((4, 4), np.float32))
    frames[0].save(tmp_path / "gif.png", format="GIF")
    for name, words in {
        "text.png": r"is not an image that can be read \(unknown format\)",
        "empty.png": "is empty",
        "pages.tif": "holds 3 pages",
        "twelve.tif": "holds unsigned samples of 12 bits",
        "float.tif": "floating point samples of 32 bits",
        "gif.png": "is not an image",
        "absent.png": "No such file",
        ".": "cannot be read",
    }.items():
        with pytest.raises(PoseFRError, match=words) as raised:
            read_picture(tmp_path / name)
        assert "\n" not in str(raised.value)


def test_a_suffix_that_is_not_an_image_format_is_refused(tmp_path):
    with pytest.raises(PoseFRError, match=r"ends in '\.gif'; expected one of \.png"):
        write_picture(tmp_path / "a.gif", Picture(_pixels(3, 8)))


def test_a_size_that_the_format_cannot_hold_is_told(tmp_path):
    with pytest.raises(PoseFRError, match=r"20000 x 1 px cannot be stored as a\.webp"):
        write_picture(tmp_path / "a.webp", Picture(_pixels(3, 8, 1, 20000)))
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def write_half() -> None:
        with atomic_file(path) as file:
            file.write(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(PoseFRError, match=r"a\.png cannot be written: No space left on device"):
        write_half()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_a_link_stays_one_and_a_pipe_is_written_to(tmp_path):
    real, link, pipe = tmp_path / "real.json", tmp_path / "link.json", tmp_path / "pipe"
    link.symlink_to(real)
    for content in (b"first", b"second"):
        with atomic_file(link) as file:
            file.write(content)
        assert link.is_symlink()
        assert real.read_bytes() == content
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with atomic_file(pipe) as file:
        file.write(b"through it")
    assert os.read(reader, 99) == b"through it"
    os.close(reader)
    assert pipe.is_fifo()


def test_a_folder_that_cannot_be_read_is_told(tmp_path, monkeypatch, caplog):
    for name in ("a.png", "sub/b.png", "locked/c.png"):
        write_picture(tmp_path / name, Picture(_pixels(3, 8)))
    (tmp_path / "gone.png").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe.png")
    scandir = os.scandir

    def locked(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    assert picture_files(tmp_path, nested=True) == [tmp_path / "a.png", tmp_path / "sub" / "b.png"]
    assert "locked cannot be read: Permission denied" in caplog.text
    assert picture_files(tmp_path / "absent") == []
    with pytest.raises(PoseFRError, match="locked cannot be read: Permission denied"):
        picture_files(tmp_path / "locked")


def test_a_written_file_has_the_usual_permissions(tmp_path):
    (tmp_path / "plain").touch()
    write_picture(tmp_path / "a.png", Picture(_pixels(3, 8)))
    assert (tmp_path / "a.png").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(PoseFRError, match="cannot be written"):
        write_picture(tmp_path / "file" / "a.png", Picture(_pixels(3, 8)))
