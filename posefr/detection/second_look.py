"""A second look at what a detector found: each find cut out upright at one size, and judged by a small network.

The first network sees faces of all sizes at once and places them on a coarse grid. The second sees one find at a time,
always as large and as upright, and says whether it is a face and where its landmarks lie: a cascade, as in Zhang et
al., "Joint Face Detection and Alignment using Multi-task Cascaded Convolutional Networks", arXiv 1604.02878.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import Conv2d, Linear, functional

from ..batching import batches
from ..errors import PoseFRError
from .inference import Candidates
from .weights import read_state

__all__ = ["CROP", "SecondLook", "crop_transforms", "cut_out", "load_second_look", "look_again", "view_transforms"]

CROP = 64  # px, the side of the crops
_CONTEXT = 1.45  # the side of the crop in sides of the find's box
_CHUNK = 256  # crops that go through the network at a time
_VIEWS = (-10.0, 10.0)  # degrees; a find is seen turned by each, as it is and mirrored
# Where eyes, nose and mouth corners lie in a crop, nearly; -1..1, x to the right.
_MEAN = ((-0.27, -0.17), (0.27, -0.17), (0.0, 0.1), (-0.22, 0.37), (0.22, 0.37))


class SecondLook(nn.Module):
    """Crops [N, 3, 64, 64] RGB 0..1 to face logits [N] and landmarks [N, 5, 2], px of the crop."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_layer(3, 24, 2),
            *_layer(24, 24, 1),
            *_layer(24, 48, 2),
            *_layer(48, 48, 1),
            *_layer(48, 96, 2),
            *_layer(96, 96, 1),
            *_layer(96, 128, 2),
            *_layer(128, 64, 1, 1),
        )
        self.head = nn.Sequential(nn.Flatten(), Linear(64 * 16, 128), nn.ReLU(), Linear(128, 11))
        self.mean: Tensor
        self.register_buffer("mean", torch.tensor(_MEAN), persistent=False)

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        answer = self.head(self.body(crops * 2 - 1)).float()
        points = self.mean + answer[:, 1:].unflatten(1, (5, 2)) / 4
        return answer[:, 0], (points + 1) * (CROP / 2)


