"""Squares of restored faces, which a refinement is trained on, alone or with the rest of the network."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..restoration.network import PoseFRNet
from ..restoration.refinement import FOLD
from .losses import LEAST_ERROR

__all__ = ["SquarePool", "refine_a_quarter"]

_KEPT = 128  # faces
_SQUARES = 8  # drawn for each new face
_SHARE = 3 / 8  # of a face's side, a square's side
_BORDER = 8  # px of a square that a refinement sees less around than in a face


class _Witness(nn.Module):
    """In the place of a refinement: keeps what it would have looked at, and adds nothing."""

    seen: tuple[Tensor, ...] = ()

    def forward(self, *seen: Tensor) -> Tensor:
        self.seen = seen
        return torch.zeros_like(seen[0])


class SquarePool:
    """What a network gives its last refinement to look at, kept for the last faces.

    A refinement decides by its surroundings, while the rest of the network, which stays as it is, costs the most. So
    each face is restored once and drawn from many times, and a step sees squares of many faces.

    Args:
        network: with a refinement at its own size.
    """

    def __init__(self, network: PoseFRNet) -> None:
        self._network = network
        self._size = str(network.config.size)
        self._refinement = network.refinements[self._size]
        self._faces: deque[tuple[Tensor, ...]] = deque(maxlen=_KEPT)

    @torch.no_grad()
    def add(self, degraded: Tensor, target: Tensor) -> None:
        """Restore faces [B, 3, S, S] and keep them, with the squared error that is left."""
        witness = _Witness()
        self._network.refinements[self._size] = witness
        try:
            self._network(degraded, 1.0)
        finally:
            self._network.refinements[self._size] = self._refinement
        degraded, image, features = witness.seen
        error = (image - target).float().square().mean((1, 2, 3)) + LEAST_ERROR
        self._faces.extend(zip(degraded, image, features, target, error, strict=True))

    def error(self, faces: int) -> tuple[Tensor, Tensor]:
        """The refined squared error of squares, for `faces` new faces, over that of their whole faces before, and the
        same without the refinement: means."""
        chosen = torch.randint(len(self._faces), (_SQUARES * faces,)).tolist()
        degraded, image, features, target, error = (
            torch.stack(list(values))
            for values in zip(*(self._square(*self._faces[index]) for index in chosen), strict=True)
        )
        refined = image + self._refinement(degraded, image, features)
        inside = (..., slice(_BORDER, -_BORDER), slice(_BORDER, -_BORDER))
        after, before = (
            ((value - target)[inside].float().square().mean((1, 2, 3)) / error).mean() for value in (refined, image)
        )
        return after, before

    def _square(self, degraded: Tensor, image: Tensor, features: Tensor, target: Tensor, error: Tensor) -> list[Tensor]:
        places = features.shape[-1]
        side = round(places * _SHARE)
        y, x = torch.randint(places - side + 1, (2,)).tolist()
        own = features[:, y : y + side, x : x + side]
        y, x, side = y * FOLD, x * FOLD, side * FOLD
        first, second, third = (value[:, y : y + side, x : x + side] for value in (degraded, image, target))
        return [first, second, own, third, error]


def refine_a_quarter(refinement: nn.Module) -> None:
    """Let a refinement in training mode look at a random square of half a face's side, and add nothing around it.

    It is the costliest part of a training step. Near the square's border it sees less around than in a face, and adds
    nothing there either.
    """
    square = [0, 0, 0]

    def cut(module: nn.Module, seen: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        if not module.training:
            return seen
        degraded, image, features = seen
        places = features.shape[-1]
        side = places // 2
        y, x = torch.randint(places - side + 1, (2,)).tolist()
        own = features[..., y : y + side, x : x + side]
        y, x, side = square[:] = y * FOLD, x * FOLD, side * FOLD
        return degraded[..., y : y + side, x : x + side], image[..., y : y + side, x : x + side], own

    def fill(module: nn.Module, _: tuple[Tensor, ...], added: Tensor) -> Tensor:
        if not module.training:
            return added
        y, x, side = square
        inner = added[..., _BORDER:-_BORDER, _BORDER:-_BORDER]
        return F.pad(inner, (_BORDER + x, _BORDER + side - x, _BORDER + y, _BORDER + side - y))

    refinement.register_forward_pre_hook(cut)
    refinement.register_forward_hook(fill)
