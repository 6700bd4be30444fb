"""What holds of cropping and pasting for any face, mask and number of either."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from posefr.compositing import paste_faces
from posefr.faces import Faces
from posefr.geometry import FRAMES, apply_transform, crop_faces, invert_similarity
from posefr.masks import MASK_SHAPES, feather_inwards, soft_edge

FACE = torch.tensor([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]]) - 0.5
QUICK = settings(max_examples=30, deadline=None)
IMAGES = torch.rand(2, 56, 72, 3, generator=torch.Generator().manual_seed(0))
RESTORED = torch.rand(1, 40, 40, 3, generator=torch.Generator().manual_seed(1))

angle = st.floats(-180, 180)
side = st.floats(4, 150)
place = st.tuples(st.floats(-30, 100), st.floats(-30, 90))
frame = st.sampled_from(sorted(FRAMES))
shape = st.sampled_from(MASK_SHAPES)
percent = st.floats(0, 50)


def landmarks(side: float, degrees: float, centre: tuple[float, float]) -> Tensor:
    turn = math.radians(degrees)
    matrix = torch.tensor([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    return FACE * side @ matrix + torch.tensor(centre)


def faces_of(*points: Tensor, images: Tensor = IMAGES, frames: tuple[int, ...] | None = None) -> Faces:
    stacked = torch.stack(points)
    return Faces.make(
        frame=torch.tensor(frames or (0,) * len(points)),
        box=torch.cat([stacked.amin(1), stacked.amax(1)], 1),
        landmarks=stacked,
        score=torch.ones(len(points)),
        image_size=tuple(images.shape[1:3]),
        frames=len(images),
    )


@QUICK
@given(side, angle, place, frame)
def test_a_face_that_moves_by_whole_pixels_takes_its_crop_along(side, degrees, centre, frame):
    """All of it, as far as the crop lies inside both pictures: here, two parts of one large picture."""
    large = torch.rand(1, 400, 400, 3, generator=torch.Generator().manual_seed(2))
    points = landmarks(min(side, 40), degrees, (150 + centre[0], 150 + centre[1]))
    crops = []
    for x, y in ((0, 0), (17, 5)):
        image = large[:, y:, x:]
        crops.append(
            crop_faces(image, faces_of(points - torch.tensor([x, y]), images=image), size=24, frame=frame).images
        )
    torch.testing.assert_close(crops[0], crops[1], atol=2e-3, rtol=0)


@QUICK
@given(side, angle, place, frame, st.integers(8, 64))
def test_transforms_are_similarities_and_lie_where_the_face_is(side, degrees, centre, frame, size):
    points = landmarks(side, degrees, centre)
    crops = crop_faces(IMAGES, faces_of(points), size=size, frame=frame)
    (a, b), (c, d) = crops.transforms[0, :, :2].tolist()
    scale = math.hypot(a, c)
    assert math.isclose(a, d, abs_tol=1e-4 * scale)
    assert math.isclose(b, -c, abs_tol=1e-4 * scale)
    inside = apply_transform(crops.transforms, points[None])[0] / size
    assert inside.min() > 0.1
    assert inside.max() < 0.9
    back = apply_transform(invert_similarity(crops.transforms), inside[None] * size)[0]
    torch.testing.assert_close(back, points, atol=1e-2, rtol=1e-4)


@QUICK
@given(side, angle, place, frame, shape, percent, st.floats(0, 1), st.sampled_from([1, 33, 40]))
def test_what_is_pasted_lies_between_input_and_face_and_the_rest_stays(
    side, degrees, centre, frame, shape, feather, strength, size
):
    crops = crop_faces(IMAGES, faces_of(landmarks(side, degrees, centre)), size=32, frame=frame)
    white = torch.ones(1, size, size, 3)
    out, mask = paste_faces(IMAGES, crops, white, mask=shape, feather=feather, strength=strength, color_match="none")
    assert mask.min() >= 0
    assert mask.max() <= 1
    assert not mask[1].any()  # the other image has no face
    assert torch.equal(out[mask == 0], IMAGES[mask == 0])
    assert out.isfinite().all()
    assert out.min() >= 0
    assert out.max() <= 1
    # Large faces keep their own detail on top of the white; others only grow lighter.
    if crops.transforms[0, 0, :2].norm() * size / 32 > 1.5:
        assert (out >= IMAGES - 1e-5).all()


@QUICK
@given(side, angle, place, shape, st.floats(0.05, 1))
def test_strength_is_linear(side, degrees, centre, shape, strength):
    crops = crop_faces(IMAGES, faces_of(landmarks(side, degrees, centre)), size=40)
    full, part = (
        paste_faces(IMAGES, crops, RESTORED, mask=shape, strength=value, color_match="none")[0]
        for value in (1.0, strength)
    )
    torch.testing.assert_close(part - IMAGES, (full - IMAGES) * strength, atol=1e-4, rtol=0)


@QUICK
@given(st.lists(st.tuples(side, angle, place), min_size=1, max_size=4), frame, shape)
def test_faces_of_different_images_do_not_know_of_each_other(faces, frame, shape):
    points = [landmarks(*face) for face in faces]
    frames = tuple(i % 2 for i in range(len(points)))
    crops = crop_faces(IMAGES, faces_of(*points, frames=frames), size=24, frame=frame)
    restored = RESTORED.repeat(len(points), 1, 1, 1)
    together, mask = paste_faces(IMAGES, crops, restored, mask=shape)
    for i in range(2):
        own = [p for p, f in zip(points, frames, strict=True) if f == i]
        image = IMAGES[i : i + 1]
        if not own:
            assert torch.equal(together[i], image[0])
            continue
        alone_crops = crop_faces(image, faces_of(*own, images=image), size=24, frame=frame)
        alone, alone_mask = paste_faces(image, alone_crops, RESTORED.repeat(len(own), 1, 1, 1), mask=shape)
        torch.testing.assert_close(alone[0], together[i], atol=1e-5, rtol=0)
        torch.testing.assert_close(alone_mask[0], mask[i], atol=1e-5, rtol=0)


@QUICK
@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(1e-3, 2))
def test_a_soft_edge_rises_from_0_to_1_and_never_falls(first, second, width):
    low, high = soft_edge(torch.tensor(sorted((first, second))), width).tolist()
    assert 0 <= low <= high <= 1
    assert soft_edge(torch.tensor([0.0, width * 1.001]), width).tolist() == [0, 1]


@QUICK
@given(st.integers(0, 2**16), st.floats(0, 60), st.integers(1, 40), st.integers(1, 40))
def test_a_feathered_mask_stays_within_the_mask(seed, width, height, across):
    mask = (torch.rand(height, across, generator=torch.Generator().manual_seed(seed)) > 0.4).float()
    soft = feather_inwards(mask, width)
    assert soft.shape == mask.shape
    assert (soft >= -1e-6).all()
    assert (soft <= mask + 1e-6).all()
