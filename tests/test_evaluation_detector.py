"""The comparison of detectors: what counts as found, as false, and as neither."""

from __future__ import annotations

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from posefr.detection.networks import build_network
from posefr.detection.weights import write_weights
from posefr.evaluation import detector as comparison
from posefr.evaluation.__main__ import main
from posefr.evaluation.detector import Picture, find_and_score
from posefr.faces import Faces

POINTS = torch.tensor([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])


def boxes(*rows):
    return torch.tensor(rows, dtype=torch.float32).view(-1, 4)


def landmarks(box):
    return box[:, None, :2] + POINTS * (box[:, 2:] - box[:, :2])[:, None]


def finder(box, scores=None, moved=0.0):
    """A detector that always finds these boxes."""
    scores = torch.linspace(0.9, 0.6, len(box)) if scores is None else torch.tensor(scores)

    def detect(images, **_):
        size = tuple(images.shape[1:3])
        return Faces.make(torch.zeros(len(box)), box, landmarks(box) + moved, scores, size, len(images))

    return SimpleNamespace(name="three", detect=detect)


def picture(true, unsure=()):
    image = np.zeros((200, 300, 3), np.uint8)
    return Picture("groups_detection", "a.png", image, true, landmarks(true), boxes(*unsure))


def test_a_face_counts_once_and_a_second_find_of_it_is_false():
    true = boxes([20, 20, 60, 60], [100, 20, 160, 100])
    score = find_and_score(finder(boxes([21, 20, 61, 60], [22, 23, 58, 62], [240, 150, 280, 190])), picture(true), 0.5)
    assert score.found.tolist() == [True, False]
    assert score.false.tolist() == [False, True, True]
    assert score.sizes == pytest.approx([40, np.sqrt(60 * 80)])


def test_the_landmark_error_is_told_in_distances_from_eyes_to_mouth():
    true = boxes([20, 20, 60, 60])
    score = find_and_score(finder(true, moved=3.0), picture(true), 0.5)
    assert score.errors == pytest.approx([3 * np.sqrt(2) / (0.4 * 40)], rel=1e-4)


def test_what_may_be_a_face_counts_neither_way():
    unsure = [[200, 100, 240, 150]]
    score = find_and_score(finder(boxes([202, 101, 241, 150], [10, 150, 30, 180])), picture(boxes(), unsure), 0.5)
    assert score.false.tolist() == [False, True]
    assert len(score.found) == 0


def test_spoilt_copies_are_the_same_ones_every_time_and_lose_tiny_faces():
    image = cv2.resize(np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8), (300, 200))
    true = boxes([10, 10, 14, 14], [60, 20, 190, 180])
    given = Picture("whole_lq", "b.png", image, true, landmarks(true), boxes())
    first, second = comparison._spoil([given], 2), comparison._spoil([given], 2)
    assert [p.name for p in first] == ["b.png 0", "b.png 1"]
    assert all(np.array_equal(a.image, b.image) for a, b in zip(first, second, strict=True))
    assert not np.array_equal(first[0].image, first[1].image)
    for spoilt in first:
        assert len(spoilt.boxes) + len(spoilt.unsure) == 2
        assert 4.0 in (spoilt.unsure[:, 2] - spoilt.unsure[:, 0]).tolist(), "4 px are too few in any copy"


def test_a_face_that_the_reference_misses_and_somebody_saw_is_no_false_find(tmp_path, monkeypatch):
    folder = tmp_path / "groups_detection"
    folder.mkdir()
    cv2.imwrite(str(folder / "a.png"), np.zeros((200, 400, 3), np.uint8))
    seen = tmp_path / "seen.json"
    seen.write_text(json.dumps({"groups_detection/a.png": [[0.5, 0.25, 0.6, 0.5]]}))
    monkeypatch.setattr(comparison, "_SEEN", seen)
    reference = finder(boxes([20, 20, 60, 60], [120, 20, 150, 60]), [0.95, 0.5])
    (made,) = comparison._photos(tmp_path, 200, reference)
    assert made.image.shape == (100, 200, 3)
    assert made.boxes.tolist() == [[20, 20, 60, 60]]
    torch.testing.assert_close(made.unsure, boxes([120, 20, 150, 60], [100, 25, 120, 50]))
    score = find_and_score(finder(boxes([20, 20, 60, 60], [101, 26, 121, 50])), made, 0.5)
    assert not score.false.any()


def test_the_faces_seen_by_eye_are_boxes_within_their_pictures():
    for name, seen in json.loads(comparison._SEEN.read_text()).items():
        assert name.split("/")[0] in comparison._SETS
        for x0, y0, x1, y1 in seen:
            assert 0 <= x0 < x1 <= 1
            assert 0 <= y0 < y1 <= 1


def test_the_command_prints_and_writes_both_conditions(tmp_path, capsys):
    (tmp_path / "photos" / "whole_lq").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "photos" / "whole_lq" / "a.png"), np.full((64, 80, 3), 90, np.uint8))
    torch.manual_seed(0)
    weights = tmp_path / "reference.safetensors"
    write_weights(build_network("mobile0.25"), "mobile0.25", weights, {})
    figures = tmp_path / "figures.json"
    options = ["detector", "--data", str(tmp_path), "--reference", str(weights), "--detector", "bundled",
               "--canvases", "0", "--copies", "1", "--json", str(figures), "--threshold", "0.999"]  # fmt: skip
    assert main(options) == 0
    printed = capsys.readouterr().out
    written = json.loads(figures.read_text())
    assert list(written) == ["clean bundled", "clean reference", "spoilt bundled", "spoilt reference"]
    assert all(name in printed for name in written)
    assert written["clean reference"]["whole_lq"]["false per picture"] == 0
    assert main([*options, "--reference", str(tmp_path / "absent.pth")]) == 1
    assert capsys.readouterr().err.startswith("error: ")
