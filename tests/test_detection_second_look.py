"""The second look: crops lie where they are said to, both looks decide, and one face stays one face."""

from __future__ import annotations

import math
import os

import pytest
import torch
from torch import Tensor, nn

from posefr.detection import load_detector
from posefr.detection.fusion import fused
from posefr.detection.inference import Candidates
from posefr.detection.networks import build_network
from posefr.detection.releases import BUNDLED, SECOND_LOOK
from posefr.detection.second_look import (
    CROP,
    SecondLook,
    crop_transforms,
    cut_out,
    load_second_look,
    look_again,
    view_transforms,
)
from posefr.detection.suppression import same_face
from posefr.errors import PoseFRError

UPRIGHT = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [0.0, 0.0], [-0.8, 1.0], [0.8, 1.0]])


def turned(degrees: float) -> Tensor:
    angle = math.radians(degrees)
    return UPRIGHT @ torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])


def slope(height: int, width: int) -> Tensor:
    """[1, 3, H, W] whose channels are x / 1000, y / 1000 and 0, at the centres of the pixels."""
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack((x, y, torch.zeros_like(x)))[None] / 1000


@pytest.mark.parametrize("degrees", [0.0, 30.0, -100.0, 180.0])
@pytest.mark.parametrize("side", [20.0, 70.0, 333.0])
def test_a_crop_shows_the_pixels_that_its_transform_names(degrees, side):
    centre = torch.tensor([411.0, 352.0])
    boxes = torch.cat((centre - side / 2, centre + side / 2))[None]
    transforms = crop_transforms(boxes, centre + turned(degrees)[None] * side / 4)
    crop = cut_out(slope(700, 800), transforms)[0]
    v, u = torch.meshgrid(torch.arange(CROP) + 0.5, torch.arange(CROP) + 0.5, indexing="ij")
    inverse = torch.linalg.inv(transforms[0, :, :2])
    places = (torch.stack((u, v), dim=-1) - transforms[0, :, 2]) @ inverse.T
    assert (places > 8).all(), "the crop lies in the picture"
    torch.testing.assert_close(crop[:2].permute(1, 2, 0) * 1000, places, atol=0.05, rtol=0)
    eyes = (centre + turned(degrees)[:2] * side / 4) @ transforms[0, :, :2].T + transforms[0, :, 2]
    assert abs(float(eyes[0, 1] - eyes[1, 1])) < 0.01, "the eyes lie level"
    assert eyes[0, 0] < CROP / 2 < eyes[1, 0]


def test_a_crop_beyond_the_border_goes_on_in_its_colour():
    image = torch.zeros(1, 3, 60, 40)
    image[..., 0] = 1.0
    boxes = torch.tensor([[-30.0, 10.0, 10.0, 50.0], [-500.0, -500.0, -460.0, -460.0]])
    crops = cut_out(image, crop_transforms(boxes, (boxes[:, None, :2] + 20) + UPRIGHT * 10))
    assert (crops[0, :, 32, :36] > 0.99).all()
    assert torch.isfinite(crops).all()
    assert (crops[1] > 0.99).all()


def test_the_views_of_a_find_are_turned_about_its_middle_both_ways():
    boxes = torch.tensor([[100.0, 200.0, 164.0, 264.0], [300.0, 100.0, 340.0, 150.0]])
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    landmarks = centre[:, None] + torch.stack((turned(25), turned(-70))) * 16
    views = view_transforms(boxes, landmarks)
    eyes = landmarks[:, :2] @ views[..., :2].transpose(2, 3) + views[..., None, :, 2]
    across = eyes[:, :, 1] - eyes[:, :, 0]
    angles = torch.rad2deg(torch.atan2(across[..., 1], across[..., 0]))
    torch.testing.assert_close(angles, torch.tensor([[-10.0, -10.0], [10.0, 10.0]]), atol=1e-3, rtol=0)
    middles = (views[..., :2] @ centre[None, :, :, None] + views[..., 2:]).squeeze(-1)
    torch.testing.assert_close(middles, torch.full((2, 2, 2), CROP / 2), atol=1e-3, rtol=0)
    torch.testing.assert_close(cut_out(slope(400, 500), views)[1, 0], cut_out(slope(400, 500), views[1])[0])


