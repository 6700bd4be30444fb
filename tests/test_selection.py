"""Picking faces: order, filters, indices and limits, frame by frame."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from posefr.errors import PoseFRError
from posefr.faces import Faces
from posefr.selection import ORDERS, select_faces, split_faces

# frame, x0, y0, x1, y1, score, yaw, pitch
ROWS = [
    (0, 10, 60, 30, 80, 0.9, 0, 0),  # 20 px
    (0, 60, 5, 100, 45, 0.6, -50, 5),  # 40 px
    (0, 40, 40, 70, 70, 0.8, 30, math.nan),  # 30 px, in the middle
    (1, 0, 0, 10, 90, 0.7, math.nan, -40),  # 30 px, tall and narrow
    (1, 50, 50, 85, 85, 0.99, 10, 10),  # 35 px
]


@pytest.fixture
def faces() -> Faces:
    rows = torch.tensor(ROWS)
    pose = torch.cat([rows[:, 6:], torch.zeros(len(ROWS), 1)], dim=1)
    return Faces.make(rows[:, 0], rows[:, 1:5], torch.zeros(len(ROWS), 5, 2), rows[:, 5], (110, 110), 3, pose=pose)


def numbers(found: Faces) -> list[int]:
    """Which of ROWS these are, told by their scores."""
    return [next(i for i, row in enumerate(ROWS) if row[5] == pytest.approx(score)) for score in found.score.tolist()]


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("area", [1, 2, 0, 4, 3]),
        ("left_to_right", [0, 2, 1, 3, 4]),
        ("top_to_bottom", [1, 2, 0, 3, 4]),
        ("center", [2, 0, 1, 4, 3]),
        ("confidence", [0, 2, 1, 4, 3]),
    ],
)
def test_order_within_each_frame(faces: Faces, order: str, expected: list[int]) -> None:
    assert numbers(select_faces(faces, order=order)) == expected
    assert order in ORDERS


@pytest.mark.parametrize(
    ("indices", "expected"),
    [
        ("", [1, 2, 0, 4, 3]),
        ("0", [1, 4]),
        ("1-2", [2, 0, 3]),
        (" 0 , 2 - 2,", [1, 0, 4]),
        ("2-999999999", [0]),
        ("7", []),
    ],
)
def test_indices_count_per_frame_in_the_chosen_order(faces: Faces, indices: str, expected: list[int]) -> None:
    picked, rest = split_faces(faces, indices=indices)
    assert numbers(picked) == expected
    assert sorted(numbers(picked) + numbers(rest)) == [0, 1, 2, 3, 4]


def test_a_faces_number_is_the_same_whatever_is_filtered(faces: Faces) -> None:
    """The numbers are those of a picture of all faces; what a filter drops leaves a gap."""
    assert numbers(select_faces(faces, size=(0, 35), indices="0")) == [4], "face 0 of the first frame is too large"
    assert numbers(select_faces(faces, size=(0, 35), indices="1")) == [2, 3]
    shown = select_faces(faces, order="left_to_right")
    for frame in (0, 1):
        in_frame = numbers(shown[shown.frame == frame])
        for number, face in enumerate(in_frame):
            picked = select_faces(faces, order="left_to_right", indices=str(number), frames=str(frame), yaw=(-60, 60))
            assert numbers(picked) == [face]


def test_the_limit_counts_what_is_left(faces: Faces) -> None:
    assert numbers(select_faces(faces, size=(0, 35), limit=1)) == [2, 4]
    assert numbers(select_faces(faces, indices="1-2", limit=1)) == [2, 3]


def test_frames(faces: Faces) -> None:
    assert numbers(select_faces(faces, frames="1")) == [4, 3]
    assert numbers(select_faces(faces, frames="0,2-9", limit=1)) == [1]
    with pytest.raises(PoseFRError, match="frames 'last' cannot be read"):
        select_faces(faces, frames="last")


def test_filters(faces: Faces) -> None:
    assert numbers(select_faces(faces, size=(30, 36))) == [2, 4, 3]
    assert numbers(select_faces(faces, confidence=0.75)) == [2, 0, 4]
    assert numbers(select_faces(faces, yaw=(-10, 40))) == [2, 0, 4, 3], "a face of unknown yaw passes"
    assert numbers(select_faces(faces, pitch=(-10, 8))) == [1, 2, 0], "a face of unknown pitch passes"


def test_tracks(faces: Faces) -> None:
    with pytest.raises(PoseFRError, match="the faces have none"):
        select_faces(faces, tracks="0")
    assert len(select_faces(faces[:0], tracks="0")) == 0, "where there is no face, none lacks a track"
    tracked = replace(faces, track=torch.tensor([3, 0, -1, 3, 1]))
    assert numbers(select_faces(tracked, tracks="3")) == [0, 3]
    assert numbers(select_faces(tracked, tracks="0-1, 7")) == [1, 4]
    assert numbers(select_faces(tracked, tracks="1-3", limit=1)) == [0, 4], "tracks come before the limit"
    with pytest.raises(PoseFRError, match="tracks 'x' cannot be read"):
        select_faces(tracked, tracks="x")


def test_any_other_test_as_a_mask(faces: Faces) -> None:
    among = torch.tensor([True, False, True, False, True])
    assert numbers(select_faces(faces, among=among)) == [2, 0, 4]
    assert numbers(select_faces(faces, among=among, limit=1)) == [2, 4]
    with pytest.raises(PoseFRError, match=r"torch.float32 of the shape \[5\]; expected torch.bool"):
        select_faces(faces, among=among.float())
    with pytest.raises(PoseFRError, match=r"shape \[4\]; expected torch.bool and \[5\]"):
        select_faces(faces, among=among[:4])


def test_the_rest_is_what_was_not_picked(faces: Faces) -> None:
    picked, rest = split_faces(faces, limit=1)
    assert (numbers(picked), numbers(rest)) == ([1, 4], [2, 0, 3])


def test_no_faces() -> None:
    none = Faces.empty((10, 10), 2)
    for order in ORDERS:
        picked, rest = split_faces(none, order=order, indices="0,2-4", limit=3)
        assert len(picked) == len(rest) == 0
        assert picked.frames == 2


@pytest.mark.parametrize("indices", ["a", "-1", "4-2", "1-", "0;1", "1.5", "0,,x"])
def test_unreadable_indices_are_named(faces: Faces, indices: str) -> None:
    with pytest.raises(PoseFRError, match="cannot be read at"):
        select_faces(faces, indices=indices)


def test_other_mistakes_are_named(faces: Faces) -> None:
    with pytest.raises(PoseFRError, match="order 'size' is unknown"):
        select_faces(faces, order="size")
    with pytest.raises(PoseFRError, match="limit is -1"):
        select_faces(faces, limit=-1)
    with pytest.raises(PoseFRError, match="range of yaw is 60 to -60"):
        select_faces(faces, yaw=(60, -60))
    with pytest.raises(PoseFRError, match="range of size"):
        select_faces(faces, size=(math.nan, 5))


def test_people_keep_their_order_over_a_video() -> None:
    frame = torch.arange(6).repeat_interleave(2)
    size = torch.tensor([30.0, 29, 31, 33, 32, 30, 28, 31, 33, 30, 34, 29])  # the second one is larger now and then
    corner = torch.tensor([0.0, 60.0]).repeat(6)[:, None].expand(-1, 2)
    box = torch.cat([corner, corner + size[:, None]], dim=1)
    tracks = torch.tensor([1, 0]).repeat(6)
    faces = Faces.make(frame, box, torch.zeros(12, 5, 2), torch.ones(12), (110, 110), 6, track=tracks)
    assert select_faces(faces, limit=1).track.tolist() == [1] * 6
    assert select_faces(faces, indices="1").track.tolist() == [0] * 6
    alone = faces[(faces.track == 0) | (faces.frame < 3)]
    assert select_faces(alone, limit=1).track.tolist() == [1, 1, 1, 0, 0, 0]
    untracked = replace(faces, track=torch.full_like(tracks, -1))
    assert select_faces(untracked, limit=1).size.tolist() == pytest.approx([30, 33, 32, 31, 33, 34])
