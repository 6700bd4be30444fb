"""Alignment and crops: where a point lands, how sharp it stays, and what lies outside the image."""

from __future__ import annotations

import math

import numpy as np
import pytest
import skimage.data
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from posefr import resampling
from posefr.errors import PoseFRError
from posefr.faces import Faces
from posefr.geometry import (
    FRAMES,
    Crops,
    alignment_transform,
    apply_transform,
    crop_faces,
    invert_similarity,
    sample_crops,
    transform_scale,
)
from posefr.resampling import resample

FACE = torch.tensor([[38.0, 48.0], [62.0, 48.0], [50.0, 62.0], [41.0, 74.0], [59.0, 74.0]])
PROFILE = torch.tensor([[40.0, 48.0], [43.0, 48.0], [28.0, 62.0], [39.0, 74.0], [42.0, 74.0]])


def similarity(scale: float, degrees: float, x: float, y: float) -> Tensor:
    """[1, 2, 3]: turn clockwise on the picture, scale, then shift."""
    a, b = scale * math.cos(math.radians(degrees)), scale * math.sin(math.radians(degrees))
    return torch.tensor([[[a, -b, x], [b, a, y]]])


def around(scale: float, degrees: float, centre: tuple[float, float], size: int) -> Tensor:
    """[1, 2, 3]: the transform of a crop around `centre`, `scale` crop px to an image px."""
    turn = similarity(scale, degrees, 0, 0)
    turn[0, :, 2] = size / 2 - turn[0, :, :2] @ torch.tensor(centre)
    return turn


def waves(x: Tensor, y: Tensor, period: float) -> Tensor:
    """A smooth coloured pattern, 0.1..0.9, at continuous positions."""
    phases = [0.0, 1.0, 2.0]
    across, down = (2 * math.pi / period * position for position in (x + 0.3 * y, y - 0.2 * x))
    return torch.stack([0.5 + 0.2 * torch.sin(across + p) + 0.2 * torch.cos(down - p) for p in phases], dim=-1)


def centres(height: int, width: int) -> tuple[Tensor, Tensor]:
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return x, y


def crop(image: Tensor, transform: Tensor, size: int) -> Tensor:
    return sample_crops(image[None], torch.zeros(1, dtype=torch.int64), transform, size)[0]


def faces_of(images: Tensor, landmarks: Tensor, frame: list[int] | None = None) -> Faces:
    count = len(landmarks)
    box = torch.cat([landmarks.amin(dim=1), landmarks.amax(dim=1)], dim=1)
    frames = torch.tensor(frame or [0] * count)
    return Faces.make(frames, box, landmarks, torch.ones(count), (images.shape[1], images.shape[2]), len(images))


@pytest.mark.parametrize("landmarks", [FACE, PROFILE], ids=["frontal", "profile"])
def test_ffhq_square_is_that_of_the_data_set(landmarks: Tensor) -> None:
    left, right, _, mouth_left, mouth_right = landmarks.double().numpy()
    eye_mid, eye_to_eye = (left + right) / 2, right - left
    eye_to_mouth = (mouth_left + mouth_right) / 2 - eye_mid
    x = eye_to_eye - np.flipud(eye_to_mouth) * [-1, 1]
    x *= max(np.hypot(*eye_to_eye) * 2.0, np.hypot(*eye_to_mouth) * 1.8) / np.hypot(*x)
    y = np.flipud(x) * [-1, 1]
    middle = eye_mid + eye_to_mouth * 0.1
    square = torch.tensor(np.stack([middle - x - y, middle - x + y, middle + x + y, middle + x - y]))[None]
    corners = apply_transform(alignment_transform(landmarks[None], 256).double(), square)
    assert (corners - torch.tensor([[[0.0, 0], [0, 256], [256, 256], [256, 0]]])).abs().max() < 1e-3


def test_template5_is_the_least_squares_similarity() -> None:
    generator = torch.Generator().manual_seed(1)
    landmarks = FACE + torch.randn(5, 2, generator=generator) * 3
    template = [(192.98138, 239.94708), (318.90277, 240.1936), (256.63416, 314.01935)]
    template = np.array([*template, (201.26117, 371.41043), (313.08905, 371.15118)]) / 2
    rows = [row for x, y in landmarks.tolist() for row in ([x, -y, 1, 0], [y, x, 0, 1])]
    a, b, tx, ty = np.linalg.lstsq(np.array(rows), template.reshape(-1), rcond=None)[0]
    found = alignment_transform(landmarks[None], 256, "template5")[0]
    assert np.abs(found.numpy() - np.array([[a, -b, tx], [b, a, ty]])).max() < 1e-3


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("landmarks", [FACE, PROFILE], ids=["frontal", "profile"])
@pytest.mark.parametrize(
    ("scale", "degrees", "x", "y"), [(1, 0, 7.25, -3.5), (1, 33, 0, 0), (0.2, -90, 5, 5), (9, 179, 4000, 9)]
)
def test_a_known_motion_of_the_face_does_not_move_it_in_the_crop(
    landmarks: Tensor, frame: str, scale: float, degrees: float, x: float, y: float
) -> None:
    moved = apply_transform(similarity(scale, degrees, x, y), landmarks[None])
    before = apply_transform(alignment_transform(landmarks[None], 256, frame), landmarks[None])
    after = apply_transform(alignment_transform(moved, 256, frame), moved)
    assert (before - after).abs().max() < 0.01