def test_what_the_views_say_is_averaged():
    points = UPRIGHT * 12 + CROP / 2
    boxes = torch.tensor([[100.0, 200.0, 164.0, 264.0]])
    found = Candidates(boxes, torch.tensor([132.0, 232.0]) + UPRIGHT[None] * 16, torch.tensor([0.5]))
    views = view_transforms(found.boxes, found.landmarks)
    seen = look_again(Answers(0.0, points), torch.rand(2, 1, 3, CROP, CROP), views, found)
    upright = crop_transforms(found.boxes, found.landmarks)[0]
    alone = (points - upright[:, 2]) @ torch.linalg.inv(upright[:, :2]).T
    middle = torch.tensor([132.0, 232.0])
    torch.testing.assert_close(
        seen.landmarks[0] - middle, (alone - middle) * math.cos(math.radians(10)), atol=1e-3, rtol=0
    )


class Answers(SecondLook):
    """A second look that always gives the same answer."""

    def __init__(self, logit: float, points: Tensor) -> None:
        super().__init__()
        self.logit, self.points = logit, points

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full((len(crops),), self.logit), self.points.expand(len(crops), 5, 2)


def test_landmarks_come_back_into_the_picture_and_both_looks_score():
    points = UPRIGHT * 12 + CROP / 2
    boxes = torch.tensor([[100.0, 200.0, 164.0, 264.0], [300.0, 100.0, 340.0, 150.0]])
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    found = Candidates(boxes, centre[:, None] + torch.stack((turned(25), turned(-70))) * 16, torch.tensor([0.5, 0.9]))
    transforms = crop_transforms(found.boxes, found.landmarks)
    seen = look_again(Answers(1.0, points), torch.rand(1, 2, 3, CROP, CROP), transforms[None], found)
    assert seen.boxes.tolist() == boxes[[1, 0]].tolist(), "best first"
    logits = torch.tensor([math.log(0.9 / 0.1), 0.0])
    torch.testing.assert_close(torch.logit(seen.scores), (logits + 1.0) / 2)
    again = seen.landmarks @ transforms[[1, 0], :, :2].transpose(1, 2) + transforms[[1, 0], None, :, 2]
    torch.testing.assert_close(again, points.expand(2, 5, 2), atol=1e-3, rtol=0)


def test_a_find_moved_onto_another_ones_face_is_dropped():
    face = UPRIGHT * 20 + 100
    landmarks = torch.stack((face, face + 3, face + 60, UPRIGHT * 4 + 100))
    assert same_face(landmarks).tolist() == [0, 2, 3], "a face within a face is not this rule's matter"
    assert same_face(torch.zeros(0, 5, 2)).tolist() == []


def test_the_quick_copy_answers_as_the_network():
    torch.manual_seed(0)
    network = build_network("mobile0.25")
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    quick = fused(network)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in quick.modules())
    image = torch.rand(1, 3, 70, 90) * 255 - 110
    with torch.inference_mode():
        for expected, answer in zip(network(image), quick(image), strict=True):
            torch.testing.assert_close(answer, expected, atol=1e-3, rtol=1e-3)


def test_only_the_bundled_detector_looks_twice():
    assert load_detector("bundled").second_look is not None
    assert load_detector(BUNDLED).second_look is None


def test_a_host_moves_both_looks_with_one_module():
    detector = load_detector("bundled")
    moved = {id(parameter) for parameter in detector.network.parameters()}
    assert detector.second_look is not None
    both = [*detector.first_look.parameters(), *detector.second_look.parameters()]
    assert moved == {id(parameter) for parameter in both}


def test_both_bundled_files_are_small():
    assert os.path.getsize(BUNDLED) + os.path.getsize(SECOND_LOOK) <= 2 * 2**20


def test_a_file_of_something_else_is_refused(tmp_path):
    with pytest.raises(PoseFRError, match=r"detector\.safetensors holds no second look"):
        load_second_look(BUNDLED)
    with pytest.raises(PoseFRError, match="There is no second look file"):
        load_second_look(tmp_path / "absent.safetensors")
