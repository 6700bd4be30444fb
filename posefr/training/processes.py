"""Training in several processes, one per device, as torchrun starts them.

Gradients are averaged by hand after each backward pass: DistributedDataParallel does not see the gradients of
gradients that R1 and path length need.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..devices import named_device

__all__ = ["Processes"]

_T = TypeVar("_T")
_PATIENCE = timedelta(days=1)  # the first process may cut faces out of many photos while the others wait


@dataclass(frozen=True)
class Processes:
    """This process among those of the run.

    Attributes:
        device: that it computes on. rank: its number; 0 writes the files. count: of processes.
    """

    device: torch.device
    rank: int = 0
    count: int = 1

    @classmethod
    def start(cls, device: str) -> Processes:
        """Join the processes that torchrun started (it sets RANK, WORLD_SIZE and LOCAL_RANK), or run alone.

        Args:
            device: its name; "cuda" gives each process a GPU of its own.

        Raises:
            PoseFRError: there is no such device here.
        """
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count > 1 and device in ("auto", "cuda") and torch.cuda.is_available():
            device = f"cuda:{os.environ['LOCAL_RANK']}"
        own = named_device(device)
        if count == 1:
            return cls(own)
        if own.type == "cuda":
            torch.cuda.set_device(own)
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("nccl" if own.type == "cuda" else "gloo", timeout=_PATIENCE)
        return cls(own, torch.distributed.get_rank(), count)

    @property
    def first(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def same_start(self, *modules: nn.Module) -> None:
        """Give every process the first one's weights and buffers."""
        if self.count > 1:
            for module in modules:
                for value in module.state_dict().values():
                    torch.distributed.broadcast(value, 0)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace each gradient by its mean over the processes; one message for all of them."""
        if self.count == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        if not gradients:
            return
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        torch.distributed.all_reduce(flat)
        flat /= self.count
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def largest(self, value: float) -> float:
        """The largest of the processes' values, so that all stop at the same step."""
        if self.count == 1:
            return value
        shared = torch.tensor(value, device=self.device, dtype=torch.float64 if self.device.type == "cpu" else None)
        torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX)
        return float(shared)

    def mean(self, value: Tensor) -> Tensor:
        """The mean of the processes' values."""
        if self.count > 1:
            torch.distributed.all_reduce(value)
            value /= self.count
        return value

    def in_turn(self, make: Callable[[], _T]) -> _T:
        """make() by the first process, then by the others, who find what it left on the disk."""
        made = make() if self.first else None
        self.wait()
        return make() if made is None else made

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            torch.distributed.barrier()

    def stop(self) -> None:
        """Leave the run."""
        if self.count > 1 and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
