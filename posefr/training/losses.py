"""Training losses."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["charbonnier", "discriminator_loss", "generator_loss", "log_error", "pyramid_loss", "r1_penalty"]


def charbonnier(image: Tensor, target: Tensor, weight: Tensor | None = None, epsilon: float = 1e-3) -> Tensor:
    """Mean of sqrt(difference^2 + epsilon^2), a smooth L1, over [B, C, H, W]; `weight` [B] weighs the images."""
    value = ((image.float() - target.float()).square() + epsilon**2).sqrt().mean((1, 2, 3))
    return (value if weight is None else value * weight).mean()


def log_error(image: Tensor, target: Tensor, floor: float = 1e-4) -> Tensor:
    """Mean over the images [B, C, H, W] of log(MSE + floor): what PSNR averages, times -10 / ln 10.

    The floor (40 dB) keeps nearly perfect images from deciding alone.
    """
    error = (image.float() - target.float()).square().mean((1, 2, 3))
    return (error + floor).log().mean()


def pyramid_loss(images: Mapping[int, Tensor], target: Tensor) -> Tensor:
    """Mean Charbonnier loss of the decoder's small images, keyed by size in px, against the target made as small."""
    losses = [charbonnier(image, F.adaptive_avg_pool2d(target, size)) for size, image in images.items()]
    return torch.stack(losses).mean()


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Non-saturating logistic loss (arXiv 1406.2661) of the discriminator's logits [B, 1]."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def generator_loss(fake: Tensor, weight: Tensor | None = None) -> Tensor:
    """The generator's side of the non-saturating logistic loss; `weight` [B] weighs the images."""
    value = F.softplus(-fake).flatten()
    return (value if weight is None else value * weight).mean()


def r1_penalty(discriminator: nn.Module, real: Tensor) -> Tensor:
    """Half the mean squared gradient norm of the logits at real images (arXiv 1801.04406, equation 9)."""
    real = real.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(discriminator(real).sum(), real, create_graph=True)
    return 0.5 * gradient.float().square().sum((1, 2, 3)).mean()
