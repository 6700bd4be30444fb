"""Boxes of other nodes become faces, and faces become boxes: nothing moves on the way."""

from __future__ import annotations

import math
from collections import namedtuple

import numpy as np
import pytest
import torch
from fakes import FakeDetector
from torch import Tensor

from posefr.conversion import (
    BOX_LAYOUTS,
    SEG_MASKS,
    Box,
    faces_in_boxes,
    find_landmarks,
    read_boxes,
    read_segs,
    to_bounding_boxes,
    to_boxes,
    to_segs,
)
from posefr.errors import PoseFRError
from posefr.faces import Faces
from posefr.geometry import alignment_transform, apply_transform

Seg = namedtuple("Seg", "cropped_image cropped_mask confidence crop_region bbox label control_net_wrapper")


def seg(bbox, confidence=0.9, region=(0, 0, 50, 50)):
    return Seg(None, np.ones((50, 50), np.float32), confidence, list(region), bbox, "face", None)


@pytest.fixture
def faces() -> Faces:
    return FakeDetector().detect(torch.zeros(2, 64, 96, 3))


# Reading


def test_segs_are_read_whatever_their_confidence_is_kept_in():
    confidences = [0.8, np.array([0.8], np.float32), np.float32(0.8), torch.tensor(0.8)]
    boxes = read_segs(((100, 200), [seg((10, 20, 30, 60), c) for c in confidences]), (100, 200))
    assert [b[:4] for b in boxes] == [(10, 20, 30, 60)] * 4
    assert [b.score for b in boxes] == pytest.approx([0.8] * 4)
    assert read_segs(((100, 200), [seg((0, 0, 9, 9), None)]), (100, 200))[0].score == 1


def test_segs_without_a_box_give_their_region_and_others_sizes_are_scaled():
    (box,) = read_segs(((100, 200), [seg(None, region=(10, 20, 30, 60))]), (200, 400))
    assert box[:4] == (20, 40, 60, 120)
    assert read_segs(((100, 200), []), (100, 200)) == []


@pytest.mark.parametrize("wrong", [None, 5, (3, [1]), ((0, 0), [seg((0, 0, 1, 1))]), ((9, 9), [seg("box")]), [[]]])
def test_other_things_than_segs_are_refused(wrong):
    with pytest.raises(PoseFRError, match="SEGS cannot be read"):
        read_segs(wrong, (100, 200))


CORNERS, EXTENT = [10.0, 20.0, 30.0, 60.0], [10.0, 20.0, 20.0, 40.0]
CORE = {"x": 10, "y": 20, "width": 20, "height": 40}
EXPECTED = Box(10, 20, 30, 60)


@pytest.mark.parametrize(
    "value",
    [
        CORNERS,
        tuple(CORNERS),
        [CORNERS],
        torch.tensor(CORNERS),
        np.array([CORNERS]),
        [torch.tensor(CORNERS)],
        [[CORNERS]],
        [[CORNERS], [CORNERS]],
        CORE,
        [CORE],
        [[CORE]],
        [[CORE], [CORE]],
        [[*CORNERS, "face"]],
    ],
)
def test_one_box_for_every_image_in_every_form(value):
    assert read_boxes(value, 2) == [[EXPECTED], [EXPECTED]]


def test_boxes_of_each_image_are_kept_apart():
    assert read_boxes([[CORNERS], []], 2) == [[EXPECTED], []]
    assert read_boxes([[], [CORE, CORE]], 2) == [[], [EXPECTED, EXPECTED]]
    assert read_boxes([], 2) == read_boxes([[]], 2) == read_boxes([[], []], 2) == [[], []]
    with pytest.raises(PoseFRError, match="boxes are those of 3 images, but there are 2"):
        read_boxes([[CORNERS]] * 3, 2)


def test_the_layout_of_numbers_is_the_users_and_of_dictionaries_their_own():
    assert read_boxes([EXTENT], 1, BOX_LAYOUTS[1]) == [[EXPECTED]]
    assert read_boxes(CORE, 1, BOX_LAYOUTS[1]) == [[EXPECTED]]
    with pytest.raises(PoseFRError, match="layout 'yxyx' is unknown"):
        read_boxes([EXTENT], 1, "yxyx")


def test_scores_are_kept_within_their_range():
    assert [b.score for b in read_boxes([[*CORNERS, s] for s in (0.25, 7.0, math.nan)], 1)[0]] == [0.25, 1, 1]
    assert read_boxes([{**CORE, "score": 0.5, "label": "face"}], 1)[0][0].score == 0.5


@pytest.mark.parametrize("wrong", ["box", [1.0, 2.0, 3.0], {"x": 1, "y": 2}, 7, ["a", "b"], [[1, 2, "c", 4]], None])
def test_what_is_no_box_is_named(wrong):
    with pytest.raises(PoseFRError, match="cannot be read; expected four numbers"):
        read_boxes(wrong, 1)


