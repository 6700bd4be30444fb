"""Pasting back: nothing changes outside the mask, nothing softens or shifts inside, and no seam shows."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import skimage.data
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from posefr.color import COLOR_MATCHES, apply_color, color_change
from posefr.compositing import paste_faces
from posefr.errors import PoseFRError
from posefr.faces import Faces
from posefr.geometry import Crops, crop_faces
from posefr.masks import MASK_SHAPES, feather_inwards, head_mask

# A face of unit size: the ffhq square around it has the side 8 and its centre at (0, 0.22).
FACE = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.2], [-0.8, 2.2], [0.8, 2.2]])
ASTRONAUT = torch.tensor([[203.0, 107.0], [242.0, 108.0], [222.0, 133.0], [208.0, 150.0], [238.0, 151.0]])


def face(side: float, x: float, y: float, degrees: float = 0.0) -> Tensor:
    """[5, 2]: landmarks of a face whose crop is a square of `side` px around (x, y)."""
    a = math.radians(degrees)
    turn = torch.tensor([[math.cos(a), math.sin(a)], [-math.sin(a), math.cos(a)]])
    return (FACE - torch.tensor([0.0, 0.22])) * (side / 8) @ turn + torch.tensor([x, y])


def crops_of(images: Tensor, landmarks: list[Tensor], size: int = 64, frame: list[int] | None = None) -> Crops:
    points = torch.stack(landmarks)
    box = torch.cat([points.amin(dim=1), points.amax(dim=1)], dim=1)
    shape = (images.shape[1], images.shape[2])
    frames = torch.tensor(frame or [0] * len(points))
    return crop_faces(images, Faces.make(frames, box, points, torch.ones(len(points)), shape, len(images)), size)


def noise(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(3))


def smooth(height: int, width: int) -> Tensor:
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([0.5 + 0.3 * torch.sin(x / 9 + p) * torch.cos(y / 11 - p) for p in range(3)], dim=-1)[None]


@pytest.fixture(scope="module")
def photo() -> Tensor:
    return torch.from_numpy(skimage.data.astronaut()).float()[None] / 255


@pytest.mark.parametrize("mask", MASK_SHAPES)
@pytest.mark.parametrize("size", [64, 150, 170, 200, 256, 512])
def test_an_unchanged_crop_leaves_the_photo_as_it_was(photo: Tensor, size: int, mask: str) -> None:
    """At every ratio of crop to face: about 1/255 on average inside the mask, nothing at all outside."""
    crops = crops_of(photo, [ASTRONAUT], size)
    out, covered = paste_faces(photo, crops, crops.images, mask=mask)
    inside = covered > 0
    assert 5_000 < inside.sum() < 30_000
    assert (out - photo).abs()[inside].mean() < 1.15 / 255
    assert torch.equal(out[~inside], photo[~inside])


def test_an_unchanged_crop_of_a_larger_face_changes_nothing() -> None:
    images = noise(1, 120, 120, 3)
    crops = crops_of(images, [face(100, 60, 60, 20)], 48)
    out, _ = paste_faces(images, crops, crops.images)
    assert torch.equal(out, images)


def test_sharpness_of_an_unchanged_crop_stays(photo: Tensor) -> None:
    crops = crops_of(photo, [ASTRONAUT], 256)
    out, covered = paste_faces(photo, crops, crops.images)

    def detail(images: Tensor) -> float:
        both = (covered[:, 1:, 1:] == 1) & (covered[:, :-1, :-1] == 1)
        return float((images[:, 1:, 1:] - images[:, :-1, :-1])[both].square().mean())

    assert 0.93 < detail(out) / detail(photo) < 1.05


def test_a_large_face_keeps_its_own_detail() -> None:
    """What the crop could not hold stays, and what it could is replaced."""
    images = smooth(200, 200)
    stripes = 0.05 * torch.cos(torch.arange(200) * math.pi)[None, None, :, None]  # the finest there are
    crops = crops_of(images + stripes, [face(160, 100, 100)], 40)
    out, covered = paste_faces(images + stripes, crops, torch.full_like(crops.images, 0.5))
    inside = covered[0] == 1
    assert ((out - stripes)[0][inside] - 0.5).abs().mean() < 0.02


def test_a_small_face_is_replaced_whole() -> None:
    images = noise(1, 80, 80, 3)
    crops = crops_of(images, [face(40, 40, 40)], 80)
    out, covered = paste_faces(images, crops, torch.full_like(crops.images, 0.5))
    assert (out[covered == 1] - 0.5).abs().max() < 1e-4


@pytest.mark.parametrize("mask", [*MASK_SHAPES, "per crop", "image"])
@pytest.mark.parametrize("restored_size", [16, 64, 200])
def test_outside_the_mask_every_bit_stays(mask: str, restored_size: int) -> None:
    images = noise(2, 90, 110, 3) * 4 - 2  # beyond 0..1 too, and
    images[0, 3, 3], images[1, 5, 7], images[0, 88, 1] = float("nan"), float("inf"), -0.0
    landmarks = [face(60, 30, 40, 15), face(50, 95, 10, -70), face(30, 60, 60)]
    crops = crops_of(images, landmarks, 64, [0, 1, 0])
    blocks = (noise(2, 3, 5) > 0.5).float().repeat_interleave(30, dim=1).repeat_interleave(22, dim=2)
    masks: dict[str, Tensor] = {
        "per crop": (noise(3, 32, 32) > 0.5).float(),
        "image": blocks,
    }
    before = images.clone()
    out, covered = paste_faces(images, crops, noise(3, restored_size, restored_size, 3), mask=masks.get(mask, mask))
    outside = covered == 0
    assert torch.equal(out[outside].view(torch.int32), images[outside].view(torch.int32))
    assert (out != images)[covered > 0.5].any(dim=-1).float().mean() > 0.99
    assert torch.equal(images.view(torch.int32), before.view(torch.int32)), "the input was written to"
    if mask == "image":
        assert not covered[masks["image"] == 0].any()


def test_strength_0_is_the_input_and_1_half_way_beyond_a_half() -> None:
    images = noise(1, 60, 60, 3)
    crops = crops_of(images, [face(40, 30, 30), face(30, 40, 36)])
    restored = noise(2, 64, 64, 3)
    none, covered = paste_faces(images, crops, restored, strength=0)
    assert torch.equal(none, images)
    assert covered.max() == 1
    half, full = (paste_faces(images, crops, restored, strength=s)[0] for s in (0.5, 1.0))
    assert torch.allclose(half, (images + full) / 2, atol=1e-6)


@pytest.mark.parametrize("mask", MASK_SHAPES)
@pytest.mark.parametrize("degrees", [0, 30])
def test_no_seam(mask: str, degrees: float) -> None:
    """Along the mask's border the picture changes no faster than inside, though the pasted face is another colour."""
    images = torch.full((1, 220, 220, 3), 0.3)
    crops = crops_of(images, [face(150, 110, 110, degrees)], 128)
    out, covered = paste_faces(images, crops, torch.full_like(crops.images, 0.6), mask=mask, feather=10)
    slope = torch.maximum(
        (out[0, 1:, 1:, 0] - out[0, :-1, 1:, 0]).abs(), (out[0, 1:, 1:, 0] - out[0, 1:, :-1, 0]).abs()
    )
    weight = covered[0, 1:, 1:]
    border, ramp = (weight < 0.02), (weight > 0.2) & (weight < 0.8)
    assert slope[border].max() < 0.4 * slope[ramp].max()
    assert slope.max() < 0.3 * math.pi / 2 / (0.10 * 150) * 1.3, "steeper than a raised cosine of that width"
    assert out[0, 0].eq(0.3).all()


