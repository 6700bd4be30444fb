"""Other projects' networks behind the restorer's interface: read from files by spandrel, or loaded by other packs."""

from __future__ import annotations

import inspect
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from ..errors import PoseFRError
from .restorer import Call, Restorer

__all__ = ["load_foreign", "restorer_from"]

_SIZE = 512  # px; GFPGAN, RestoreFormer and CodeFormer were trained at it
# Bare networks, by the name of their class.
_BARE = {"GFPGANv1Clean": "GFPGAN", "RestoreFormer": "RestoreFormer", "CodeFormer": "CodeFormer"}
_CODEFORMER_KEYS = {"position_emb", "quantize.embedding.weight"}
_WANTED = "choose weights of PoseFR, GFPGAN, RestoreFormer or CodeFormer"


@dataclass(frozen=True)
class _Kind:
    """How the networks of an architecture are run.

    Attributes:
        frame: the alignment that they were trained with.
        call: how they are run.
        bytes_per_pixel: of a crop, at the peak of a pass in float32.
    """

    frame: str
    call: Call
    bytes_per_pixel: int


def _call_gfpgan(network: nn.Module, images: Tensor, fidelity: float, seed: int) -> Tensor:
    """GFPGAN works on -1..1 and has no fidelity. Its noise is the same for each face, whatever batch it is in."""
    generator = torch.Generator().manual_seed(seed)
    noise = {
        name: torch.randn(buffer.shape, generator=generator).to(buffer)
        for name, buffer in network.named_buffers()
        if ".noises." in name
    }
    return _unit(functional_call(network, noise, (images * 2 - 1,), {"randomize_noise": False}))


def _call_restoreformer(network: nn.Module, images: Tensor, fidelity: float, seed: int) -> Tensor:
    """RestoreFormer works on -1..1; it has neither a fidelity nor noise."""
    return _unit(network(images * 2 - 1))


def _call_codeformer(network: nn.Module, images: Tensor, fidelity: float, seed: int) -> Tensor:
    """CodeFormer works on -1..1 and has no noise. Its w is our fidelity: 0 takes all from the codebook.

    The authors' code calls it w, spandrel's weight; the former matches the codes' statistics only when it is told to.
    """
    taken = inspect.signature(network.forward).parameters
    options: dict[str, Any] = {"w" if "w" in taken else "weight": fidelity}
    if "adain" in taken:
        options["adain"] = True
    return _unit(network(images * 2 - 1, **options))


def _unit(output: Any) -> Tensor:
    """The image that these networks return first, of -1..1, in 0..1."""
    image: Tensor = output[0]
    return (image + 1) / 2


# Peaks of memory measured on one image, the convolutions' scratch space included.
_KINDS = {
    "GFPGAN": _Kind("template5", _call_gfpgan, 3200),
    "RestoreFormer": _Kind("template5", _call_restoreformer, 3200),
    "CodeFormer": _Kind("template5", _call_codeformer, 3200),
}


def load_foreign(path: Path, name: str, device: torch.device) -> Restorer:
    """Load a checkpoint of GFPGAN, RestoreFormer, CodeFormer or an upscaler that spandrel knows.

    Pickles are read by torch.load(weights_only=True) alone, so that no code in a file runs. CodeFormer needs the
    package spandrel_extra_arches.

    Raises:
        PoseFRError: the file is damaged, unsafe, or holds no such network.
    """
    from safetensors.torch import load_file

    from ..detection import ensure_torchvision

    ensure_torchvision()
    from spandrel import MAIN_REGISTRY, ModelLoader, UnsupportedModelError

    registry = MAIN_REGISTRY.copy()
    with suppress(ImportError):
        from spandrel_extra_arches import EXTRA_REGISTRY

        registry.add(*EXTRA_REGISTRY, ignore_duplicates=True)
    state: Any = None
    try:
        if path.suffix.lower() == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        descriptor = ModelLoader("cpu", registry).load_from_state_dict(state)
    except UnsupportedModelError:
        if "CodeFormer" not in registry and _names(state) >= _CODEFORMER_KEYS:
            raise PoseFRError(
                f"{path.name} is a CodeFormer network, which needs the package spandrel_extra_arches: install it with "
                "pip in the Python that runs this."
            ) from None
        raise PoseFRError(f"{path.name} holds no network that is known here; {_WANTED}.") from None
    except Exception as error:  # what a damaged file raises is up to pickle, zipfile and spandrel
        raise PoseFRError(
            f"{path.name} cannot be read as weights ({type(error).__name__}); it may be truncated or not a model file: "
            "download it again."
        ) from error
    restorer = restorer_from(descriptor, name)
    restorer.provenance["file"] = path.name
    restorer.network.requires_grad_(False).to(device)
    return restorer


def _names(state: Any) -> set[str]:
    """The keys of a checkpoint and of what it wraps: the weights may lie under "params_ema" or the like."""
    inner = [value for value in state.values() if isinstance(value, dict)]
    return {str(key) for table in (state, *inner) for key in table}


def restorer_from(model: Any, name: str = "the connected model") -> Restorer:
    """A restorer of a network that is loaded already, as other node packs hand it on.

    Args:
        model: an image model as spandrel describes it (ComfyUI's UPSCALE_MODEL), or a bare network of GFPGAN,
            RestoreFormer or CodeFormer (FACERESTORE_MODEL).
        name: what messages call it.

    Returns:
        A face restorer with the size and frame that it was trained on. Any other model for RGB images restores faces of
        512 px: an upscaler by a factor sees them that many times smaller and enlarges them to 512 px.

    Raises:
        PoseFRError: it is none of these.
    """
    architecture = getattr(getattr(model, "architecture", None), "id", None)
    network = getattr(model, "model", None)
    if architecture is None and isinstance(model, nn.Module):
        architecture, network = _BARE.get(type(model).__name__), model
    if architecture is None or not isinstance(network, nn.Module):
        raise PoseFRError(f"{name} is a {type(model).__name__}, which is no image network; {_WANTED}.")
    kind = _KINDS.get(str(architecture))
    if kind is None:
        # As ComfyUI's own node for upscalers reckons (comfy_extras/nodes_upscale_model.py), by px of the output.
        kind = _Kind("ffhq", _upscaler(model, name), round(3 * 4 * 384 / max(model.scale, 1)))
    provenance = {"architecture": str(architecture)}
    return Restorer(name, _SIZE, kind.frame, network.eval(), kind.call, provenance, kind.bytes_per_pixel)


def _upscaler(model: Any, name: str) -> Call:
    """How an image model of spandrel's is run on faces, which leave it as large as they came. Raises PoseFRError."""
    channels = getattr(model, "input_channels", None), getattr(model, "output_channels", None)
    if channels != (3, 3) or getattr(model, "purpose", None) not in ("SR", "FaceSR", "Restoration"):
        raise PoseFRError(f"{name} is a {model.architecture.id} network, which restores no RGB images; {_WANTED}.")

    def call(network: nn.Module, images: Tensor, fidelity: float, seed: int) -> Tensor:
        size = images.shape[2]
        small = max(1, round(size / model.scale))
        if small != size:
            images = F.interpolate(images, (small, small), mode="bicubic", antialias=True).clamp(0, 1)
        # One by one, as spandrel asks for. The descriptor's own call brings what the network needs: padding, range.
        output = torch.cat([model(image[None]) for image in images]).float()
        if output.shape[2] != size:
            output = F.interpolate(output, (size, size), mode="bicubic", antialias=True)
        return output

    return call
