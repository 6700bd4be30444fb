"""The identity loss: a MobileFaceNet's embeddings of the restored and the true face, differentiable."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import Conv2d
from torch.nn import functional as F

from ..errors import PoseFRError, brief

__all__ = ["ARCFACE_POINTS", "IdentityLoss", "MobileFaceNet", "align"]

# Where ArcFace's alignment (arXiv 1801.07698) puts eyes, nose and mouth corners in 112 x 112 px.
ARCFACE_POINTS = ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))
_SIDE = 112
_STRIDED = (0, 5, 12)  # features that halve the size


def _conv(inside: int, outside: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    padding = kernel // 2 if kernel < 7 else 0
    return [
        Conv2d(inside, outside, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(outside),
    ]


class _Bottleneck(nn.Module):
    """MobileNetV2's inverted residual (arXiv 1801.04381)."""

    def __init__(self, inside: int, hidden: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Sequential(*_conv(inside, hidden, 1), nn.ReLU6()),
            nn.Sequential(*_conv(hidden, hidden, 3, stride, hidden), nn.ReLU6()),
            *_conv(hidden, outside, 1),
        )
        self.adds = stride == 1 and inside == outside

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return x + y if self.adds else y


class _Separable(nn.Module):
    """A convolution a channel, then one over the channels; the names are the checkpoint's."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise, self.bn1 = _conv(channels, channels, 3, groups=channels)
        self.pointwise, self.bn2 = _conv(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.depthwise(x)))
        return F.relu(self.bn2(self.pointwise(x)))


class _Global(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise, self.bn = _conv(channels, channels, 7, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.depthwise(x))


class MobileFaceNet(nn.Module):
    """Unit embeddings [B, E] of aligned faces [B, 3, 112, 112] in 0..1 (after arXiv 1804.07573).

    The layout is that of the common 112 px checkpoint with inverted residuals; the widths are read from its tensors.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        width = tensors["conv1.0.weight"].shape[0]
        self.conv1 = nn.Sequential(*_conv(3, width, 3, stride=2), nn.ReLU6())
        self.dw_conv = _Separable(width)
        blocks: list[nn.Module] = []
        while (key := f"features.{len(blocks)}.conv") + ".2.weight" in tensors:
            outside, hidden = tensors[f"{key}.2.weight"].shape[:2]
            blocks.append(_Bottleneck(width, hidden, outside, 2 if len(blocks) in _STRIDED else 1))
            width = outside
        self.features = nn.Sequential(*blocks)
        last = tensors["conv2.0.weight"].shape[0]
        self.conv2 = nn.Sequential(*_conv(width, last, 1), nn.ReLU6())
        self.gdconv = _Global(last)
        length = tensors["conv3.weight"].shape[0]
        self.conv3 = Conv2d(last, length, 1)
        self.bn = nn.BatchNorm1d(length)
        self.load_state_dict(dict(tensors))
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        mean = image.new_tensor((0.485, 0.456, 0.406))[:, None, None]
        deviation = image.new_tensor((0.229, 0.224, 0.225))[:, None, None]
        x = self.features(self.dw_conv(self.conv1((image - mean) / deviation)))
        x = self.conv3(self.gdconv(self.conv2(x))).flatten(1)
        return F.normalize(self.bn(x))


def align(images: Tensor, landmarks: Tensor) -> Tensor:
    """The faces in ArcFace's alignment.

    Args:
        images: [B, 3, S, S]. landmarks: [B, 5, 2] px of these images, continuous coordinates.

    Returns:
        [B, 3, 112, 112], sampled bilinearly from the image made smaller first where it is much larger.
    """
    size = images.shape[-1]
    # The similarity from template to image by least squares; in complex numbers a ratio of two sums.
    template = torch.view_as_complex(torch.tensor(ARCFACE_POINTS, dtype=torch.float64)) + (0.5 + 0.5j)
    points = torch.view_as_complex(landmarks.double().cpu().contiguous())
    source, target = template - template.mean(), points - points.mean(1, keepdim=True)
    factor = (source.conj() * target).sum(1) / source.abs().square().sum()
    shift = points.mean(1) - factor * template.mean()
    step = float(factor.abs().mean())  # px of the image per px of the result
    while step > 1.5:
        images, step = F.avg_pool2d(images, 2), step / 2
    steps = torch.arange(_SIDE, dtype=torch.float64) + 0.5
    grid = torch.complex(*torch.meshgrid(steps, steps, indexing="xy"))
    where = torch.view_as_real(factor[:, None, None] * grid + shift[:, None, None])
    where = (where * (2 / size) - 1).to(images)
    return F.grid_sample(images, where, mode="bilinear", padding_mode="reflection", align_corners=False)


class IdentityLoss(nn.Module):
    """1 minus the cosine between the embeddings of restored and true faces, mean over the batch."""

    def __init__(self, network: MobileFaceNet) -> None:
        super().__init__()
        self.network = network

    @classmethod
    def load(cls, path: Path) -> IdentityLoss:
        """From a checkpoint of MobileFaceNet, a state dict (.pt, .pth).

        Raises:
            PoseFRError: no such file, or it holds something else.
        """
        if not path.is_file():
            raise PoseFRError(f"There is no identity network {path}; name the checkpoint of a MobileFaceNet.")
        try:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
            return cls(MobileFaceNet(tensors.get("state_dict", tensors)))
        except Exception as error:
            said = f"{path.name} is not a MobileFaceNet checkpoint as the loss needs it: {brief(error)}"
            raise PoseFRError(said) from None

    def forward(self, image: Tensor, target: Tensor, landmarks: Tensor) -> Tensor:
        """images [B, 3, S, S] in 0..1, landmarks [B, 5, 2] px."""
        with torch.no_grad():
            true = self.network(align(target.float(), landmarks))
        return 1 - (self.network(align(image.float().clamp(0, 1), landmarks)) * true).sum(1).mean()
