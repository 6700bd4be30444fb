"""Restorers: one small interface over PoseFR's own network and foreign ones, and where their weights are found."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, autocast, nn
from torch.nn import functional as F

from .. import memory
from ..batching import batches
from ..devices import default_device
from ..errors import PoseFRError
from ..geometry import check_crops
from ..layout import channels_last
from ..stamps import Stamp, stamp_of
from .checkpoint import FORMAT, load_network, read_metadata
from .shards import whole_name

__all__ = ["Restorer", "load_restorer", "restorer_names", "restorer_stamp"]

BUNDLED = Path(__file__).parents[1] / "weights"
_EXTENSIONS = (".safetensors", ".pth", ".pt")
_OTHER_NETWORKS = ("retinaface", "mobilenet0.25_final", "resnet50_final", "parsing_")  # parts of their files' names


class Call(Protocol):
    """Runs a network: [B, 3, S, S] in 0..1 to the same; fidelity 0..1 and seed as far as the network has them."""

    def __call__(self, network: nn.Module, images: Tensor, fidelity: float, seed: int) -> Tensor: ...


def _call_posefr(network: nn.Module, images: Tensor, fidelity: float, seed: int) -> Tensor:
    result: Tensor = network(images, fidelity, noise_seed=seed).image
    return result


@dataclass(frozen=True)
class Restorer:
    """A network that restores aligned face crops.

    Attributes:
        name: what it was picked by.
        size: of the crops that it works on, px.
        frame: the alignment that it was trained with, "ffhq" or "template5".
        network: its module; whoever moves it decides the device that restore() runs on.
        call: how the network is run.
        provenance: what the checkpoint says of itself.
        bytes_per_pixel: memory that a pass takes at its peak for each px of each crop, in float32.
    """

    name: str
    size: int
    frame: str
    network: nn.Module
    call: Call
    provenance: dict[str, Any] = field(default_factory=dict)
    bytes_per_pixel: int = 1000  # posefr-256 takes 760, measured on one image

    def restore(
        self,
        crops: Tensor,
        *,
        fidelity: float = 0.5,
        seed: int = 0,
        batch: int = 8,
        on_chunk: Callable[[int, int], None] | None = None,
        on_faces: Callable[[Tensor], None] | None = None,
    ) -> Tensor:
        """Restore face crops.

        Args:
            crops: [N, S, S, 3] in 0..1, aligned in `frame`, on any device; resized to `size` when they have another.
            fidelity: 0..1; 1 follows the input, lower trusts the network's prior more.
            seed: of the noise in the prior; the same seed gives the same faces.
            batch: the most crops that go through the network at once.
            on_chunk: called with (done, N) after each batch; may raise, to interrupt.
            on_faces: called with the faces [n, size, size, 3] of each batch as they come out, before on_chunk.

        Returns:
            [N, size, size, 3] float32 in 0..1, on the crops' device.

        Raises:
            PoseFRError: the crops have another shape or are not finite, or fidelity is outside 0..1.
        """
        check_crops(crops)
        if not 0 <= fidelity <= 1:
            raise PoseFRError(f"fidelity must be between 0 and 1; found {fidelity}.")
        if not torch.isfinite(crops).all():
            raise PoseFRError("The face crops hold values that are not finite (NaN, infinity); nothing was restored.")
        parameter = next(self.network.parameters())
        restored = memory.empty((len(crops), self.size, self.size, 3), crops.device)
        for part in batches(len(crops), batch, parameter.device):
            chunk = crops[part].to(parameter.device, torch.float32).permute(0, 3, 1, 2).clamp(0, 1)
            if chunk.shape[2:] != (self.size, self.size):
                chunk = F.interpolate(
                    chunk, (self.size, self.size), mode="bicubic", antialias=True, align_corners=False
                ).clamp(0, 1)
            half = parameter.dtype in (torch.float16, torch.bfloat16)
            # Some devices know no autocast, not even one that is switched off.
            mixed = autocast(parameter.device.type, parameter.dtype) if half else nullcontext()
            with torch.inference_mode(), mixed:
                output = self.call(self.network, chunk.contiguous(), fidelity, seed)
            done = restored[part].copy_(output.float().clamp(0, 1).permute(0, 2, 3, 1))
            if on_faces is not None:
                on_faces(done)
            if on_chunk is not None:
                on_chunk(part.stop, len(crops))
        return restored


def _files(folders: Sequence[Path]) -> dict[str, Path]:
    """Every file that could hold a restorer, by the name it is picked by; bundled ones first, without extension.

    Detectors and parsers may lie in the same folder; those named as their publishers do are left out.

    Shards stand under the name of the file that they were cut from.
    """
    found: dict[str, Path] = {}
    for path in sorted(BUNDLED.glob("posefr-*.safetensors")):
        found.setdefault(Path(whole_name(path)).stem, path)
    for folder in folders:
        # Unlike rglob, and as the host does it, into linked folders too.
        inside = (Path(root, file) for root, _, files in os.walk(folder, followlinks=True) for file in files)
        for path in sorted(inside):
            name = path.relative_to(folder).with_name(whole_name(path)).as_posix()
            other = any(part in path.name.lower() for part in _OTHER_NETWORKS)
            if path.suffix.lower() in _EXTENSIONS and not other and os.path.isfile(path):
                found.setdefault(name, path)
    return found


def _short(name: str | Path) -> str:
    """A name as a message shows it."""
    return repr(str(name)) if len(str(name)) <= 200 else f"{str(name)[:200]!r}..."


def restorer_names(folders: Sequence[Path] = ()) -> list[str]:
    """What can be picked: the bundled restorers by name, then the files in the host's model folders."""
    return list(_files(folders))


def restorer_stamp(name: str, folders: Sequence[Path] = ()) -> Stamp | None:
    """What changes when the file behind a name does; None if there is none."""
    return stamp_of(_files(folders).get(name) or Path(name))


def load_restorer(
    name_or_path: str | Path = "posefr-256",
    *,
    device: torch.device | str | None = None,
    folders: Sequence[Path] = (),
) -> Restorer:
    """Load a restorer.

    Args:
        name_or_path: one of restorer_names(folders), or the path of a checkpoint: PoseFR's own, or GFPGAN's,
            RestoreFormer's, CodeFormer's or an upscaler's through spandrel.
        device: where the network goes; None takes CUDA when there is one.
        folders: the host's model folders.

    Raises:
        PoseFRError: nothing of that name, or a file that holds no usable restorer.
    """
    files = _files(folders)
    path = files.get(str(name_or_path))
    if path is None:
        path = Path(name_or_path)
        if not os.path.isfile(path):  # unlike is_file, also for a name that no system takes
            raise PoseFRError(
                f"There is no restorer {_short(name_or_path)}; choose one of {', '.join(files)}, or the path of a file."
            )
    device = torch.device(device or default_device())
    if path.suffix.lower() == ".safetensors" and read_metadata(path).get("format") == FORMAT:
        network, provenance = load_network(path)
        network = network.eval().requires_grad_(False).to(device)
        if device.type == "cpu":
            network = channels_last(network)
        return Restorer(str(name_or_path), network.config.size, "ffhq", network, _call_posefr, provenance)
    from .foreign import load_foreign

    return load_foreign(path, str(name_or_path), device)
