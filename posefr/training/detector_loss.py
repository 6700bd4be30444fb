"""RetinaFace's multi-task loss: which prior should find which face, and how far the answers are off.

Source: Deng et al., "RetinaFace: Single-stage Dense Face Localisation in the Wild", arXiv 1905.00641, and the matching
rules of SSD (Liu et al., arXiv 1512.02325): a prior learns the face it overlaps most if by 0.35 or more, and every face
has at least the prior nearest to it; smooth L1 for boxes and landmarks; cross-entropy over all positive and the hardest
negative priors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..detection.priors import encode_boxes, encode_landmarks
from ..detection.suppression import overlaps

__all__ = ["Targets", "detection_loss", "match"]

_MATCH_IOU = 0.35
_LEAST_IOU = 0.2
_NEGATIVES_PER_POSITIVE = 7
_LEAST_NEGATIVES = 64
_QUADRATIC_BELOW = 0.1  # in encoded units: small errors keep their pull, where a landmark is to come right to the pixel


@dataclass(frozen=True)
class Targets:
    """What P priors should answer: kind [P] int64 (1 face, 0 background, -1 either), box [P, 4], landmarks [P, 10]."""

    kind: Tensor
    box: Tensor
    landmarks: Tensor


def match(boxes: Tensor, landmarks: Tensor, sure: Tensor, priors: Tensor) -> Targets:
    """Targets for one image.

    Args:
        boxes: [N, 4] px.
        landmarks: [N, 5, 2] px.
        sure: [N] bool; what overlaps a face that is not sure is neither learnt as a face nor as background.
        priors: [P, 3] as `prior_boxes` gives them.
    """
    count = len(priors)
    kind = torch.zeros(count, dtype=torch.int64)
    if not len(boxes):
        return Targets(kind, torch.zeros(count, 4), torch.zeros(count, 10))
    half = priors[:, 2:] / 2
    squares = torch.cat((priors[:, :2] - half, priors[:, :2] + half), dim=1)
    common = overlaps(boxes, squares)
    prior_area = priors[:, 2] ** 2
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    iou = common / (area[:, None] + prior_area[None] - common)

    unsure = ~sure
    if unsure.any():
        near = (iou[unsure] > _LEAST_IOU) | (common[unsure] > 0.6 * prior_area)
        kind[near.any(0)] = -1
    best = torch.zeros(count, dtype=torch.int64)
    if sure.any():
        iou = torch.where(sure[:, None], iou, -1.0)
        value, best = iou.max(0)
        kind[(value > 0.25) & (value < _MATCH_IOU) & (kind == 0)] = -1
        kind[value >= _MATCH_IOU] = 1
        nearest_value, nearest = iou.max(1)
        own = (nearest_value >= _LEAST_IOU).nonzero().flatten()
        best[nearest[own]] = own
        kind[nearest[own]] = 1
    return Targets(kind, encode_boxes(boxes[best], priors), encode_landmarks(landmarks[best], priors))


def detection_loss(outputs: tuple[Tensor, Tensor, Tensor], targets: list[Targets]) -> dict[str, Tensor]:
    """The terms `box`, `face` and `landmarks`, each a scalar per positive prior.

    Args:
        outputs: the network's boxes [B, P, 4], class logits [B, P, 2] and landmarks [B, P, 10].
        targets: B of them.
    """
    box, logits, landmarks = (o.float() for o in outputs)
    kind = torch.stack([t.kind for t in targets])
    positive, negative = kind == 1, kind == 0
    count = int(positive.sum())
    scale = 1.0 / max(count, 1)

    classes = kind.clamp_min(0)
    entropy = functional.cross_entropy(logits.transpose(1, 2), classes, reduction="none")
    hardest = entropy[negative].topk(min(max(_NEGATIVES_PER_POSITIVE * count, _LEAST_NEGATIVES), int(negative.sum())))
    face = (entropy[positive].sum() + hardest.values.sum()) * scale if count else hardest.values.mean()
    wanted_box = torch.stack([t.box for t in targets])[positive]
    wanted_landmarks = torch.stack([t.landmarks for t in targets])[positive]
    return {
        "box": _distance(box[positive], wanted_box) * scale,
        "face": face,
        "landmarks": _distance(landmarks[positive], wanted_landmarks) * scale,
    }


def _distance(answer: Tensor, wanted: Tensor) -> Tensor:
    return functional.smooth_l1_loss(answer, wanted, reduction="sum", beta=_QUADRATIC_BELOW)