def _layer(inputs: int, outputs: int, stride: int, side: int = 3) -> list[nn.Module]:
    return [
        Conv2d(inputs, outputs, side, stride, side // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    ]


def load_second_look(path: Path) -> SecondLook:
    """The network with its weights, on the CPU, for use. Raises PoseFRError if the file holds something else."""
    state = read_state(path, "second look")
    network = SecondLook()
    own = network.state_dict()
    if own.keys() != state.keys() or any(own[name].shape != state[name].shape for name in own):
        raise PoseFRError(f"{path} holds no second look; fetch it again, or install PoseFR again.")
    network.load_state_dict({name: value.to(own[name].dtype) for name, value in state.items()})
    return network.eval()


def crop_transforms(boxes: Tensor, landmarks: Tensor) -> Tensor:
    """The similarities [N, 2, 3] from image px to crop px: the box's middle and size, upright by the landmarks.

    Args:
        boxes: [N, 4] x0 y0 x1 y1.
        landmarks: [N, 5, 2]; only the direction from eyes to mouth and from eye to eye counts.
    """
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    side = (boxes[:, 2:] - boxes[:, :2]).clamp_min(1).prod(1).sqrt()
    across = landmarks[:, 1] - landmarks[:, 0]
    down = (landmarks[:, 3] + landmarks[:, 4] - landmarks[:, 0] - landmarks[:, 1]) / 2
    axis = across + torch.stack((down[:, 1], -down[:, 0]), dim=1)
    length = axis.norm(dim=1, keepdim=True)
    axis = torch.where(length > 1e-6, axis / length.clamp_min(1e-6), torch.tensor([1.0, 0.0], device=axis.device))
    cos, sin = (axis * (CROP / (_CONTEXT * side))[:, None]).unbind(1)
    linear = torch.stack((torch.stack((cos, sin), 1), torch.stack((-sin, cos), 1)), 1)
    shift = CROP / 2 - (linear @ centre[:, :, None])
    return torch.cat((linear, shift), dim=2)


def view_transforms(boxes: Tensor, landmarks: Tensor) -> Tensor:
    """`crop_transforms` of each find in each view, [V, N, 2, 3]: their crops are turned about their middle.

    The mean of what two views say of the landmarks lies nearer to the truth than what one upright view says.
    """
    upright = crop_transforms(boxes, landmarks)
    middle = upright.new_tensor([CROP / 2, CROP / 2])
    views = []
    for degrees in _VIEWS:
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        turn = upright.new_tensor([[cos, -sin], [sin, cos]])
        views.append(torch.cat((turn @ upright[..., :2], turn @ (upright[..., 2:] - middle[:, None])), dim=2))
        views[-1][..., 2] += middle
    return torch.stack(views)


def cut_out(image: Tensor, transforms: Tensor) -> Tensor:
    """Crops [..., 3, 64, 64] under transforms [..., 2, 3]; what lies outside the image is its border's colour, what
    is not finite black.

    A crop that shrinks the image is cut from a copy halved until one of its px is 0.7 to 1.4 px of the crop.

    Args:
        image: [1, 3, H, W].
        transforms: image px to crop px.
    """
    crops = torch.empty((transforms.shape[:-2].numel(), 3, CROP, CROP), device=image.device)
    height, width = image.shape[2:]
    steps = torch.arange(CROP) + 0.5
    corner = torch.tensor([[0.0, 0.0], [CROP, 0.0], [CROP, CROP], [0.0, CROP]])
    for i, transform in enumerate(transforms.float().cpu().reshape(-1, 2, 3)):
        inverse = torch.linalg.inv(transform[:, :2])
        level = max(0, round(math.log2(max(float(inverse.det().abs().sqrt()), 1e-6))))
        reach = (corner - transform[:, 2]) @ inverse.T
        margin = 2 << level
        x0, y0 = ((reach.amin(0) - margin).long() >> level << level).tolist()
        x1, y1 = (reach.amax(0) + margin).long().tolist()
        x0, y0 = min(max(x0, 0), max(width - margin, 0)), min(max(y0, 0), max(height - margin, 0))
        part = image[:, :, y0 : max(y1, y0 + margin), x0 : max(x1, x0 + margin)].float().nan_to_num(0, 0, 0).clamp(0, 1)
        halved = 0
        while halved < level and min(part.shape[2:]) >= 2:
            part, halved = functional.avg_pool2d(part, 2), halved + 1
        half_extent = torch.tensor([part.shape[3], part.shape[2]]) * 2.0 ** (halved - 1)
        along = inverse / half_extent[:, None]
        shift = (-(inverse @ transform[:, 2]) - torch.tensor([x0, y0])) / half_extent - 1
        places = steps[None, :, None] * along[:, 0] + steps[:, None, None] * along[:, 1] + shift
        crops[i] = functional.grid_sample(
            part, places[None].to(image.device), padding_mode="border", align_corners=False
        )[0]
    return crops.view(*transforms.shape[:-2], 3, CROP, CROP)


def look_again(network: SecondLook, crops: Tensor, transforms: Tensor, found: Candidates) -> Candidates:
    """The finds with landmarks as the second look sees them, and scores that both looks agree on; best first.

    Each crop is seen as it is and mirrored, and what is seen in all views of a find is averaged. The score's logit is
    the mean of both looks'.

    Args:
        crops: [V, N, 3, 64, 64] of the finds, in V views.
        transforms: [V, N, 2, 3] from px of the finds to px of the crops.
        found: N finds.
    """
    if not len(found.scores):
        return found
    views, device = crops.flatten(0, 1), next(network.parameters()).device
    seen = [_both_ways(network, views[part].to(device)) for part in batches(len(views), _CHUNK, device)]
    logits, points = (
        torch.cat(answers).to(crops.device).unflatten(0, crops.shape[:2]) for answers in zip(*seen, strict=True)
    )
    inverse = torch.linalg.inv(transforms[..., :2])
    landmarks = ((points - transforms[..., None, :, 2]) @ inverse.transpose(2, 3)).mean(0)
    scores = torch.sigmoid((torch.logit(found.scores, 1e-6) + logits.mean(0)) / 2)
    order = torch.argsort(scores, descending=True, stable=True)
    return Candidates(found.boxes[order], landmarks[order], scores[order])


def _both_ways(network: SecondLook, crops: Tensor) -> tuple[Tensor, Tensor]:
    """What the network says of crops [N, 3, 64, 64] as they are and mirrored, averaged."""
    logits, points = network(torch.cat((crops, crops.flip(3))))
    plain, mirrored = points.chunk(2)
    mirrored = mirrored[:, [1, 0, 2, 4, 3]]
    mirrored = torch.stack((CROP - mirrored[..., 0], mirrored[..., 1]), dim=-1)
    return logits.view(2, -1).mean(0), (plain + mirrored) / 2