@pytest.mark.parametrize("frame", FRAMES)
def test_never_mirrors_and_never_degenerates(frame: str) -> None:
    mirrored = FACE * torch.tensor([-1.0, 1]) + torch.tensor([100.0, 0])
    one_point = torch.full((5, 2), 33.0)
    upside_down = -FACE
    transforms = alignment_transform(torch.stack([mirrored, one_point, upside_down]), 64, frame)
    assert torch.isfinite(transforms).all()
    assert (torch.linalg.det(transforms[:, :, :2]) > 0).all()


@pytest.mark.parametrize("degrees", [0, 17, -90, 140])
@pytest.mark.parametrize("scale", [0.11, 0.4, 0.7, 0.99, 1, 1.01, 1.5, 2, 4, 9.3])
def test_crop_shows_what_lies_there(scale: float, degrees: float) -> None:
    """Every crop pixel has the value of the pattern at its place: no shift at any scale, and nothing softened."""
    period = max(8.0, 6 / scale)
    image = waves(*centres(300, 340), period)
    transform = around(scale, degrees, (171.3, 148.9), 24)
    x, y = apply_transform(invert_similarity(transform), torch.stack(centres(24, 24), dim=-1).view(1, -1, 2))[0].T
    difference = crop(image, transform, 24) - waves(x, y, period).view(24, 24, 3)
    # A shift by 0.1 px, of the crop or of the image, whichever is coarser, would make a mean difference of 0.014.
    assert difference.abs().mean() < 0.01
    assert abs(float(difference.mean())) < 0.002


@pytest.mark.parametrize(("scale", "degrees"), [(0.3, 10), (0.8, -45), (1, 0), (1, 30), (2.5, 100)])
def test_a_dot_lands_within_a_tenth_of_a_pixel(scale: float, degrees: float) -> None:
    x, y = centres(200, 200)
    dot, spread = (97.37, 104.81), max(1.5, 1.5 / scale)
    image = torch.exp(-((x - dot[0]) ** 2 + (y - dot[1]) ** 2) / (2 * spread**2))[:, :, None].expand(-1, -1, 3)
    transform = around(scale, degrees, (100.0, 100.0), 48)
    seen = crop(image, transform, 48)[:, :, 0]
    u, v = centres(48, 48)
    found = torch.stack([(seen * u).sum(), (seen * v).sum()]) / seen.sum()
    expected = apply_transform(transform, torch.tensor([[dot]]))[0, 0]
    assert (found - expected).norm() < 0.1


@pytest.mark.parametrize("degrees", [0, 25])
@pytest.mark.parametrize("scale", [0.07, 0.3, 0.6])
@pytest.mark.parametrize("fineness", [1.3, 0.55])
def test_detail_finer_than_the_crop_does_not_alias(scale: float, degrees: float, fineness: float) -> None:
    x, _ = centres(400, 400)
    period = max(fineness / scale, 2.2)  # px; a crop pixel is 1 / scale px, so that 2 / scale is the finest it can show
    stripes = (0.5 + 0.45 * torch.cos(2 * math.pi / period * x))[:, :, None].expand(-1, -1, 3)
    assert crop(stripes, around(scale, degrees, (200.2, 199.1), 20), 20).std() < 0.05 * stripes.std()


@pytest.mark.parametrize("scale", [0.6, 1, 3])
def test_the_region_read_is_wide_enough(scale: float) -> None:
    image = torch.rand(150, 150, 3, generator=torch.Generator().manual_seed(5))
    transform = around(scale, 30, (77.7, 70.1), 32)
    matrix = invert_similarity(transform.double())[0].tolist()
    from_all = resample(image, matrix, (0, 0, 32, 32)).clamp(0, 1)
    assert (crop(image, transform, 32) - from_all).abs().max() < 1e-4


