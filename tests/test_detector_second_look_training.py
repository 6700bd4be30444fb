"""Samples for the second look show what they say, its loss knows a right answer, and a run can be resumed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors import safe_open
from test_detector_training import BGR, marked_photo

from posefr.detection.inference import Candidates
from posefr.detection.networks import build_network
from posefr.detection.second_look import SecondLook, load_second_look
from posefr.errors import PoseFRError
from posefr.training import detector_second_look
from posefr.training.detector import turned_more_often
from posefr.training.detector_canvas import Canvas, compose
from posefr.training.detector_photos import Photo
from posefr.training.detector_second_look import Samples, calibrate, gather, second_look_loss, train

NOTHING = Candidates(torch.zeros(0, 4), torch.zeros(0, 5, 2), torch.zeros(0))


def test_crops_and_landmarks_of_samples_agree():
    photos, rng = [marked_photo()] * 4, np.random.default_rng(0)
    right = total = faces = others = 0
    for _ in range(25):
        canvas = compose(photos, rng, 320)
        canvas.sure &= canvas.sizes() > 40
        samples = gather(canvas, NOTHING, rng)
        faces += int(samples.face.sum())
        others += int((samples.face == 0).sum())
        assert ((samples.unit > 0) == (samples.face > 0)).all()
        for crop, points in zip(samples.crops[samples.face > 0], samples.landmarks[samples.face > 0], strict=True):
            for (x, y), channel in zip(points.tolist(), BGR, strict=True):
                if 0 <= x < 64 and 0 <= y < 64:
                    total += 1
                    right += int(crop[:, int(y), int(x)].argmax() == 2 - channel)
    assert faces > 40
    assert others > 40
    assert right > 0.85 * total  # the others are covered by what was laid on them


def test_a_find_on_a_face_is_one_and_one_beside_it_is_none():
    photo = marked_photo()
    canvas = Canvas(photo.image, photo.boxes, photo.landmarks, photo.sure)
    boxes = torch.tensor([[52.0, 62.0, 152.0, 188.0], [0.0, 0.0, 40.0, 40.0]])
    found = Candidates(boxes, torch.from_numpy(photo.landmarks).repeat(2, 1, 1), torch.tensor([0.9, 0.8]))
    samples = gather(canvas, found, np.random.default_rng(0))
    assert samples.face[:2].tolist() == [1, 0]
    canvas.sure[:] = False
    assert not gather(canvas, found, np.random.default_rng(0)).face.any()


def test_the_right_answer_costs_nothing_and_a_wrong_one_does():
    landmarks = torch.rand(2, 5, 2) * 64
    samples = Samples(torch.zeros(2, 3, 64, 64), torch.tensor([1.0, 0.0]), landmarks, torch.tensor([25.0, 0.0]))
    right = second_look_loss(torch.tensor([20.0, -20.0]), landmarks, samples)
    assert max(float(v) for v in right.values()) < 1e-6
    wrong = second_look_loss(torch.tensor([-3.0, 3.0]), landmarks + 5, samples)
    assert float(wrong["face"]) > 2
    assert float(wrong["landmarks"]) == pytest.approx(5 / 25 - 0.005, abs=1e-4)


def test_calibration_leaves_no_more_false_finds_than_are_borne(monkeypatch):
    torch.manual_seed(0)
    canvases = [Canvas(np.full((64, 64, 3), 90, np.uint8)) for _ in range(4)]
    scores = torch.tensor([0.9, 0.6])
    found = Candidates(torch.tensor([[8.0, 8, 40, 40], [20.0, 20, 60, 60]]), torch.rand(2, 5, 2) * 40, scores)
    monkeypatch.setattr(detector_second_look, "find_candidates", lambda *_: [found])
    network = SecondLook().eval()

    def shift(borne: float) -> float:
        return calibrate(network, torch.nn.Identity(), canvases, borne)

    shift(0.0)
    assert abs(shift(0.0)) < 0.02, "calibrated once, nothing is left to do"
    assert shift(1.0) < -0.5, "with one find borne in each canvas the scores may be higher"


def test_turned_faces_come_up_more_often():
    photo = marked_photo()
    profile = photo.landmarks.copy()
    profile[0, 2, 0] += 55  # the nose far to one side
    turned = Photo(photo.image, photo.boxes, profile, photo.sure)
    empty = Photo(photo.image, np.zeros((0, 4), np.float32), np.zeros((0, 5, 2), np.float32), np.zeros(0, bool))
    more = turned_more_often([photo, turned, empty])
    assert [sum(p is q for p in more) for q in (photo, turned, empty)] == [1, 5, 1]


def test_a_run_writes_weights_and_goes_on(tmp_path):
    photos = [marked_photo()] * 40
    detector = build_network("mobile0.25")
    for head in detector.ClassHead:
        head.conv1x1.bias.data[1::2] -= 20.0  # it finds nothing: random weights would find hundreds
    parser = detector_second_look._parser()

    def arguments(*more: str):
        given = ["--faces", "a", "--reference", "b", "--out", str(tmp_path), "--canvas", "64", "--batch", "2", *more]
        return parser.parse_args([*given, "--float32"])

    with pytest.raises(PoseFRError, match="nothing to resume"):
        train(photos, [], detector, arguments("--resume"))
    train(photos, [], detector, arguments("--minutes", "0.01"))
    first = torch.load(tmp_path / "second_look.pt", weights_only=True)["step"]
    spent = torch.load(tmp_path / "second_look.pt", weights_only=True)["seconds"] / 60
    train(photos, [], detector, arguments("--minutes", str(spent + 0.01), "--resume"))
    assert torch.load(tmp_path / "second_look.pt", weights_only=True)["step"] > first > 0
    assert isinstance(load_second_look(tmp_path / "second_look.safetensors"), SecondLook)
    with safe_open(tmp_path / "second_look.safetensors", framework="pt") as file:
        facts = file.metadata()
    assert "non-commercial" in facts["licence"]
    assert np.isfinite(float(facts["score_shift"]))
