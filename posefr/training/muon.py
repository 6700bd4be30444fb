"""An optimizer whose steps are orthogonal matrices."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

__all__ = ["Muon", "is_large", "orthogonal"]

_SMALLEST = 8  # rows or columns, below which a matrix has too few directions to tell apart
_MOMENTUM = 0.95
_STEPS = 5
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_AS_ADAM = 0.2  # a step's root mean square over the learning rate, as Adam's steps have it where gradients are noisy


class Muon(torch.optim.Adam):
    """Muon for the groups that are `orthogonal`, Adam for the others.

    Adam's steps follow the few directions that the last gradients agreed in. Here each matrix, a convolution's being
    that of its outputs by all they are made of, takes a step of the same length in all its directions: Jordan et al.,
    "Muon: An optimizer for hidden layers in neural networks" (2024). The step is made as long as Adam's are, so that
    one learning rate does for both: Liu et al., "Muon is Scalable for LLM Training" (arXiv 2502.16982), section 2.2.

    Args:
        groups: dictionaries with `params` and, for those that Muon is for, `orthogonal` True.
        lr: learning rate. betas: Adam's.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, betas: tuple[float, float]) -> None:
        super().__init__([{"orthogonal": False, **group} for group in groups], lr=lr, betas=betas)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group["orthogonal"]]
        try:
            loss = super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            for weight in group["params"] if group["orthogonal"] else ():
                if weight.grad is not None:
                    self._step(weight, group["lr"])
        return loss

    def _step(self, weight: Tensor, rate: float) -> None:
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
            state["step"] = torch.zeros(())  # not used; Adam looks for it when a state is loaded
        assert weight.grad is not None
        momentum = state["momentum"].lerp_(weight.grad, 1 - _MOMENTUM)
        ahead = weight.grad.lerp(momentum, _MOMENTUM).flatten(1)
        update = orthogonal(ahead) * (_AS_ADAM * max(ahead.shape) ** 0.5)
        weight.sub_(update.reshape(weight.shape), alpha=rate)


def is_large(weight: Tensor) -> bool:
    """Whether a weight is a matrix, or a convolution's, that Muon is for: of at least 8 outputs and as many inputs."""
    return weight.ndim >= 2 and min(len(weight), weight[0].numel()) >= _SMALLEST


def orthogonal(matrix: Tensor) -> Tensor:
    """About the nearest orthogonal matrix [M, N]: with all singular values between 0.6 and 1.3 but the smallest.

    Five steps of the Newton-Schulz iteration with the coefficients of Jordan et al. (2024), which trade exactness for
    speed.
    """
    a, b, c = _COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (torch.linalg.matrix_norm(x) + 1e-12)
    for _ in range(_STEPS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x
