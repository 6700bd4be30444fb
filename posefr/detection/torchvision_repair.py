"""Makes `import torchvision` work where its compiled operators do not fit the installed torch.

PyPI's torchvision for Linux is the CUDA build. Beside a CPU-only torch its operators cannot be loaded, and
`import torchvision` dies with "operator torchvision::nms does not exist", because it registers fake kernels for
operators that were never declared. facexlib needs only torchvision's Python parts, so declaring those is enough.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import torch

__all__ = ["ensure_torchvision"]

_DECLARATIONS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_kept: list[torch.library.Library] = []  # a Library takes its declarations back when it is collected


def ensure_torchvision() -> None:
    """Import torchvision, declaring its missing operators first if the plain import fails for want of them.

    Does nothing where torchvision works. After a repair the declared operators have no kernels: calling them raises.

    Raises:
        ImportError: torchvision is not installed.
        RuntimeError: torchvision fails for another reason.
    """
    if "torchvision" in sys.modules:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
        _forget_torchvision()
        _declare_operators()
        # Set before torchvision's package runs: it asks once, while it is imported, whether its operators are there.
        extension: Any = importlib.import_module("torchvision.extension")
        extension._has_ops = lambda: True


def _forget_torchvision() -> None:
    for name in [n for n in sys.modules if n == "torchvision" or n.startswith("torchvision.")]:
        del sys.modules[name]


def _declare_operators() -> None:
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name, schema in _DECLARATIONS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)
    _kept.append(library)
