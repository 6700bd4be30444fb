"""The set of faces that detection hands on."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from posefr.faces import Faces


def some(count: int = 3) -> Faces:
    start = torch.arange(count, dtype=torch.float32)[:, None]
    box = torch.cat([start, start, start + 4, start + 9], dim=1)
    return Faces.make(torch.arange(count) % 2, box, torch.rand(count, 5, 2), torch.rand(count), (20, 30), 2)


def test_unknown_pose_and_track_by_default() -> None:
    faces = some()
    assert faces.pose.isnan().all()
    assert faces.track.tolist() == [-1, -1, -1]
    assert faces.frame.dtype == faces.track.dtype == torch.int64
    assert (faces.image_size, faces.frames, len(faces)) == ((20, 30), 2, 3)


def test_size_is_the_root_of_the_area() -> None:
    assert some().size.tolist() == [6.0, 6.0, 6.0]
    swapped = dataclasses.replace(some(1), box=torch.tensor([[5.0, 5, 1, 9]]))
    assert swapped.size.tolist() == [0.0]


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (1, [1]),
        (-1, [2]),
        (slice(1, None), [1, 2]),
        ([2, 0], [2, 0]),
        ([], []),
        (torch.tensor([True, False, True]), [0, 2]),
        (torch.tensor([False, False, False]), []),
        (torch.tensor([1]), [1]),
    ],
)
def test_subsets_keep_every_field_together(index: object, expected: list[int]) -> None:
    faces = some()
    subset = faces[index]  # type: ignore[index]
    assert subset.box[:, 0].tolist() == expected
    for name in ("frame", "landmarks", "score", "pose", "track"):
        assert torch.equal(getattr(subset, name).nan_to_num(7), getattr(faces, name)[expected].nan_to_num(7))
    assert (subset.image_size, subset.frames) == (faces.image_size, faces.frames)


def test_cat_joins_sets_of_the_same_images() -> None:
    joined = Faces.cat([some(2), Faces.empty((20, 30), 2), some(1)])
    assert joined.box[:, 0].tolist() == [0, 1, 0]
    with pytest.raises(ValueError, match="same images"):
        Faces.cat([some(), Faces.empty((20, 31), 2)])
    with pytest.raises(ValueError, match="at least one"):
        Faces.cat([])


def test_fields_of_another_length_are_named() -> None:
    with pytest.raises(ValueError, match=r"Faces.landmarks has the shape \[2, 5, 2\]; expected \[3, 5, 2\]"):
        dataclasses.replace(some(3), landmarks=torch.zeros(2, 5, 2))


def test_never_changes() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        some().frames = 7  # type: ignore[misc]


def test_plain_numbers_for_reports() -> None:
    face = some().to_list()[2]
    assert face.box == (2.0, 2.0, 6.0, 11.0)
    assert (face.frame, face.track, len(face.landmarks)) == (0, -1, 5)
    assert face.yaw != face.yaw, "unknown is NaN"
    assert Faces.empty((1, 1), 1).to_list() == []
