"""Sharpness tells a blurred face from a sharp one, and neither size nor light changes it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import skimage.data
import torch
import torch.nn.functional as F
from torch import Tensor

from posefr.faces import Faces
from posefr.sharpness import face_sharpness

ASTRONAUT = torch.tensor([[203.0, 107.0], [242.0, 108.0], [222.0, 133.0], [208.0, 150.0], [238.0, 151.0]])


@pytest.fixture(scope="module")
def photo() -> Tensor:
    return torch.from_numpy(skimage.data.astronaut()).float()[None] / 255


@pytest.fixture(scope="module")
def face() -> Faces:
    box = torch.cat([ASTRONAUT.amin(dim=0), ASTRONAUT.amax(dim=0)])[None]
    return Faces.make(torch.zeros(1), box, ASTRONAUT[None], torch.ones(1), (512, 512), 1)


def resized(photo: Tensor, side: int) -> Tensor:
    small = F.interpolate(photo.movedim(3, 1), size=(side, side), mode="bicubic", antialias=True)
    return small.movedim(1, 3).clamp(0, 1)


def test_blurred_faces_are_less_sharp(photo: Tensor, face: Faces) -> None:
    values = [float(face_sharpness(resized(resized(photo, side), 512), face)) for side in (512, 256, 128, 64)]
    assert 25 < values[0] < 100
    for sharper, softer in pairwise(values):
        assert softer < 0.8 * sharper
    assert values[-1] < 10


def test_size_and_light_do_not_matter(photo: Tensor, face: Faces) -> None:
    """The face's crop is 156 px wide here; it is measured at 128."""
    value = face_sharpness(photo, face)
    large = replace(face, box=face.box * 3, landmarks=face.landmarks * 3, image_size=(1536, 1536))
    assert torch.allclose(face_sharpness(resized(photo, 1536), large), value, rtol=0.1)
    assert torch.allclose(face_sharpness(0.3 * photo + 0.1, face), value, rtol=0.02)
    turned = torch.stack([ASTRONAUT[:, 1], 512 - ASTRONAUT[:, 0]], dim=1)[None]
    assert torch.allclose(
        face_sharpness(torch.rot90(photo, 1, (1, 2)), replace(face, landmarks=turned)), value, rtol=0.05
    )


def test_one_value_for_each_face_in_its_own_image(photo: Tensor, face: Faces) -> None:
    images = torch.cat([resized(resized(photo, 64), 512), photo, torch.full_like(photo, 0.5)])
    faces = replace(face[[0, 0, 0, 0]], frame=torch.tensor([1, 0, 2, 1]), frames=3)
    sharp, soft, flat, again = face_sharpness(images, faces).tolist()
    assert sharp == again
    assert soft < sharp / 3
    assert flat < 0.1


def test_no_faces() -> None:
    assert face_sharpness(torch.zeros(2, 8, 9, 3), Faces.empty((8, 9), 2)).shape == (0,)
