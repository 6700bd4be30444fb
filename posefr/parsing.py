"""Masks of a face's parts (skin, hair, glasses, hat, neck), by facexlib's parsing networks where their weights are."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .batching import batches
from .detection import ensure_torchvision
from .detection.releases import SUFFIXES, Release, cache_folder
from .detection.releases import download as fetch
from .detection.weights import read_state
from .devices import default_device
from .errors import PoseFRError
from .geometry import check_crops
from .stamps import Stamp, stamp_of

__all__ = ["PARSERS", "PARTS", "Parser", "load_parser", "parser_names", "parser_stamp"]

_SIZE = 512  # px, what both networks were trained with

# The classes of CelebAMask-HQ (Lee et al. 2020) that make up a part. The networks have them in different orders, which
# stand in facexlib's inference/inference_parsing.py and inference_parsing_parsenet.py, as does the normalisation.
_PARTS = {
    "skin": ("skin", "brow", "eye", "nose", "mouth", "lip", "ear"),
    "glasses": ("glasses",),
    "hair": ("hair",),
    "hat": ("hat",),
    "neck": ("neck", "necklace"),
}
PARTS = tuple(_PARTS)


@dataclass(frozen=True)
class _Kind:
    """One of facexlib's networks: its release, a tensor that no other network has, its input and its classes."""

    file: str
    url: str
    telling: str
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]
    classes: str
    release: Release | None = None


_V022 = "https://github.com/xinntao/facexlib/releases/download/v0.2.2/"
_KINDS = {
    "bisenet": _Kind(
        "parsing_bisenet.pth",
        "https://github.com/xinntao/facexlib/releases/download/v0.2.0/parsing_bisenet.pth",
        "ffm.convblk.conv.weight",
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
        "background skin brow brow eye eye glasses ear ear ear nose mouth lip lip neck necklace cloth hair hat",
    ),
    "parsenet": _Kind(
        "parsing_parsenet.pth",
        _V022 + "parsing_parsenet.pth",
        "out_mask_conv.conv2d.weight",
        (0.5, 0.5, 0.5),
        (0.5, 0.5, 0.5),
        "background skin nose glasses eye eye brow brow ear ear mouth lip lip hair hat ear necklace neck cloth",
        Release(
            "parsenet",
            ("parsing_parsenet.pth",),
            _V022 + "parsing_parsenet.pth",
            85_331_193,
            "3d558d8d0e42c20224f13cf5a29c79eba2d59913419f945545d8cf7b72920de2",
        ),
    ),
}
PARSERS = tuple(_KINDS)