@pytest.mark.parametrize("mask", MASK_SHAPES)
def test_mask_covers_the_face_and_ends_inside_the_crop(mask: str) -> None:
    images = torch.zeros(1, 220, 220, 3)
    points = face(200, 110, 110)
    _, covered = paste_faces(images, crops_of(images, [points]), torch.ones(1, 64, 64, 3), mask=mask, feather=5)
    eyes_nose_mouth = points.long()
    chin = torch.tensor([[110, int(points[3:, 1].mean() + 27)]])
    for x, y in torch.cat([eyes_nose_mouth, chin]).tolist():
        assert covered[0, y, x] > 0.95
    assert not covered[0, :10].any()
    assert not covered[0, -10:].any()
    assert not covered[0, :, :10].any()
    assert not covered[0, :, -10:].any()


def test_hull_follows_a_turned_head() -> None:
    images = torch.zeros(1, 200, 200, 3)
    profile = torch.tensor([[82.0, 90.0], [86.0, 90.0], [60.0, 112.0], [80.0, 132.0], [84.0, 132.0]])
    _, covered = paste_faces(images, crops_of(images, [profile]), torch.ones(1, 64, 64, 3), mask="hull")
    assert covered[0, 112, 60] > 0.9, "the nose is inside"
    assert covered[0].sum(dim=0).nonzero().min() > 30