# Boxes to faces


def test_a_box_becomes_an_upright_face_within_it():
    faces = faces_in_boxes([[Box(10, 20, 50, 70, 0.5)], []], (100, 200))
    assert (faces.frames, faces.image_size, faces.frame.tolist()) == (2, (100, 200), [0])
    assert faces.box.tolist() == [[10, 20, 50, 70]]
    assert faces.score.tolist() == [0.5]
    assert faces.pose.isnan().all()
    points = faces.landmarks[0]
    assert ((points > torch.tensor([10, 20])) & (points < torch.tensor([50, 70]))).all()
    assert points[0, 1] == points[1, 1] < points[2, 1] < points[3, 1]
    assert points[[0, 1], 0].mean() == points[2, 0] == 30


def test_a_face_without_landmarks_is_cropped_as_a_detected_one():
    """The mean face stands where the detector's own landmarks do, to a tenth of the crop."""
    skimage = pytest.importorskip("skimage.data")
    from posefr.detection import load_detector

    photo = torch.from_numpy(skimage.astronaut()).float()[None] / 255
    found = load_detector("bundled").detect(photo)[0]
    guessed = faces_in_boxes([[Box(*found.box[0].tolist())]], (512, 512))
    square = torch.tensor([[[0.0, 0.0], [256.0, 256.0]]])
    moved = [
        apply_transform(alignment_transform(f.landmarks, 256), apply_inverse(found, square)) for f in (found, guessed)
    ]
    assert (moved[0] - moved[1]).abs().max() < 26


def apply_inverse(faces: Faces, points: Tensor) -> Tensor:
    from posefr.geometry import invert_similarity

    return apply_transform(invert_similarity(alignment_transform(faces.landmarks, 256)), points)


def test_boxes_without_area_or_off_the_image_are_left_out():
    none = [Box(5, 5, 5, 9), Box(9, 9, 5, 5), Box(-9, 0, 0, 9), Box(200, 0, 220, 9), Box(0, 0, math.inf, 9)]
    assert len(faces_in_boxes([none], (100, 200))) == 0
    assert len(faces_in_boxes([[*none, Box(-5, -5, 5, 5)]], (100, 200))) == 1
    assert faces_in_boxes([], (100, 200)).frames == 0


class SquareFinder:
    """Finds white squares: one face in each view that has white pixels, its landmarks at their middle."""

    def __init__(self) -> None:
        self.views = 0

    def __call__(self, views: Tensor) -> Faces:
        assert views.shape[1:] == (320, 320, 3)
        self.views += len(views)
        rows = []
        for i, view in enumerate(views):
            y, x = (view[..., 0] > 0.5).nonzero().T
            if len(x):
                rows.append([i, x.min(), y.min(), x.max() + 1, y.max() + 1])
        if not rows:
            return Faces.empty((320, 320), len(views))
        values = torch.tensor(rows).float()
        middle = (values[:, 1:3] + values[:, 3:]) / 2
        points = middle[:, None] + torch.tensor([[-9.0, -9], [9, -9], [0, 0], [-9, 9], [9, 9]])
        return Faces.make(values[:, 0], values[:, 1:], points, torch.full((len(rows),), 0.7), (320, 320), len(views))


def test_landmarks_are_looked_for_inside_each_box():
    images = torch.zeros(2, 200, 300, 3)
    images[1, 80:120, 150:190] = 1
    boxes = [[Box(10, 10, 60, 60, 0.3)], [Box(140, 75, 200, 125, 0.4), Box(0, 150, 30, 180, 0.6)]]
    finder = SquareFinder()
    faces, found = find_landmarks(images, faces_in_boxes(boxes, (200, 300)), finder)
    assert found.tolist() == [False, True, False]
    assert finder.views == 3
    assert faces.frame.tolist() == [0, 1, 1]
    assert faces.score.tolist() == pytest.approx([0.3, 0.4, 0.6])
    assert torch.allclose(faces.box[1], torch.tensor([150.0, 80, 190, 120]), atol=0.6)
    assert torch.allclose(faces.landmarks[1, 2], torch.tensor([170.0, 100]), atol=0.4)
    assert faces.pose[1].isfinite().all()
    guessed = faces_in_boxes(boxes, (200, 300))
    assert torch.equal(faces.landmarks[[0, 2]], guessed.landmarks[[0, 2]])
    assert faces.pose[[0, 2]].isnan().all()


def test_a_face_beside_the_box_is_not_taken():
    """The view is larger than the box; what lies outside the box belongs to another."""
    images = torch.zeros(1, 200, 300, 3)
    images[0, 95:105, 125:135] = 1
    _, found = find_landmarks(images, faces_in_boxes([[Box(60, 70, 120, 130)]], (200, 300)), SquareFinder())
    assert found.tolist() == [False]