class Parser:
    """Tells the parts of a face apart.

    Attributes:
        name: what it was loaded as.
        network: the module. A host may move it between devices; it is used where its parameters are.
    """

    def __init__(self, name: str, network: nn.Module, kind: str) -> None:
        self.name = name
        self.network = network.eval()
        self._kind = _KINDS[kind]

    @torch.inference_mode()
    def parse(
        self,
        crops: Tensor,
        parts: Sequence[str] = ("skin", "glasses"),
        *,
        batch: int = 4,
        on_chunk: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Masks of the parts asked for, to paste with: `paste_faces(..., mask=masks, mask_space="crop")`.

        Args:
            crops: [N, S, S, 3] floats, 0..1, upright faces, as `crop_faces` gives them.
            parts: some of `PARTS`. Brows, eyes, nose, mouth and ears belong to the skin.
            batch: the most crops that go through the network at a time.
            on_chunk: called with crops done and crops in all; may raise to stop.

        Returns:
            [N, 512, 512] float32, 0..1, on the crops' device: how likely each pixel is of one of these parts.

        Raises:
            PoseFRError: an unknown part, or none, or crops of another shape.
        """
        unknown = [part for part in parts if part not in _PARTS]
        if unknown or not parts:
            found = repr(unknown[0]) if unknown else "none"
            raise PoseFRError(f"Of the parts of a face {found} was asked for; pick some of {', '.join(PARTS)}.")
        check_crops(crops)
        wanted = {name for part in parts for name in _PARTS[part]}
        chosen = [i for i, name in enumerate(self._kind.classes.split()) if name in wanted]
        device = next(self.network.parameters()).device
        mean, deviation = (torch.tensor(v, device=device) for v in (self._kind.mean, self._kind.deviation))
        masks = torch.empty((len(crops), _SIZE, _SIZE), device=crops.device)
        for span in batches(len(crops), batch, device):
            chunk = (crops[span].to(device, torch.float32) - mean) / deviation
            chunk = F.interpolate(chunk.movedim(3, 1), (_SIZE, _SIZE), mode="bilinear", antialias=True)
            classes = self.network(chunk)[0].float().softmax(dim=1)
            masks[span] = classes[:, chosen].sum(dim=1)
            if on_chunk is not None:
                on_chunk(span.stop, len(crops))
        return masks.clamp_(0, 1)


def parser_names(folders: Sequence[Path] = ()) -> list[str]:
    """What `load_parser` can be asked for; first what is there, then what it can fetch."""
    places = [Path(folder) for folder in folders] or [cache_folder()]
    absent = {name: _find(kind, places) is None for name, kind in _KINDS.items()}
    return sorted(_KINDS, key=lambda name: (absent[name], absent[name] and _KINDS[name].release is None))


def load_parser(
    name_or_path: str | Path = "bisenet",
    *,
    device: torch.device | str | None = None,
    folders: Sequence[Path] = (),
    download: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Parser:
    """Load one of facexlib's parsing networks.

    Args:
        name_or_path: `bisenet`, `parsenet`, or the path of a .pth or .safetensors file with the weights of either.
        device: where its network goes; None takes CUDA when there is one.
        folders: the host's model folders; the user's cache folder if there are none.
        download: fetch parsenet if it is not there, into the first of the folders. For bisenet nobody has published a
            checksum, so it is never fetched.
        progress: called with bytes done and bytes in all during a download; may raise to stop.

    Raises:
        PoseFRError: the name is unknown, its file is absent, or the file holds no such network.
    """
    name = str(name_or_path)
    places = [Path(folder) for folder in folders] or [cache_folder()]
    if name in _KINDS:
        path = _locate(_KINDS[name], places, download, progress)
    elif Path(name).suffix.lower() in SUFFIXES:
        path = Path(name)
    else:
        raise PoseFRError(
            f"There is no face parser named {name!r}; pick {' or '.join(PARSERS)}, or give the path of a file that "
            f"ends in {', '.join(SUFFIXES)}."
        )
    state = read_state(path, "face parser")
    kind = next((kind for kind, known in _KINDS.items() if known.telling in state), "")
    expected = (name,) if name in _KINDS else PARSERS
    if kind not in expected:
        raise PoseFRError(f"{path} is no face parser; weights of facexlib's {' or '.join(expected)} were expected.")
    network = _build(kind)
    try:
        network.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise PoseFRError(f"{path} does not fit facexlib's {kind}: {error}") from error
    return Parser(name, network.to(device or default_device()), kind)


def parser_stamp(name: str, folders: Sequence[Path] = ()) -> Stamp | None:
    """What changes when the file behind one of `parser_names` does; None if it is not there and cannot be fetched."""
    kind = _KINDS[name]
    stamp = stamp_of(_find(kind, folders))
    return kind.release.stamp if stamp is None and kind.release is not None else stamp


def _find(kind: _Kind, places: Sequence[Path]) -> Path | None:
    return next((folder / kind.file for folder in places if os.path.isfile(folder / kind.file)), None)


def _locate(kind: _Kind, places: list[Path], download: bool, progress: Callable[[int, int], None] | None) -> Path:
    if (path := _find(kind, places)) is not None:
        return path
    if download and kind.release is not None:
        return fetch(kind.release, places[0], progress)
    raise PoseFRError(
        f"{kind.file} is not in {', '.join(map(str, places))}; fetch {kind.url} and put it there, or pick another "
        "parser or mask."
    )


def _build(kind: str) -> nn.Module:
    ensure_torchvision()
    network: nn.Module
    if kind == "bisenet":
        from facexlib.parsing.bisenet import BiSeNet

        network = BiSeNet(num_class=19)
    else:
        from facexlib.parsing.parsenet import ParseNet

        network = ParseNet(in_size=_SIZE, out_size=_SIZE, parsing_ch=19)
    return network
