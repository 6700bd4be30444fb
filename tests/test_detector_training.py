"""Canvases have exact labels, the loss knows a right answer, and a run can be stopped and resumed."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch

from posefr.detection import load_detector
from posefr.detection.networks import build_network
from posefr.detection.priors import prior_boxes
from posefr.errors import PoseFRError
from posefr.training.detector import Recipe, calibrate, score_canvases, train
from posefr.training.detector_canvas import Canvas, compose, mirror, transform_boxes
from posefr.training.detector_degradation import degrade
from posefr.training.detector_loss import detection_loss, match
from posefr.training.detector_photos import Photo

BGR = (0, 1, 2, 1, 0)  # the channel in which each landmark's disc shines


def marked_photo() -> Photo:
    """A grey photo whose landmarks are discs of pure colour."""
    image = np.full((240, 200, 3), 90, np.uint8)
    landmarks = np.array([[70, 100], [130, 100], [100, 130], [75, 160], [125, 160]], np.float32)
    for (x, y), channel in zip(landmarks, BGR, strict=True):
        colour = [0, 0, 0]
        colour[channel] = 255
        cv2.circle(image, (int(x), int(y)), 10, colour, -1)
    return Photo(image, np.array([[50, 60, 150, 190]], np.float32), landmarks[None], np.array([True]))


@pytest.fixture(scope="module")
def photos() -> list[Photo]:
    return [marked_photo()] * 40


def test_labels_lie_where_the_pixels_went(photos):
    rng = np.random.default_rng(0)
    right = total = 0
    for index in range(60):
        canvas = compose(photos, rng, 320)
        canvas = mirror(canvas) if index % 2 else canvas
        # Seen in a mirror the two eyes and the two mouth corners have changed their names, and so their colours.
        channels = (1, 0, 2, 0, 1) if index % 2 else BGR
        for points, size, sure in zip(canvas.landmarks, canvas.sizes(), canvas.sure, strict=True):
            if not sure or size < 40:
                continue
            for (x, y), channel in zip(points, channels, strict=True):
                if 0 <= x < 320 and 0 <= y < 320:
                    total += 1
                    right += int(canvas.image[int(y), int(x)].argmax() == channel)
    assert total > 300
    assert right > 0.9 * total  # the others are covered by what was laid on them


def test_the_same_seed_gives_the_same_canvas_and_copy(photos):
    first, second = (compose(photos, np.random.default_rng(7), 128) for _ in range(2))
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.boxes, second.boxes)
    one, other = (degrade(first.image, np.random.default_rng(9)) for _ in range(2))
    np.testing.assert_array_equal(one[0], other[0])
    assert one[1] == other[1] >= 1


def test_boxes_turn_as_the_ellipses_they_hold():
    box = np.array([[10, 20, 30, 60]], np.float32)
    quarter = np.array([[0.0, -1, 0], [1, 0, 0]])
    np.testing.assert_allclose(transform_boxes(box, quarter), [[-60, 10, -20, 30]], atol=1e-5)
    angle = np.radians(45)
    turned = np.array([[np.cos(angle), -np.sin(angle), 5], [np.sin(angle), np.cos(angle), 7]])
    round_box = np.array([[0, 0, 20, 20]], np.float32)
    size = np.diff(transform_boxes(round_box, turned).reshape(2, 2), axis=0)
    np.testing.assert_allclose(size, [[20, 20]], atol=1e-4)


def test_a_right_answer_costs_nothing_and_a_wrong_one_does():
    priors = prior_boxes(128, 128)
    boxes = torch.tensor([[20.0, 20, 60, 75], [80, 70, 100, 98], [4, 100, 20, 120]])
    landmarks = torch.rand(3, 5, 2) * 100
    targets = match(boxes, landmarks, torch.tensor([True, True, False]), priors)
    assert (targets.kind == 1).any()
    assert (targets.kind == -1).any()
    logits = torch.where((targets.kind == 1)[:, None], torch.tensor([-20.0, 20]), torch.tensor([20.0, -20]))
    right = detection_loss((targets.box[None], logits[None], targets.landmarks[None]), [targets])
    assert all(float(term) < 1e-6 for term in right.values())
    wrong = detection_loss((targets.box[None] + 1, -logits[None], targets.landmarks[None] + 1), [targets])
    assert all(float(term) > 1 for term in wrong.values())


def test_every_sure_face_has_a_prior():
    priors = prior_boxes(320, 320)
    corner = torch.rand(50, 1, 2) * 200
    for side in (11.0, 20.0, 45.0, 90.0, 110.0):
        for box in torch.cat((corner, corner + torch.tensor([side * 0.85, side * 1.15])), dim=1).flatten(1):
            targets = match(box[None], torch.zeros(1, 5, 2), torch.tensor([True]), priors)
            assert (targets.kind == 1).any()


def test_a_run_stops_at_its_budget_and_resumes(photos, tmp_path):
    def recipe(minutes: float) -> Recipe:
        return Recipe(minutes, 64, 2, 1e-3, 10, 0.0, 0.9, 0, False, 5.0, 100.0)

    with pytest.raises(PoseFRError, match="nothing to resume"):
        train(photos, recipe(0.01), tmp_path, {}, resume=True)
    train(photos, recipe(0.01), tmp_path, {"licence": "none"}, resume=False)
    first = torch.load(tmp_path / "state.pt", weights_only=True)
    assert first["step"] >= 1
    train(photos, recipe(first["seconds"] / 60 + 0.005), tmp_path, {"licence": "none"}, resume=True)
    second = torch.load(tmp_path / "state.pt", weights_only=True)
    assert second["step"] > first["step"]
    assert load_detector(tmp_path / "detector.safetensors").detect(torch.zeros(1, 64, 64, 3)).frames == 1
    assert not list(tmp_path.glob("*.part*"))
    for line in (tmp_path / "log.jsonl").read_text().splitlines():
        json.loads(line)


def test_calibration_leaves_no_more_false_finds_than_borne():
    torch.manual_seed(0)
    network = build_network("mobile0.25")
    with torch.no_grad():
        for head in network.ClassHead:
            head.conv1x1.bias[1::2] += 1
    canvases = [Canvas(np.random.default_rng(i).integers(0, 256, (96, 96, 3)).astype(np.uint8)) for i in range(4)]
    assert score_canvases(network, canvases)["false_per_canvas"] > 1
    before = network(torch.zeros(1, 3, 64, 64))[1][0, :, 1].logit()
    shift = calibrate(network, canvases, 0.5)
    assert shift > 0
    assert score_canvases(network, canvases)["false_per_canvas"] <= 0.5
    after = network(torch.zeros(1, 3, 64, 64))[1][0, :, 1].logit()
    torch.testing.assert_close(after, before - shift, atol=1e-3, rtol=0)


def test_too_few_photos_are_told(photos, tmp_path):
    with pytest.raises(PoseFRError, match="at least 40"):
        train(photos[:3], Recipe(0.01, 64, 2, 1e-3, 10, 0.0, 0.9, 0, False, 5.0, 100.0), tmp_path, {}, resume=False)


def test_mirroring_twice_changes_nothing(photos):
    canvas = compose(photos, np.random.default_rng(5), 96)
    back: Canvas = mirror(mirror(canvas))
    np.testing.assert_array_equal(back.image, canvas.image)
    np.testing.assert_allclose(back.boxes, canvas.boxes, atol=1e-4)
    np.testing.assert_allclose(back.landmarks, canvas.landmarks, atol=1e-4)
