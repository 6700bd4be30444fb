"""Takes a StyleGAN2 generator as prior: the common .pt layout whose generator lies under `g_ema`.

The layout (names, shapes, scaling) is that of rosinality/stylegan2-pytorch. Its tensors are read, nothing is run: the
file is opened with weights_only.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..errors import PoseFRError, brief
from ..restoration.network import CONFIGURATIONS
from .prior import Prior, PriorConfig, save_prior

__all__ = ["add_arguments", "convert", "read_generator", "run"]

_DERIVED = re.compile(r"noises\.noise_\d+|.*\.kernel")  # fixed noise and filter taps: ours makes its own


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m posefr.training convert`."""
    add = parser.add_argument
    add("generator", type=Path, help="checkpoint (.pt) with the generator's tensors, under g_ema or alone")
    add("-o", "--output", type=Path, default=Path("prior.safetensors"), help="default: %(default)s")
    add("--configuration", choices=sorted(CONFIGURATIONS), help="shapes to take the tensors into; those that do not "
        "fit stay random (default: the generator's own shapes, which take all)")  # fmt: skip
    add("--size", type=int, help="px of the prior; larger scales are left out (default: all that there are)")


def run(args: argparse.Namespace) -> int:
    """Convert and say what was taken and what was not."""
    tensors = read_generator(args.generator)
    config = None
    if args.configuration:
        configuration = CONFIGURATIONS[args.configuration]
        config = PriorConfig.of(configuration.at(args.size or configuration.size))
        config = replace(config, layers=_layers(tensors))
    prior, refused = convert(tensors, config, args.size)
    save_prior(prior, args.output, {"note": f"converted from {args.generator.name}", "not_taken": refused})
    count = len(prior.state_dict())
    print(f"{args.output}: {prior.config.size} px, latents of {prior.config.style_channels}")
    print(f"taken: {len(tensors) - len(refused)} of {len(tensors)} tensors; the prior has {count}")
    for line in refused:
        print(f"not taken: {line}")
    return 0


def read_generator(path: Path) -> dict[str, Tensor]:
    """The generator's tensors, without what is derived (noise pictures, filter taps).

    Raises:
        PoseFRError: no such file, or it holds no generator of this layout.
    """
    if not path.is_file():
        raise PoseFRError(f"There is no file {path}; name a StyleGAN2 checkpoint.")
    try:
        # Training scripts store their options beside the tensors; a Namespace is nothing but values. (torch 2.5)
        allow = getattr(torch.serialization, "safe_globals", lambda allowed: nullcontext())
        with allow([argparse.Namespace]):
            stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise PoseFRError(f"{path.name} cannot be read as a checkpoint of tensors alone: {brief(error)}") from None
    if isinstance(stored, dict):
        stored = stored.get("g_ema", stored.get("g", stored))
    needed = ("style.1.weight", "input.input", "conv1.conv.weight", "to_rgb1.conv.weight")
    if not isinstance(stored, dict) or any(name not in stored for name in needed):
        raise PoseFRError(f"{path.name} holds no StyleGAN2 generator with tensors called {', '.join(needed)}.")
    return {name: value for name, value in stored.items() if isinstance(value, Tensor) and not _DERIVED.fullmatch(name)}


def _own_shapes(tensors: Mapping[str, Tensor], size: int | None) -> PriorConfig:
    """The configuration that takes the whole generator, up to a size."""
    channels = {4: tensors["input.input"].shape[1]}
    while (name := f"convs.{2 * len(channels) - 2}.conv.weight") in tensors:
        channels[4 << len(channels)] = tensors[name].shape[1]
    if size is not None and size not in channels:
        raise PoseFRError(f"The generator has the sizes {', '.join(map(str, channels))} px; found no {size}.")
    channels = {s: width for s, width in channels.items() if size is None or s <= size}
    return PriorConfig(channels, tensors["style.1.weight"].shape[1], _layers(tensors))


def _layers(tensors: Mapping[str, Tensor]) -> int:
    """How many layers the generator's mapping network has."""
    return sum(bool(re.fullmatch(r"style\.\d+\.weight", name)) for name in tensors)


def _targets(name: str) -> str | None:
    """Our name for a tensor of theirs."""
    if match := re.fullmatch(r"style\.(\d+)\.(weight|bias)", name):  # number 0 normalises and has no tensors
        return f"mapping.{int(match[1]) - 1}.{match[2]}"
    if name == "input.input":
        return "synthesis.blocks.4.constant"
    if match := re.fullmatch(r"(conv1|to_rgb1|convs\.(\d+)|to_rgbs\.(\d+))\.(.+)", name):
        part = match[4]
        if match[2] is not None:
            block, layer = 8 << int(match[2]) // 2, "conv" if int(match[2]) % 2 else "up"
        elif match[3] is not None:
            block, layer = 8 << int(match[3]), "to_rgb"
        else:
            block, layer = 4, "conv" if match[1] == "conv1" else "to_rgb"
        ours = {
            "conv.weight": f"{layer}.weight",
            "conv.modulation.weight": f"{layer}.style.weight",
            "conv.modulation.bias": f"{layer}.style.bias",
            "activate.bias": f"{layer}.bias",
            "bias": f"{layer}.bias",
            "noise.weight": f"{layer}_noise.strength",
        }.get(part)
        return None if ours is None else f"synthesis.blocks.{block}.{ours}"
    return None


@torch.no_grad()
def convert(
    tensors: Mapping[str, Tensor], config: PriorConfig | None = None, size: int | None = None
) -> tuple[Prior, list[str]]:
    """A prior with the generator's tensors.

    Args:
        tensors: as `read_generator` gives them. config: shapes of the prior; None takes the generator's.
        size: px, where the generator's shapes are taken but not all of its scales.

    Returns:
        The prior, and a line for each tensor that it could not take, with the reason.

    Raises:
        PoseFRError: the generator has no such size, or no convolution of it fits: the prior would be random.
    """
    prior = Prior(config or _own_shapes(tensors, size))
    own = prior.state_dict()
    refused = []
    for name, value in tensors.items():
        target = _targets(name)
        if target is None or target not in own:
            refused.append(f"{name} {list(value.shape)}: the prior has nothing like it")
            continue
        # Weights lead with a dimension of one (a sample's), biases and strengths have ones around them.
        shaped = value.squeeze(0) if name.endswith("conv.weight") else value
        if own[target].numel() == shaped.numel() and _squeezed(own[target]) == _squeezed(shaped):
            own[target].copy_(shaped.reshape(own[target].shape))
        else:
            refused.append(f"{name} {list(value.shape)}: {target} has {list(own[target].shape)}")
    convolutions = {name for name in tensors if name.endswith("conv.weight")}
    if convolutions <= {line.split()[0] for line in refused}:
        wide, narrow = tensors["input.input"].shape[1], prior.config.channels[4]
        raise PoseFRError(
            f"No convolution of the generator fits: it has {wide} channels at 4 px, the prior {narrow}. Take one that "
            "was trained with the prior's widths, or convert it in its own shapes, without --configuration."
        )
    return prior, refused


def _squeezed(value: Tensor) -> list[int]:
    return [length for length in value.shape if length != 1]
