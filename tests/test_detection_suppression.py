"""Overlap suppression against a plain loop, and its rule for nested boxes."""

from __future__ import annotations

import torch

from posefr.detection.priors import decode_boxes, decode_landmarks, encode_boxes, encode_landmarks, prior_boxes
from posefr.detection.suppression import suppress


def greedy(boxes: torch.Tensor, rank: torch.Tensor, limit: float) -> list[int]:
    """Textbook non-maximum suppression, one box at a time."""
    kept: list[int] = []
    for i in rank.argsort(descending=True).tolist():
        a = boxes[i]
        for j in kept:
            b = boxes[j]
            width = max(0.0, float(min(a[2], b[2]) - max(a[0], b[0])))
            height = max(0.0, float(min(a[3], b[3]) - max(a[1], b[1])))
            common = width * height
            union = float((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])) - common
            if common > limit * union:
                break
        else:
            kept.append(i)
    return kept


def test_agrees_with_the_textbook_loop():
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(300, 2, generator=generator) * 60
    boxes = torch.cat((corner, corner + 5 + torch.rand(300, 2, generator=generator) * 40), dim=1)
    rank = torch.rand(300, generator=generator)
    for limit in (0.2, 0.4, 0.7):
        assert suppress(boxes, rank, iou=limit, nested=1.0).tolist() == greedy(boxes, rank, limit)


def test_a_box_inside_a_better_one_goes_and_a_better_one_inside_stays():
    boxes = torch.tensor([[0.0, 0, 100, 100], [40, 40, 60, 60], [200, 0, 300, 100], [240, 40, 260, 60]])
    rank = torch.tensor([0.9, 0.8, 0.7, 0.95])
    assert suppress(boxes, rank).tolist() == [3, 0, 2]


def test_no_boxes():
    assert suppress(torch.zeros(0, 4), torch.zeros(0)).shape == (0,)


def test_encoding_is_undone_by_decoding():
    priors = prior_boxes(64, 96)
    corner = torch.rand(len(priors), 2) * 50
    boxes = torch.cat((corner, corner + 3 + torch.rand(len(priors), 2) * 40), dim=1)
    landmarks = torch.rand(len(priors), 5, 2) * 64
    torch.testing.assert_close(decode_boxes(encode_boxes(boxes, priors), priors), boxes, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(decode_landmarks(encode_landmarks(landmarks, priors), priors), landmarks)