def test_outside_the_image_lies_its_mirror_image() -> None:
    image = waves(*centres(20, 26), 9.0)
    padded = torch.from_numpy(np.pad(image.numpy(), ((40, 40), (52, 52), (0, 0)), mode="symmetric"))
    for centre in ((2.0, 3.0), (27.5, 9.0), (13.0, -11.0)):
        for scale, degrees in ((1.0, 0), (1.7, 30), (0.8, 10)):
            inside = crop(padded, around(scale, degrees, (centre[0] + 52, centre[1] + 40), 32), 32)
            assert (crop(image, around(scale, degrees, centre, 32), 32) - inside).abs().mean() < 0.006


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 2)])
def test_tiny_images_fill_a_whole_crop(size: tuple[int, int]) -> None:
    image = torch.full((*size, 3), 0.25)
    for scale in (0.01, 1.0, 50.0):
        assert torch.allclose(crop(image, around(scale, 20, (3.0, 2.0), 16), 16), torch.tensor(0.25), atol=1e-5)


@pytest.mark.parametrize("degrees", [0, 17, -100])
@pytest.mark.parametrize("step", [0.3, 0.65, 1.0, 1.3, 2.0, 3.7])
def test_both_ways_of_resampling_give_the_same_picture(step: float, degrees: float) -> None:
    """OpenCV's and torch's, at every scale, with a window that begins inside the picture and one that is mirrored."""
    photo = torch.from_numpy(skimage.data.astronaut()).float() / 255
    size = round(150 / step)
    matrix = invert_similarity(around(1 / step, degrees, (225.3, 120.7), size).double())[0].tolist()
    for corner, mirror in (((60, 10), (0, 0)), ((0, 0), (512, 512))):
        window = photo[corner[1] :, corner[0] :]
        height, width = window.shape[:2]
        target = (3, 5, size, size - 7)
        places = {"corner": corner, "mirror": mirror}
        assert resampling._suits_opencv((height, width), matrix, target, corner, mirror)
        by_opencv = resample(window, matrix, target, **places)
        into = torch.full_like(by_opencv, -1)
        assert resample(window, matrix, target, out=into, **places) is into
        assert torch.equal(into, by_opencv)
        if step > 3:
            window = resampling._reduced(window, step).contiguous()
        by_torch = resampling._resample_torch(
            window, (height, width), min(step, 2.0) if step > 3 else step, matrix, target, corner, mirror
        )
        assert by_opencv.shape == by_torch.shape == (size - 7, size, 3)
        # From half to full size OpenCV's way leaves out the doubling. OpenCV 4 rounds places to 1/32 px.
        assert (by_opencv - by_torch).abs().mean() < (1 if 0.5 < step <= 1 else 0.2) / 255
        assert (by_opencv - by_torch).mean().abs() < 0.03 / 255


def test_each_face_comes_from_its_own_frame() -> None:
    images = torch.tensor([0.1, 0.5, 0.9]).view(3, 1, 1, 1).expand(3, 100, 100, 4)
    crops = crop_faces(images, faces_of(images, FACE.expand(3, 5, 2), [2, 0, 1]), 16)
    assert crops.images.mean(dim=(1, 2, 3)).tolist() == pytest.approx([0.9, 0.1, 0.5])
    assert crops.images.shape == (3, 16, 16, 3)
    assert (len(crops), crops.size, crops.frame) == (3, 16, "ffhq")
    assert transform_scale(crops.transforms).tolist() == pytest.approx([16 / 96] * 3)


def test_no_faces_make_no_crops() -> None:
    crops = crop_faces(torch.rand(2, 8, 8, 3), Faces.empty((8, 8), 2), 32, "template5")
    assert crops.images.shape == (0, 32, 32, 3)
    assert (len(crops), crops.size) == (0, 32)


def test_half_precision_and_values_that_are_not_finite() -> None:
    images = torch.rand(1, 100, 100, 3)
    faces = faces_of(images, FACE[None])
    exact = crop_faces(images, faces, 32).images
    assert (crop_faces(images.half(), faces, 32).images - exact).abs().max() < 2e-3
    images[0, 50, 50], images[0, 60, 40] = float("nan"), float("inf")
    assert torch.isfinite(crop_faces(images, faces, 32).images).all()


def test_the_images_are_not_changed() -> None:
    images = torch.rand(1, 60, 60, 3) * 3 - 1
    before = images.clone()
    crop_faces(images, faces_of(images, FACE[None]), 48)
    assert torch.equal(images, before)


