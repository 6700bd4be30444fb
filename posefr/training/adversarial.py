"""Adversarial training: the logistic losses, R1, feature matching, and the discriminator with its optimiser."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, autocast, nn
from torch.nn import functional as F

from ..layout import channels_last
from .discriminator import Discriminator
from .processes import Processes

__all__ = [
    "R1_EVERY",
    "Judge",
    "discriminator_loss",
    "feature_distance",
    "generator_loss",
    "r1_penalty",
    "same_squares",
]

R1_EVERY = 16  # steps: lazy regularisation, arXiv 1912.04958 section 3.1


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Non-saturating logistic loss (arXiv 1406.2661) of the discriminator's logits [B, 1]."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def generator_loss(fake: Tensor, weight: Tensor | None = None) -> Tensor:
    """The generator's side of the non-saturating logistic loss; `weight` [B] weighs the images."""
    value = F.softplus(-fake).flatten()
    return (value if weight is None else value * weight).mean()


def r1_penalty(discriminator: Callable[[Tensor], Tensor], real: Tensor) -> Tensor:
    """Half the mean squared gradient norm of the logits at real images (arXiv 1801.04406, equation 9)."""
    real = real.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(discriminator(real).sum(), real, create_graph=True)
    return 0.5 * gradient.float().square().sum((1, 2, 3)).mean()


def feature_distance(fake: Sequence[Tensor], real: Sequence[Tensor], weight: Tensor | None = None) -> Tensor:
    """Mean absolute difference of the discriminator's features, each layer over its own mean size (after
    arXiv 1711.11585, section 3.3, which has no such normalisation); `weight` [B] weighs the images."""
    distances = []
    for a, b in zip(fake, real, strict=True):
        value = (a.float() - b.detach().float()).abs().mean((1, 2, 3)) / b.detach().float().abs().mean().clamp_min(1e-6)
        distances.append((value if weight is None else value * weight).mean())
    return torch.stack(distances).mean()


def same_squares(size: int, *images: Tensor) -> list[Tensor]:
    """One random square of `size` px of each image of a batch [B, C, S, S], the same in all batches given."""
    starts = torch.randint(0, images[0].shape[-1] - size + 1, (len(images[0]), 2)).tolist()
    return [
        torch.stack([image[:, y : y + size, x : x + size] for image, (y, x) in zip(batch, starts, strict=True)])
        for batch in images
    ]


class Judge(nn.Module):
    """The discriminator and its optimiser.

    Args:
        size: of the images in px. learning_rate: Adam's. r1: weight of the gradient penalty.
        change: differentiable change of real and generated images before they are judged.
    """

    def __init__(
        self,
        size: int,
        learning_rate: float,
        r1: float,
        processes: Processes,
        bf16: bool = False,
        change: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.network = channels_last(Discriminator(size).to(processes.device))
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=learning_rate, betas=(0.0, 0.99))
        self.r1, self.processes, self.bf16 = r1, processes, bf16
        self.change: Callable[[Tensor], Tensor] = change or (lambda images: images)
        processes.same_start(self.network)

    def _autocast(self) -> torch.autocast:
        return autocast(self.processes.device.type, torch.bfloat16, enabled=self.bf16)

    def step(self, fake: Tensor, real: Tensor, step: int) -> dict[str, Tensor]:
        """One step of the discriminator on images [B, 3, S, S]; returns its losses."""
        self.network.requires_grad_(True)
        with self._autocast():
            true, false = self.network(self.change(real)), self.network(self.change(fake.detach().float()))
        loss = discriminator_loss(true.float(), false.float())
        losses = {"discriminator": loss, "real_above_0": (true > 0).float().mean()}
        if step % R1_EVERY == 0 and self.r1:
            losses["r1"] = r1_penalty(lambda images: self.network(self.change(images)), real)
            loss = loss + self.r1 * R1_EVERY * losses["r1"]
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.processes.average_gradients(self.network.parameters())
        self.optimizer.step()
        self.network.requires_grad_(False)
        return losses

    def losses(self, fake: Tensor, real: Tensor | None, weight: Tensor | None = None) -> dict[str, Tensor]:
        """The generator's losses: adversarial and, where there is a target, features; weighed by image."""
        with self._autocast():
            features, logits = self.network.features(self.change(fake.float()))
            losses = {"adversarial": generator_loss(logits.float(), weight)}
            if real is not None:
                with torch.no_grad():
                    wanted, _ = self.network.features(real)
                losses["features"] = feature_distance(features, wanted, weight)
        return losses