@pytest.mark.parametrize("restored_size", [32, 64, 100, 256])
@pytest.mark.parametrize("side", [31.0, 40.0, 66.7, 130.0])
def test_lands_within_a_tenth_of_a_pixel(restored_size: int, side: float) -> None:
    """A dot drawn into the restored crop comes out where the crop's geometry says, at every pair of sizes."""
    images = torch.zeros(1, 150, 150, 3)
    crops = crops_of(images, [face(side, 75.3, 74.6)], 64)
    dot, spread = (0.45, 0.6), max(0.03, 1.2 / restored_size, 1.2 / side)
    at = (torch.arange(restored_size) + 0.5) / restored_size
    u, v = torch.meshgrid(at, at, indexing="xy")
    restored = torch.exp(-((u - dot[0]) ** 2 + (v - dot[1]) ** 2) / (2 * spread**2))[None, :, :, None].expand(
        -1, -1, -1, 3
    )
    out, _ = paste_faces(images, crops, restored)
    y, x = torch.meshgrid(torch.arange(150) + 0.5, torch.arange(150) + 0.5, indexing="ij")
    seen = out[0, :, :, 0]
    found = torch.stack([(seen * x).sum(), (seen * y).sum()]) / seen.sum()
    expected = torch.tensor([75.3, 74.6]) + side * (torch.tensor(dot) - 0.5)
    assert (found - expected).norm() < 0.1


@pytest.mark.parametrize("factor", [2, 4])
def test_pastes_onto_an_enlargement(factor: int) -> None:
    images = torch.zeros(1, 60, 50, 3)
    enlarged = torch.zeros(1, 60 * factor, 50 * factor, 3)
    crops = crops_of(images, [face(30, 24, 33)])
    _, small = paste_faces(images, crops, crops.images, mask="box")
    _, large = paste_faces(enlarged, crops, crops.images, mask="box")
    for axis, expected in ((2, 33), (1, 24)):
        line = large[0].sum(dim=axis - 1)
        middle = (line * (torch.arange(len(line)) + 0.5)).sum() / line.sum() / factor
        assert abs(float(middle) - expected) < 0.1 / factor
    assert float(large.sum()) == pytest.approx(float(small.sum()) * factor**2, rel=0.03)


def test_an_enlargement_may_round_its_sides() -> None:
    crops = crops_of(torch.zeros(1, 77, 103, 3), [face(30, 50, 40)])
    for height, width in ((116, 154), (115, 154), (39, 52)):  # 1.5 times, rounded and cut off; half
        out, _ = paste_faces(torch.zeros(1, height, width, 3), crops, crops.images + 0.5)
        assert out.shape == (1, height, width, 3)
        assert out.any()
    for height, width in ((77, 102), (116, 160), (154, 203)):  # cut, stretched, twice but for three columns
        with pytest.raises(PoseFRError, match="keeps their proportions"):
            paste_faces(torch.zeros(1, height, width, 3), crops, crops.images)