def test_real_landmarks_are_found_in_boxes_that_are_too_large_and_shifted():
    skimage = pytest.importorskip("skimage.data")
    from posefr.detection import load_detector

    photo = torch.from_numpy(skimage.astronaut()).float()[None] / 255
    detector = load_detector("bundled")
    known = detector.detect(photo)[0]
    x0, y0, x1, y1 = known.box[0].tolist()
    side = x1 - x0
    loose = Box(x0 - 0.2 * side, y0 - 0.5 * side, x1 + 0.5 * side, y1 + 0.6 * side)
    faces, found = find_landmarks(photo, faces_in_boxes([[loose]], (512, 512)), detector.detect)
    assert found.tolist() == [True]
    assert (faces.landmarks - known.landmarks).norm(dim=2).max() < 0.06 * side
    assert (faces.pose - known.pose).abs().max() < 8


def test_many_boxes_are_looked_into_a_few_at_a_time():
    sizes = []

    def none(views: Tensor) -> Faces:
        sizes.append(len(views))
        return Faces.empty((320, 320), len(views))

    boxes = faces_in_boxes([[Box(0, 0, 9, 9)] * 40], (20, 20))
    faces, found = find_landmarks(torch.zeros(1, 20, 20, 3), boxes, none)
    assert (len(faces), int(found.sum()), max(sizes), sum(sizes)) == (40, 0, 32, 40)


# Faces to boxes


def test_boxes_come_back_as_they_went(faces: Faces):
    size = faces.image_size
    there = {
        "bounding": [read_boxes(to_bounding_boxes(faces), 2)],
        "bbox": [[read_boxes(b, 1, layout)[0] for b in to_boxes(faces, layout)] for layout in BOX_LAYOUTS],
        "segs": [[read_segs(s, size) for s in to_segs(faces)]],
    }
    for kind, forms in there.items():
        for boxes in forms:
            back = faces_in_boxes(boxes, size)
            assert torch.equal(back.box, faces.box), kind
            assert torch.equal(back.frame, faces.frame), kind
            if kind != "bbox":  # which holds no scores
                assert torch.allclose(back.score, faces.score), kind


def test_an_image_without_faces_has_an_empty_list(faces: Faces):
    second = faces[faces.frame == 1]
    assert [len(b) for b in to_boxes(second)] == [0, 2]
    assert [len(b) for b in to_bounding_boxes(second)] == [0, 2]
    assert [(size, len(found)) for size, found in to_segs(second)] == [((64, 96), 0), ((64, 96), 2)]


def test_bounding_boxes_are_what_the_core_nodes_use(faces: Faces):
    first = to_bounding_boxes(faces)[0][0]
    assert list(first) == ["x", "y", "width", "height", "label", "score"]
    assert (first["x"], first["y"], first["width"], first["height"]) == (4, 20, 16, 16)


def test_a_region_reaches_around_its_box_and_ends_at_the_image(faces: Faces):
    images = torch.rand(2, 64, 96, 3)
    small, large = to_segs(faces, factor=2.0, images=images)[1][1]
    assert small.bbox == [4, 20, 20, 36]
    assert small.crop_region == [0, 12, 28, 44]
    assert large.crop_region == [56, 4, 96, 52]
    for one in (small, large):
        left, top, right, bottom = one.crop_region
        assert one.cropped_mask.shape == (bottom - top, right - left)
        assert one.cropped_mask.dtype == np.float32
        assert np.array_equal(one.cropped_image[0], images[1, top:bottom, left:right].numpy())
        x0, y0, x1, y1 = one.bbox
        assert one.cropped_mask[y0 - top : y1 - top, x0 - left : x1 - left].min() == 1
        assert one.cropped_mask.sum() == (x1 - x0) * (y1 - y0)
    assert to_segs(faces)[0][1][0].cropped_image is None
    assert small._replace(label="eye").label == "eye", "packs copy a SEG with other values"


@pytest.mark.parametrize("mask", ["ellipse", "hull"])
def test_a_masks_shape_follows_the_face(faces: Faces, mask: str):
    one = to_segs(faces, mask=mask)[0][1][1]
    left, top, _, _ = one.crop_region
    for x, y in faces.landmarks[1].tolist():
        assert one.cropped_mask[int(y) - top, int(x) - left] == 1
    assert 0.1 < one.cropped_mask.mean() < 0.9
    assert mask in SEG_MASKS


def test_wrong_arguments_are_named(faces: Faces):
    with pytest.raises(PoseFRError, match="mask 'star' is unknown"):
        to_segs(faces, mask="star")
    with pytest.raises(PoseFRError, match="factor of the region is 0"):
        to_segs(faces, factor=0)


def test_no_faces_give_no_boxes():
    none = Faces.empty((64, 96), 3)
    assert to_boxes(none) == to_bounding_boxes(none) == [[], [], []]
    assert to_segs(none) == [((64, 96), [])] * 3
    faces, found = find_landmarks(torch.zeros(3, 64, 96, 3), none, SquareFinder())
    assert len(faces) == len(found) == 0
