"""Pictures for people, and faces as records."""

from __future__ import annotations

import json
from dataclasses import replace

import torch
from fakes import FakeDetector

from posefr.drawing import compare, draw_faces
from posefr.faces import Faces
from posefr.report import face_records


def _boxed(box: list[float], **options) -> Faces:
    """One face with the given box in an image of 80 x 60 px; its landmarks all lie in the box's middle."""
    x0, y0, x1, y1 = box
    middle = torch.tensor([(x0 + x1) / 2, (y0 + y1) / 2]).expand(1, 5, 2)
    return Faces.make(torch.zeros(1), torch.tensor([box]), middle, torch.tensor([0.5]), (60, 80), 1, **options)


def test_a_box_is_drawn_on_its_pixels_and_nowhere_else():
    image = torch.rand(1, 60, 80, 3, dtype=torch.float64)
    drawn = draw_faces(image, _boxed([20.5, 30.5, 60.5, 50.5]))
    changed = (drawn != image).any(-1)[0]
    assert changed[30, 20:61].all()
    assert changed[50, 20:61].all()
    assert changed[30:51, 20].all()
    assert changed[30:51, 60].all()
    assert changed[40, 40], "the landmarks"
    assert not changed[51:].any()
    assert not changed[32:48, 22:38].any(), "the face itself stays visible"
    assert drawn.dtype == image.dtype
    assert torch.equal(drawn.clamp(0, 1), drawn)


def test_faces_beyond_the_border_can_be_drawn():
    drawn = draw_faces(torch.zeros(1, 60, 80, 3), _boxed([-30.0, -20.0, 40.0, 500.0]))
    assert drawn[0, :30].any(), "the label of a box at the upper edge lies inside the image"


def test_a_label_stays_within_the_sides():
    inside = draw_faces(torch.zeros(1, 100, 300, 3), _boxed([40.0, 50.0, 90.0, 90.0]))[0, 30:48]
    label = int(inside.any(-1).any(0).sum())
    for x0, x1 in ((-30.0, 20.0), (280.0, 330.0)):
        drawn = draw_faces(torch.zeros(1, 100, 300, 3), _boxed([x0, 50.0, x1, 90.0]))[0, 30:48]
        assert abs(int(drawn.any(-1).any(0).sum()) - label) <= 1


def test_only_the_frame_of_a_face_is_drawn_on():
    images = torch.zeros(3, 64, 96, 3)
    faces = FakeDetector().detect(images)
    drawn = draw_faces(images, faces[faces.frame == 1])
    assert [bool(d.any()) for d in drawn] == [False, True, False]


def test_a_track_keeps_its_colour_over_the_images():
    images = torch.zeros(2, 64, 160, 3)
    faces = FakeDetector().detect(images)  # the first of each image is at the left, with its lower edge at 36
    for tracks, same in (([0, 1, 0, 1], True), ([0, 1, 1, 0], False)):
        edge = draw_faces(images, replace(faces, track=torch.tensor(tracks)))[:, 34:38, 12].amax(dim=1)
        assert edge.any()
        assert torch.equal(edge[0], edge[1]) == same


def test_versions_stand_beside_each_other_with_the_faces_below():
    dark, light = torch.zeros(1, 64, 96, 3), torch.ones(1, 64, 96, 3)
    faces = FakeDetector().detect(dark)
    sheet = compare([("a", dark), ("b", light)], faces)
    alone = compare([("a", dark)], faces)
    small = compare([("a", dark), ("b", light)], faces, most=1)
    assert sheet.shape[2] > 1.9 * alone.shape[2]
    assert small.shape[1] < sheet.shape[1] == alone.shape[1]
    rows = sheet[0, 100:, :, 0]
    assert (rows[:, : rows.shape[1] // 2] == 0).float().mean() > 0.9
    assert (rows[:, rows.shape[1] // 2 :] == 1).float().mean() > 0.6


def test_records_are_json_with_nothing_made_up_for_the_unknown():
    faces = FakeDetector().detect(torch.zeros(2, 64, 96, 3))
    records = face_records(faces)
    assert [(r["frame"], r["index"]) for r in records] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert records[1]["box"] == [68.0, 16.0, 92.0, 40.0]
    assert records[1]["size"] == 24.0
    assert [records[0][k] for k in ("yaw", "pitch", "roll", "track")] == [None] * 4
    assert json.loads(json.dumps(records, allow_nan=False)) == records


def test_what_is_known_of_pose_and_track_is_recorded():
    faces = _boxed([0.0, 0.0, 9.0, 9.0], pose=torch.tensor([[12.345, -3.0, 0.5]]), track=torch.tensor([7]))
    (record,) = face_records(faces)
    assert (record["yaw"], record["pitch"], record["roll"], record["track"]) == (12.35, -3.0, 0.5, 7)
