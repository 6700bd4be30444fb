"""The order in memory that convolutions are quickest in."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn

__all__ = ["channels_last"]

_Module = TypeVar("_Module", bound=nn.Module)


def channels_last(module: _Module) -> _Module:
    """The module itself, with its weights in torch's channels_last order."""
    untyped: Any = module  # not every torch declares this argument
    untyped.to(memory_format=torch.channels_last)
    return module