@pytest.mark.parametrize("restored_size", [64, 256])
@pytest.mark.parametrize("degrees", [0, 25])
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_on_an_enlargement_the_face_lands_within_a_tenth_of_a_pixel(
    factor: int, degrees: float, restored_size: int
) -> None:
    """A tenth of a px of the enlarged picture, which is a fortieth of the original's at four times."""
    images, (x, y), side = torch.zeros(1, 80, 90, 3), (44.3, 38.8), 50.0
    crops = crops_of(images, [face(side, x, y, degrees)], 64)
    dot = torch.tensor([0.43, 0.61])
    at = (torch.arange(restored_size) + 0.5) / restored_size
    u, v = torch.meshgrid(at, at, indexing="xy")
    blob = torch.exp(-((u - dot[0]) ** 2 + (v - dot[1]) ** 2) / (2 * 0.05**2))
    enlarged = torch.zeros(1, 80 * factor, 90 * factor, 3)
    seen = paste_faces(enlarged, crops, blob[None, :, :, None].expand(-1, -1, -1, 3))[0][0, :, :, 0]
    rows, columns = torch.meshgrid(torch.arange(80 * factor) + 0.5, torch.arange(90 * factor) + 0.5, indexing="ij")
    found = torch.stack([(seen * columns).sum(), (seen * rows).sum()]) / seen.sum()
    a = math.radians(degrees)
    turn = torch.tensor([[math.cos(a), math.sin(a)], [-math.sin(a), math.cos(a)]])
    expected = (torch.tensor([x, y]) + (dot - 0.5) * side @ turn) * factor
    assert (found - expected).norm() < 0.1


@pytest.mark.parametrize("color_match", COLOR_MATCHES)
@pytest.mark.parametrize("mask", MASK_SHAPES)
def test_at_strength_0_every_bit_stays(mask: str, color_match: str) -> None:
    """Of values below 0 and above 1, of negative zeros and of what is not finite too."""
    images = noise(1, 70, 70, 3) * 3 - 1
    images[0, 30, 30], images[0, 31, 40], images[0, 32, 32] = float("nan"), float("-inf"), -0.0
    for pixels in (images, noise(1, 70, 70, 3), images.half()):
        crops = crops_of(pixels, [face(50, 33, 34, 20)])
        restored = noise(1, 64, 64, 3)
        out, covered = paste_faces(pixels, crops, restored, mask=mask, color_match=color_match, strength=0)
        kind = torch.int32 if pixels.dtype == torch.float32 else torch.int16
        assert torch.equal(out.view(kind), pixels.view(kind))
        assert covered.max() == 1


def test_a_40_px_face_pasted_from_512_does_not_alias() -> None:
    images = torch.full((1, 60, 60, 3), 0.5)
    crops = crops_of(images, [face(40, 30, 30, 12)], 512)
    stripes = (0.5 + 0.5 * torch.cos(torch.arange(512) * (2 * math.pi / 16)))[
        None, None, :, None
    ]  # 1.25 px of the image
    out, covered = paste_faces(images, crops, stripes.expand(1, 512, 512, 3))
    assert (out[covered == 1] - 0.5).abs().max() < 0.03


def test_the_larger_face_lies_on_top() -> None:
    images = torch.zeros(1, 120, 120, 3)
    small, large = face(50, 85, 60), face(80, 50, 60)
    restored = torch.stack([torch.full((64, 64, 3), 0.4), torch.full((64, 64, 3), 0.8)])
    both = [
        paste_faces(images, crops_of(images, points), values)
        for points, values in (([small, large], restored), ([large, small], restored.flip(0)))
    ]
    assert torch.equal(both[0][0], both[1][0])
    out, covered = both[0]
    _, of_large = paste_faces(images, crops_of(images, [large]), restored[1:])
    assert (out[of_large == 1] - 0.8).abs().max() < 1e-4
    assert covered.max() <= 1
    assert (out[0, 60, 85:88] - 0.4).abs().max() < 1e-4
    step = (out[0, 60, 1:, 0] - out[0, 60, :-1, 0]).abs().max()
    assert step < 0.8 * math.pi / 2 / (0.08 * 50) * 1.1, "a hard edge between the two"


