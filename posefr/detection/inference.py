"""One forward pass of a RetinaFace network: images in, candidates out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .priors import decode_boxes, decode_landmarks, prior_boxes
from .suppression import suppress

__all__ = ["Candidates", "find_candidates", "network_input"]

_MEAN_BGR = (104.0, 117.0, 123.0)  # what the public RetinaFace releases were trained with
_MOST_CANDIDATES = 2000


@dataclass(frozen=True)
class Candidates:
    """N faces found in one image: boxes [N, 4], landmarks [N, 5, 2] (both px of that image), scores [N], best first."""

    boxes: Tensor
    landmarks: Tensor
    scores: Tensor


def network_input(images: Tensor) -> Tensor:
    """RGB images [B, 3, H, W] of 0..1 as the networks take them: BGR, 0..255 less the mean."""
    mean = torch.tensor(_MEAN_BGR, device=images.device, dtype=images.dtype).view(1, 3, 1, 1)
    return images.flip(1) * 255 - mean


def find_candidates(network: nn.Module, images: Tensor, threshold: float) -> list[Candidates]:
    """Run the network on a batch and decode what it found, one set per image, overlapping finds removed.

    Args:
        network: a RetinaFace as `networks.build_network` makes it, in evaluation mode.
        images: [B, 3, H, W] RGB 0..1; converted to the network's dtype. What was found is on their device.
        threshold: 0..1, the least score.
    """
    parameter = next(network.parameters())
    priors = prior_boxes(images.shape[2], images.shape[3]).to(images.device)
    # A CPU is quickest with one image at a time: what the layers pass on then stays in its caches.
    together = 1 if parameter.device.type == "cpu" else max(len(images), 1)
    found = []
    for part in images.split(together):
        outputs = network(network_input(part.float()).to(parameter.device, parameter.dtype))
        for box, classes, landmarks in zip(*(o.to(images.device).float() for o in outputs), strict=True):
            found.append(_decode(box, classes, landmarks, priors, threshold))
    return found


def _decode(box: Tensor, classes: Tensor, landmarks: Tensor, priors: Tensor, threshold: float) -> Candidates:
    """What the network's answers about one image [P, 4], [P, 2] and [P, 10] mean."""
    score = classes[:, 1]
    index = torch.nonzero(score >= threshold).flatten()
    if len(index) > _MOST_CANDIDATES:
        index = index[score[index].topk(_MOST_CANDIDATES).indices]
    boxes, scores = decode_boxes(box[index], priors[index]), score[index]
    kept = suppress(boxes, scores)
    index = index[kept]
    return Candidates(boxes[kept], decode_landmarks(landmarks[index], priors[index]), scores[kept])