def test_mistakes_are_named() -> None:
    images = torch.rand(1, 100, 100, 3)
    faces = faces_of(images, FACE[None])
    broken = faces_of(images, FACE[None] * float("nan"))
    with pytest.raises(PoseFRError, match="not finite"):
        crop_faces(images, broken)
    with pytest.raises(PoseFRError, match="frame 'arcface' is unknown; pick one of ffhq, template5"):
        crop_faces(images, faces, frame="arcface")
    with pytest.raises(PoseFRError, match="crop size is 0"):
        crop_faces(images, faces, size=0)
    with pytest.raises(PoseFRError, match="found in 1 images of 100x100 px, but there are 1 of 90x100 px"):
        crop_faces(images[:, :, :90], faces)
    with pytest.raises(PoseFRError, match=r"shape \[100, 100, 3\]"):
        crop_faces(images[0], faces)
    with pytest.raises(PoseFRError, match="1 channels"):
        crop_faces(images[..., :1], faces)
    with pytest.raises(PoseFRError, match=r"torch.uint8; expected floats"):
        crop_faces((images * 255).byte(), faces)
    with pytest.raises(PoseFRError, match="at least one pixel"):
        crop_faces(images[:, :0], faces)
    with pytest.raises(PoseFRError, match=r"expected \[N, 5, 2\]"):
        alignment_transform(torch.zeros(1, 68, 2), 256)
    with pytest.raises(PoseFRError, match=r"names image 1 .* but there is 1\."):
        sample_crops(images, torch.tensor([1]), torch.eye(2, 3)[None], 8)
    with pytest.raises(PoseFRError, match="names image -2"):
        sample_crops(images, torch.tensor([0, -2]), torch.eye(2, 3).expand(2, 2, 3), 8)
    with pytest.raises(PoseFRError, match=r"expected \[1, S, S, 3\]"):
        Crops(torch.zeros(2, 8, 8, 3), torch.eye(2, 3)[None], faces, "ffhq")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 40.0, -40.0])
def test_a_pixel_out_of_range_spoils_no_more_than_its_place(value: float) -> None:
    images = torch.full((1, 100, 100, 3), 0.5)
    images[0, 48, 51] = value
    transform = similarity(2.56, 0, 0, 0)
    crop = sample_crops(images, torch.zeros(1, dtype=torch.long), transform, 256)
    images[0, 48, 51] = 1.0 if value == 40 else 0.0
    assert torch.equal(crop, sample_crops(images, torch.zeros(1, dtype=torch.long), transform, 256))
    assert int(((crop - 0.5).abs() > 0.3).any(-1).sum()) < 4 * 2.56**2


def test_context_is_what_lies_around_the_frame() -> None:
    images = torch.rand(1, 100, 100, 3, generator=torch.Generator().manual_seed(5))
    faces = faces_of(images, FACE[None] + 40)
    frame = crop_faces(images, faces, 32)
    wide = crop_faces(images, faces, 64, context=2)
    assert wide.context == 2
    assert torch.allclose(wide.images[:, 16:48, 16:48], frame.images, atol=1e-5)
    inner = wide.transforms - torch.tensor([[0, 0, 16.0], [0, 0, 16.0]])
    assert torch.allclose(inner, frame.transforms, atol=1e-4)
    for wrong in (0.9, math.inf, math.nan):
        with pytest.raises(PoseFRError, match=r"The context is .*; expected 1 for the face alone, or more"):
            crop_faces(images, faces, 32, context=wrong)


coordinate = st.floats(-300, 300, width=32)


@settings(max_examples=60, deadline=None)
@given(
    points=st.lists(st.tuples(coordinate, coordinate), min_size=5, max_size=5),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    side=st.integers(1, 24),
    frame=st.sampled_from(FRAMES),
)
def test_any_landmarks_on_any_image_give_a_crop_of_its_own_colours(
    points: list[tuple[float, float]], size: tuple[int, int], side: int, frame: str
) -> None:
    generator = torch.Generator().manual_seed(size[0] * 100 + size[1])
    images = 0.4 + 0.2 * torch.rand(1, *size, 3, generator=generator)
    crops = crop_faces(images, faces_of(images, torch.tensor([points])), side, frame)
    assert crops.images.shape == (1, side, side, 3)
    assert crops.images.min() > 0.2
    assert crops.images.max() < 0.8


@settings(max_examples=60, deadline=None)
@given(st.floats(0.01, 50), st.floats(-180, 180), coordinate, coordinate)
def test_inverse_undoes_a_similarity(scale: float, degrees: float, x: float, y: float) -> None:
    transform = similarity(scale, degrees, x, y).double()
    points = torch.tensor([[[0.0, 0.0], [100.0, -50.0]]], dtype=torch.float64)
    assert (
        apply_transform(invert_similarity(transform), apply_transform(transform, points)) - points
    ).abs().max() < 1e-6
