"""Losses between restored faces and their targets."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["agreement", "charbonnier", "latent_distance", "log_error", "pyramid_loss", "region_loss", "region_weight"]


def charbonnier(image: Tensor, target: Tensor, weight: Tensor | None = None, epsilon: float = 1e-3) -> Tensor:
    """Mean of sqrt(difference^2 + epsilon^2), a smooth L1, over [B, C, H, W]; `weight` [B] weighs the images."""
    value = ((image.float() - target.float()).square() + epsilon**2).sqrt().mean((1, 2, 3))
    return (value if weight is None else value * weight).mean()


def log_error(image: Tensor, target: Tensor, weight: Tensor | None = None, floor: float = 1e-4) -> Tensor:
    """Mean over the images [B, C, H, W] of log(MSE + floor): what PSNR averages, times -10 / ln 10.

    The floor (40 dB) keeps nearly perfect images from deciding alone; `weight` [B] weighs the images.
    """
    value = ((image.float() - target.float()).square().mean((1, 2, 3)) + floor).log()
    return (value if weight is None else value * weight).mean()


def pyramid_loss(images: Mapping[int, Tensor], target: Tensor) -> Tensor:
    """Mean Charbonnier loss of the decoder's small images, keyed by size in px, against the target made as small."""
    losses = [charbonnier(image, F.adaptive_avg_pool2d(target, size)) for size, image in images.items()]
    return torch.stack(losses).mean()


def region_loss(image: Tensor, target: Tensor, landmarks: Tensor) -> Tensor:
    """Charbonnier loss around eyes and mouth: landmarks [B, 5, 2] in px of the images [B, C, S, S]."""
    weight = region_weight(landmarks, image.shape[-1])
    value = ((image.float() - target.float()).square() + 1e-6).sqrt().mean(1, keepdim=True)
    return (value * weight).sum() / weight.sum()


def region_weight(landmarks: Tensor, size: int) -> Tensor:
    """[B, 1, size, size]: a bump of height 1 over each eye and one along the mouth, 0 far from them.

    They are as wide as a quarter of the distance from eyes to mouth (standard deviation), which a turned head keeps.
    """
    eyes, corners = landmarks[:, :2], landmarks[:, 3:]
    spots = torch.cat([eyes, corners, corners.mean(1, keepdim=True)], 1)
    width = 0.25 * torch.linalg.vector_norm(eyes.mean(1) - corners.mean(1), dim=1).clamp_min(1)
    steps = torch.arange(size, device=landmarks.device) + 0.5
    bump_x = ((steps - spots[..., :1]) / width[:, None, None]).square()  # [B, 5, size]
    bump_y = ((steps - spots[..., 1:]) / width[:, None, None]).square()
    return torch.exp(-0.5 * (bump_y[..., :, None] + bump_x[..., None, :])).amax(1, keepdim=True)


def agreement(first: Tensor, second: Tensor, target: Tensor) -> Tensor:
    """Distance between two results [B, C, H, W] for one face; the one further from its target follows the other.

    Were both to give way, what a good input shows would be lost to a bad one.
    """
    errors = [(image - target).float().square().mean((1, 2, 3), keepdim=True) for image in (first, second)]
    ahead = errors[0] < errors[1]
    leader, follower = torch.where(ahead, first, second), torch.where(ahead, second, first)
    return charbonnier(follower, leader.detach())


def latent_distance(latents: Tensor, other: Tensor) -> Tensor:
    """Squared distance between two latents of one face, over that between different faces.

    As a ratio it cannot be lowered by making all latents small or equal. latents, other: [B, L, C], B at least 2.
    """
    within = (latents - other).float().square().mean()
    between = (latents - other.roll(1, 0)).float().square().mean()
    return within / between.clamp_min(1e-8)