def test_over_a_video_the_same_head_stays_on_top() -> None:
    """The second is a little larger, and their landmarks tremble by more than that."""
    count, shaky = 40, torch.randn(80, 5, 2, generator=torch.Generator().manual_seed(4)) * 0.5
    images = torch.zeros(count, 60, 90, 3)
    crops = crops_of(
        images,
        [face(40 + 2 * (i % 2), 30 + 28 * (i % 2), 30) + shaky[i] for i in range(80)],
        32,
        [i // 2 for i in range(80)],
    )
    restored = torch.where(torch.arange(80) % 2 == 0, 0.3, 0.9)[:, None, None, None].expand(-1, 32, 32, 3)

    def on_top(crops: Crops) -> list[bool]:
        return (paste_faces(images, crops, restored, feather=0)[0][:, 30, 44, 0] > 0.5).tolist()

    assert len(set(on_top(crops))) == 2, "of faces without tracks the larger one"
    tracked = replace(crops, faces=replace(crops.faces, track=torch.arange(80) % 2))
    assert all(on_top(tracked))


def test_every_frame_of_a_batch_gets_its_own_faces() -> None:
    images = torch.zeros(4, 50, 50, 3)
    crops = crops_of(images, [face(30, 25, 25)] * 2, frame=[2, 1])
    restored = torch.stack([torch.full((64, 64, 3), 0.25), torch.full((64, 64, 3), 0.75)])
    out, covered = paste_faces(images, crops, restored)
    assert out[:, 25, 25, 0].tolist() == pytest.approx([0, 0.75, 0.25, 0])
    assert covered.amax(dim=(1, 2)).tolist() == [0, 1, 1, 0]


def test_a_face_at_the_border_and_one_beyond_it() -> None:
    images = noise(1, 50, 50, 3)
    crops = crops_of(images, [face(40, 0, 25), face(20, 200, 200), face(20, -40, 3)])
    out, covered = paste_faces(images, crops, torch.ones(3, 64, 64, 3))
    assert covered[0, 25, 0] == 1
    assert torch.equal(out[:, :, 25:], images[:, :, 25:])


def test_alpha_and_type_are_handed_through() -> None:
    images = noise(1, 50, 50, 4).half()
    crops = crops_of(images, [face(40, 25, 25)])
    out, covered = paste_faces(images, crops, torch.ones(1, 64, 64, 3))
    assert out.dtype == torch.float16
    assert torch.equal(out[..., 3], images[..., 3])
    assert out[0, 25, 25, :3].tolist() == [1, 1, 1]
    assert covered.dtype == torch.float32


def test_no_faces_give_the_images_back() -> None:
    images = noise(2, 9, 9, 3)
    crops = crop_faces(images, Faces.empty((9, 9), 2), 64)
    out, covered = paste_faces(images, crops, torch.zeros(0, 128, 128, 3))
    assert torch.equal(out, images)
    assert out.data_ptr() != images.data_ptr()
    assert covered.shape == (2, 9, 9)
    assert not covered.any()


def test_outside_masks_are_feathered_inwards() -> None:
    images = torch.zeros(1, 100, 100, 3)
    crops = crops_of(images, [face(90, 50, 50)], 90)
    block = torch.zeros(1, 100, 100)
    block[:, 30:70, 25:75] = 1
    hard, soft = (paste_faces(images, crops, torch.ones(1, 90, 90, 3), mask=block, feather=f)[1] for f in (0, 10))
    assert torch.equal(hard, block)
    assert not soft[block == 0].any()
    assert soft[0, 50, 50] > 0.9999
    ramp = soft[0, 50, 25:36]
    assert 0 < ramp[0] < 0.1 < ramp[4] < 0.9
    assert (ramp[1:] >= ramp[:-1]).all()
    in_crop = torch.zeros(1, 180, 180)
    in_crop[:, 50:130, 40:140] = 1  # the same block
    found = paste_faces(images, crops, torch.ones(1, 90, 90, 3), mask=in_crop, feather=0)[1]
    assert (found - block).abs().max() < 0.05


@pytest.mark.parametrize("mask", MASK_SHAPES)
@pytest.mark.parametrize("degrees", [0, 30])
def test_shapes_grow_and_shrink_by_per_cent_of_the_crop(mask: str, degrees: float) -> None:
    images = torch.zeros(1, 240, 240, 3)
    crops = crops_of(images, [face(160, 120, 120, degrees)])

    def covered(grow: float, shape: str = mask) -> Tensor:
        return paste_faces(images, crops, crops.images, mask=shape, feather=0, grow=grow)[1]

    areas = [float(covered(grow).sum()) for grow in (-45, -20, -4, 0, 4)]
    perimeter = (areas[3] - areas[2]) / (0.04 * 160)
    assert areas[0] < areas[1] < areas[2]
    assert 3.3 < perimeter / math.sqrt(areas[3]) < 4.1  # a disc has 3.5, a square 4
    if mask == "box":
        assert areas[4] == areas[3], "nothing grows beyond the crop"
    else:
        assert areas[4] - areas[3] == pytest.approx(areas[3] - areas[2], rel=0.2)
        assert not covered(50)[covered(0, "box") == 0].any()
        assert float(covered(50).sum()) == pytest.approx(float(covered(0, "box").sum()), rel=0.05)


@pytest.mark.parametrize("space", ["image", "crop"])
@pytest.mark.parametrize("grow", [-13.0, -5.0, 0.0, 5.0, 13.0])
def test_outside_masks_grow_and_shrink(space: str, grow: float) -> None:
    """The crop is the image here, and 100 px wide, so that a per cent is a px."""
    images = torch.zeros(1, 100, 100, 3)
    crops = crops_of(images, [face(100, 50, 50)])
    block, expected = torch.zeros(1, 100, 100), torch.zeros(1, 100, 100)
    block[:, 30:70, 25:75] = 1
    by = int(grow)
    expected[:, 30 - by : 70 + by, 25 - by : 75 + by] = 1
    found = paste_faces(images, crops, crops.images, mask=block, mask_space=space, feather=0, grow=grow)[1]
    assert (found - expected).abs().max() < 1e-3
    feathered = paste_faces(images, crops, crops.images, mask=block, mask_space=space, feather=4, grow=grow)[1]
    assert not feathered[expected == 0].gt(1e-3).any()


@pytest.mark.parametrize("width", [0, 1, 9, 16, 17, 60])
def test_feather_never_leaves_the_mask(width: float) -> None:
    mask = noise(80, 90) * (noise(8, 9) > 0.3).repeat_interleave(10, dim=0).repeat_interleave(10, dim=1)
    soft = feather_inwards(mask, width)
    assert (soft <= mask).all()
    assert (soft >= 0).all()
    assert feather_inwards(torch.ones(80, 90), width).min() > 0.999


@pytest.mark.parametrize(("restored_size", "context"), [(64, 1.5), (64, 2.0), (160, 1.3), (48, 4.0)])
def test_of_a_crop_with_context_the_frame_is_pasted(photo: Tensor, restored_size: int, context: float) -> None:
    faces = crops_of(photo, [ASTRONAUT]).faces
    wide, frame = (crop_faces(photo, faces, 64, context=c) for c in (context, 1.0))
    white = torch.ones(1, restored_size, restored_size, 3)
    _, covered = paste_faces(photo, wide, white)
    _, expected = paste_faces(photo, frame, white)
    # The frame is cut at whole px of the crop: half a px off at most, which the soft edge makes a step of.
    assert (covered - expected).abs().max() < 0.5 * context / restored_size * math.pi / 2 / 0.08 * 1.1
    assert covered.sum() == pytest.approx(float(expected.sum()), rel=2 * context / restored_size)
    out, covered = paste_faces(photo, wide, wide.images, color_match="wavelet")
    assert (out - photo).abs()[covered > 0].mean() < 1.15 / 255
    _, all_of_it = paste_faces(photo, wide, white, mask=torch.ones(1, 32, 32), feather=0)
    _, box = paste_faces(photo, wide, white, mask="box", feather=0)
    assert all_of_it.sum() > 1.2 * box.sum(), "a mask of one's own may cover what is around the face"


@pytest.mark.parametrize("context", [1.0, 2.0])
def test_colors_are_matched_over_the_face_whatever_is_around_it(photo: Tensor, context: float) -> None:
    crops = crop_faces(photo, crops_of(photo, [ASTRONAUT]).faces, 256, context=context)
    head = head_mask(256, "cpu", context)
    darker = (crops.images - 0.12 * head[:, :, None]).clamp(0, 1)
    out, covered = paste_faces(photo, crops, darker, mask=(head > 0).float()[None], color_match="mean_std", feather=0)
    left = (out - photo)[covered > 0.99].mean()
    assert abs(float(left)) < 4 / 255


def test_a_mask_that_fits_both_is_told_apart_by_its_space() -> None:
    images = torch.zeros(1, 40, 40, 3)
    crops = crops_of(images, [face(20, 20, 20)])
    left = torch.zeros(1, 40, 40)
    left[:, :, :20] = 1
    in_image, by_default, in_crop = (
        paste_faces(images, crops, crops.images, mask=left, mask_space=space, feather=0)[1]
        for space in ("image", None, "crop")
    )
    assert torch.equal(in_image, by_default)
    assert torch.equal(in_crop[0, :, 20:], torch.zeros(40, 20))
    top = left.transpose(1, 2)
    tall = paste_faces(
        images, crops_of(images, [face(20, 20, 20, 90)]), crops.images, mask=top, mask_space="crop", feather=0
    )
    assert tall[1][0, 20, 24] > 0.9 > 0.1 > tall[1][0, 20, 16], "it turns with the crop"


@pytest.mark.parametrize("method", ["mean_std", "wavelet", "detail"])
def test_color_match_undoes_a_cast(photo: Tensor, method: str) -> None:
    crops = crops_of(photo, [ASTRONAUT], 256)
    cast = crops.images * torch.tensor([0.95, 0.85, 0.75]) + 0.02
    off, covered = paste_faces(photo, crops, cast)
    matched, _ = paste_faces(photo, crops, cast, color_match=method)
    inside = covered == 1
    assert (matched - photo)[inside].mean(dim=0).abs().max() < 0.01
    assert (matched - photo)[inside].abs().mean() < 0.3 * (off - photo)[inside].abs().mean()


@pytest.mark.parametrize("method", ["mean_std", "wavelet", "detail"])
def test_on_an_enlargement_of_other_colours_the_face_takes_those(photo: Tensor, method: str) -> None:
    crops = crops_of(photo, [ASTRONAUT], 256)
    enlarged = F.interpolate(photo.movedim(3, 1), scale_factor=2, mode="bicubic", antialias=True).movedim(1, 3)
    graded = enlarged.clamp(0, 1) * torch.tensor([0.9, 0.8, 0.7]) + 0.04
    off, covered = paste_faces(graded, crops, crops.images)
    matched, _ = paste_faces(graded, crops, crops.images, color_match=method)
    inside = covered == 1
    assert (off - graded)[inside].mean(dim=0).abs().max() > 0.05
    assert (matched - graded)[inside].mean(dim=0).abs().max() < 0.01


def test_detail_keeps_the_inputs_shapes_and_takes_the_restored_texture(photo: Tensor) -> None:
    crops = crops_of(photo, [ASTRONAUT], 256)
    x = torch.arange(256) / 256 * 2 * math.pi
    shape, texture = (0.05 * torch.cos(cycles * x)[None, None, :, None] for cycles in (14, 64))
    source = crops.images[0]
    restored = source + (shape + texture)[0]
    made = {m: apply_color(restored, color_change(restored, source, m), m) for m in COLOR_MATCHES}

    def share(method: str, of: Tensor) -> float:
        change = made[method] - crops.images[0]
        return float((change * of[0]).sum() / (of[0] ** 2).expand_as(change).sum())

    assert share("detail", shape) < 0.2
    assert share("wavelet", shape) > 0.8
    assert share("detail", texture) > 0.95


def test_color_statistics_are_those_of_the_face(photo: Tensor) -> None:
    crops = crops_of(photo, [ASTRONAUT], 256)
    corners = crops.images.clone()
    corners[:, :40, :40], corners[:, :40, -40:] = 1.0, 0.0
    plain, _ = paste_faces(photo, crops, crops.images)
    matched, _ = paste_faces(photo, crops, corners, color_match="mean_std")
    assert (matched - plain).abs().max() < 2e-3


@pytest.mark.parametrize("method", ["mean_std", "wavelet", "detail"])
def test_a_grey_photo_stays_grey(photo: Tensor, method: str) -> None:
    grey = photo.mean(dim=3, keepdim=True).expand(-1, -1, -1, 3)
    crops = crops_of(grey, [ASTRONAUT], 256)
    colored = crops.images.lerp(crops_of(photo, [ASTRONAUT], 256).images, 0.3)
    out, covered = paste_faces(grey, crops, colored, color_match=method)
    assert (out.amax(dim=3) - out.amin(dim=3))[covered > 0].max() < 1 / 255
    assert ((out - grey) * covered[..., None]).abs().mean() < 0.02


@pytest.mark.parametrize("method", ["mean_std", "wavelet", "detail"])
def test_color_match_leaves_right_colours_alone(photo: Tensor, method: str) -> None:
    crops = crops_of(photo, [ASTRONAUT], 256)
    plain, _ = paste_faces(photo, crops, crops.images)
    matched, _ = paste_faces(photo, crops, crops.images, color_match=method)
    assert (matched - plain).abs().max() < 2e-3
    black = torch.zeros(1, 30, 30, 3)
    flat = crops_of(black, [face(20, 15, 15)])
    assert torch.isfinite(paste_faces(black, flat, flat.images, color_match=method)[0]).all()


def test_mistakes_are_named() -> None:
    images = noise(1, 50, 40, 3)
    crops = crops_of(images, [face(30, 20, 20)])
    good = crops.images
    wrong: list[tuple[str, dict[str, object]]] = [
        ("There are 2 restored crops but 1 faces", {"restored": good.repeat(2, 1, 1, 1)}),
        (r"expected square RGB, \[1, S, S, 3\]", {"restored": good[:, :9]}),
        (r"expected square RGB", {"restored": good[..., :1]}),
        ("not finite", {"restored": good * float("nan")}),
        ("torch.uint8; expected floats", {"restored": good.byte()}),
        ("strength is 1.5", {"strength": 1.5}),
        ("strength is nan", {"strength": float("nan")}),
        ("feather is -1", {"feather": -1}),
        ("colour match 'lab' is unknown; pick one of none, mean_std, wavelet, detail", {"color_match": "lab"}),
        ("mask is to grow by 51", {"grow": 51}),
        ("mask 'circle' is unknown", {"mask": "circle"}),
        (r"mask has the shape \[1, 3, 4\]; expected \[1, 50, 40\]", {"mask": torch.zeros(1, 3, 4)}),
        ("to cover the images", {"mask": torch.zeros(2, 50, 40)}),
        ("mask space 'face' is unknown", {"mask": torch.zeros(1, 8, 8), "mask_space": "face"}),
        ("cut from 1 images of 40x50 px and do not fit onto 2", {"images": images.repeat(2, 1, 1, 1)}),
        ("do not fit onto 1 of 41x50 px", {"images": noise(1, 50, 41, 3)}),
    ]
    frames = noise(3, 50, 40, 3)
    last = crops_of(frames, [face(30, 20, 20)])
    last.faces.frame[:] = 2
    wrong.append(("cut from 3 images of 40x50 px and do not fit onto 2", {"images": frames[:2], "crops": last}))
    for message, change in wrong:
        arguments: dict[str, object] = {"images": images, "crops": crops, "restored": good, **change}
        with pytest.raises(PoseFRError, match=message):
            paste_faces(**arguments)  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    faces=st.lists(st.tuples(*[st.floats(-60, 60)] * 2, st.floats(0.1, 150), st.floats(-180, 180)), max_size=3),
    restored_size=st.integers(1, 40),
    mask=st.sampled_from(MASK_SHAPES),
    feather=st.floats(0, 50),
    strength=st.floats(0, 1),
    color_match=st.sampled_from(COLOR_MATCHES),
    grow=st.floats(-50, 50),
)
def test_any_faces_on_any_image(
    size: tuple[int, int],
    faces: list[tuple[float, float, float, float]],
    restored_size: int,
    mask: str,
    feather: float,
    strength: float,
    color_match: str,
    grow: float,
) -> None:
    images = noise(1, *size, 3)
    if faces:
        crops = crops_of(images, [face(side, x, y, degrees) for x, y, side, degrees in faces], 16)
    else:
        crops = crop_faces(images, Faces.empty(size, 1), 16)
    restored = noise(len(faces), restored_size, restored_size, 3)
    out, covered = paste_faces(
        images, crops, restored, mask=mask, feather=feather, color_match=color_match, strength=strength, grow=grow
    )
    assert out.shape == images.shape
    assert (out >= 0).all()
    assert (out <= 1).all()
    assert (covered >= 0).all()
    assert (covered <= 1 + 1e-6).all()
    assert torch.equal(out[covered == 0], images[covered == 0])
