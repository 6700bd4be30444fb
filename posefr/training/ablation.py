"""Compares parts of the network and of the recipe: short runs of equal budget on the same faces, by yaw band.

Every run sees the same number of degraded faces, from the same seed. Every eighth face is held out; each is degraded
at three severities with fixed seeds.
"""

from __future__ import annotations

import argparse
import csv
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import Conv2d
from torch.nn import functional as F
from tqdm import tqdm

from ..devices import default_device
from ..errors import PoseFRError
from ..pose import estimate_pose
from ..restoration.checkpoint import read_metadata
from ..restoration.codec import EncoderScale
from ..restoration.mmrb import MMRB
from ..restoration.network import CONFIGURATIONS, PoseFRConfig, PoseFRNet
from ..restoration.shards import read_tensors
from .data import FaceCrops, load_crops
from .degradation import SEVERITIES, degrade, draw
from .processes import Processes
from .recipe import LOSSES, Recipe
from .start import start_network
from .state import origin
from .trainer import train

__all__ = ["VARIANTS", "PlainBlock", "add_arguments", "run", "split", "table"]

_LEVELS = ("mild", "medium", "severe")
_BANDS = ((0, 20), (20, 45), (45, 181))
_HELD_OUT = 8  # every so many-th face


class PlainBlock(nn.Module):
    """What MMRB is measured against: two 3x3 convolutions in a residual, as wide inside as gives an MMRB's MACs.

    Shape: [B, channels, H, W] to the same.
    """

    def __init__(self, channels: int, reduction: int = 4, scale: float = 0.2) -> None:
        super().__init__()
        path = max(8, channels // reduction)
        macs = (1 + 9 + 9) * path * (channels + 3 * path) + 3 * path * channels  # of an MMRB, per pixel
        hidden = round(macs / (18 * channels))
        self.first = Conv2d(channels, hidden, 3, padding=1)
        self.second = Conv2d(hidden, channels, 3, padding=1)
        self.scale = nn.Parameter(torch.full((1, channels, 1, 1), scale))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.second(F.leaky_relu(self.first(x), 0.2))


def _as_it_is(network: PoseFRNet) -> None:
    pass


def _plain_blocks(network: PoseFRNet) -> None:
    for scale in network.encoder.scales.values():
        assert isinstance(scale, EncoderScale)
        for index, block in enumerate(scale.blocks):
            assert isinstance(block, MMRB)
            scale.blocks[index] = PlainBlock(block.scale.shape[1])


def _without_prior(network: PoseFRNet) -> None:
    """The layers to RGB stay zero: the prior paints nothing, the codec has to do everything."""
    for size in network.config.sizes:
        network.prior.block(size).to_rgb.requires_grad_(False)


@dataclass(frozen=True)
class Variant:
    """One run: what is changed in the network, and in the recipe."""

    change: Callable[[PoseFRNet], None] = _as_it_is
    recipe: Mapping[str, float] | None = None
    pretrained: bool = False


_SELF_SUPERVISED = {"consistency": 0.3, "latent": 0.02}
VARIANTS: dict[str, Variant] = {
    "MMRB, prior": Variant(),
    "plain block of equal MACs": Variant(_plain_blocks),
    "without the prior": Variant(_without_prior),
    "prior trained alone first": Variant(pretrained=True),
    "with self-supervision": Variant(recipe=_SELF_SUPERVISED),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m posefr.training ablation`."""
    add = parser.add_argument
    add("--faces", type=Path, required=True, help="folder of photos")
    add("--out", type=Path, required=True, help="folder for the runs, ablation.csv and ablation.md")
    add("--configuration", default="posefr-256", choices=sorted(CONFIGURATIONS))
    add("--size", type=int, default=64, help="px (default: %(default)s)")
    add("--images", type=int, default=4000, help="degraded faces that each run sees (default: %(default)s)")
    add("--batch", type=int, default=8)
    add("--learning-rate", type=float, default=1e-3)
    add("--loss", default="psnr", choices=LOSSES)
    add("--seed", type=int, action="append", help="may be given more than once; runs are averaged (default: 0)")
    add("--prior", type=Path, help="prior of stage 1 at this size; without it that run is left out")
    add("--only", action="append", choices=list(VARIANTS), help="may be given more than once (default: all)")
    add("--held-out", type=int, default=0, help="measure at most so many held-out faces of each band; 0 for all")
    add("--device", default=default_device().type)


def run(args: argparse.Namespace) -> int:
    """Train, measure, print the table and write it."""
    config = CONFIGURATIONS[args.configuration].at(args.size)
    crops = load_crops(args.faces, args.size, args.out / f"faces-{args.size}.npz", device=args.device)
    training, held_out, yaw = split(crops)
    cases = _cases(held_out, yaw, args.held_out)
    processes = Processes(torch.device(args.device))
    rows = [{"variant": "input", "seed": 0, **case.facts(case.degraded)} for case in cases]
    for name in args.only or VARIANTS:
        variant = VARIANTS[name]
        if variant.pretrained and args.prior is None:
            print(f"left out, since there is no --prior: {name}")
            continue
        for seed in args.seed or [0]:
            network = _train(name, variant, config, training, args, seed, processes)
            rows += [{"variant": name, "seed": seed, **facts} for facts in _measure(network, cases)]
    with (args.out / "ablation.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    text = table(rows)
    (args.out / "ablation.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


def split(crops: FaceCrops) -> tuple[FaceCrops, FaceCrops, NDArray[np.float64]]:
    """Faces to train with, every eighth held out, and the held-out ones' yaw in degrees.

    Raises:
        PoseFRError: the crops were kept without landmarks, or there are too few.
    """
    if crops.landmarks is None:
        raise PoseFRError(
            "These crops were kept without landmarks; delete their .npz file, so that they are made again."
        )
    if len(crops) < _HELD_OUT:
        raise PoseFRError(f"The ablation holds out every eighth face and needs at least 8; found {len(crops)}.")
    chosen = np.arange(len(crops)) % _HELD_OUT == 0
    held_out = crops.take(chosen)
    assert held_out.landmarks is not None
    yaw = estimate_pose(torch.from_numpy(held_out.landmarks))[:, 0].double().numpy()
    return crops.take(~chosen), held_out, np.nan_to_num(yaw)


@dataclass(frozen=True)
class _Case:
    severity: str
    yaw: float
    truth: Tensor
    degraded: Tensor

    def facts(self, image: Tensor) -> dict[str, float | str]:
        error = (image.clamp(0, 1) - self.truth).double().square().mean().clamp_min(1e-10)
        return {"severity": self.severity, "yaw": round(self.yaw, 1), "psnr": float(-10 * torch.log10(error))}


def _cases(crops: FaceCrops, yaw: NDArray[np.float64], limit: int) -> list[_Case]:
    chosen: list[int] = []
    for low, high in _BANDS:
        band = np.flatnonzero((np.abs(yaw) >= low) & (np.abs(yaw) < high))
        chosen += band[: limit or None].tolist()
    cases = []
    for index in sorted(chosen):
        for severity in _LEVELS:
            rng = np.random.default_rng(zlib.crc32(f"{index} {severity}".encode()))
            truth = crops.images[index]
            pair = [
                torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1).float() / 255
                for picture in (truth, degrade(truth, draw(rng, SEVERITIES[severity])))
            ]
            cases.append(_Case(severity, float(yaw[index]), *pair))
    return cases


def _train(
    name: str,
    variant: Variant,
    config: PoseFRConfig,
    crops: FaceCrops,
    args: argparse.Namespace,
    seed: int,
    processes: Processes,
) -> PoseFRNet:
    """The averaged network of one run; one that was finished before is loaded."""
    torch.manual_seed(seed)
    network = start_network(config, None, args.prior if variant.pretrained else None)
    variant.change(network)
    recipe = Recipe(
        minutes=1e6, batch=args.batch, learning_rate=args.learning_rate, loss=args.loss, seed=seed, faithful=1.0,
        pixel=0.03 if args.loss == "psnr" else 1.0, workers=1, sample_every=10**9,
    )  # fmt: skip
    recipe = replace(recipe, **(variant.recipe or {}))  # type: ignore[arg-type]
    if recipe.twice:  # both degradations count as faces seen
        recipe = replace(recipe, batch=max(2, args.batch // 2))
    faces = recipe.batch * (2 if recipe.twice else 1)
    recipe = replace(recipe, steps=max(1, args.images // faces))
    folder = args.out / f"{name.replace(' ', '-').replace(',', '')}-{seed}"
    path = folder / "network.safetensors"
    start = origin(args.prior) if variant.pretrained else "from random weights"
    note = f"{len(crops)} faces of {args.faces.resolve().name}, {args.size} px, {start}"
    done = json.loads(read_metadata(path)["provenance"]) if path.exists() else {}
    finished = done.get("steps") == recipe.steps  # a run that was stopped left weights too
    if not finished or done.get("recipe") != asdict(recipe) or done.get("note") != note:
        print(f"{name}, seed {seed}: {recipe.steps} steps of {faces} faces", flush=True)
        (folder / "state.pt").unlink(missing_ok=True)
        path = train(network, crops, recipe, folder, processes, note)
    network.load_state_dict({key: value.float() for key, value in read_tensors(path).items()})
    return network


@torch.no_grad()
def _measure(network: PoseFRNet, cases: Sequence[_Case]) -> list[dict[str, float | str]]:
    network.eval()
    device = next(network.parameters()).device
    rows = []
    for start in tqdm(range(0, len(cases), 32), desc="measuring", unit="batch", leave=False):
        part = cases[start : start + 32]
        images = network(torch.stack([case.degraded for case in part]).to(device)).image.cpu()
        rows += [case.facts(image) for case, image in zip(part, images, strict=True)]
    return rows


def table(rows: Sequence[Mapping[str, float | str]]) -> str:
    """Mean PSNR gain over the degraded input in dB, by yaw band and severity, as a Markdown table.

    rows: of the variants and of "input": variant, seed, severity, yaw (degrees), psnr (dB).
    """
    columns: list[tuple[str, Callable[[Mapping[str, float | str]], bool]]] = []
    for low, high in _BANDS:
        title = f"yaw {low} to {high}" if high < 180 else f"yaw above {low}"
        columns.append((title, lambda row, low=low, high=high: low <= abs(float(row["yaw"])) < high))  # type: ignore[misc]
    for level in _LEVELS:
        columns.append((level, lambda row, level=level: row["severity"] == level))  # type: ignore[misc]
    columns.append(("all", lambda row: True))

    def mean(variant: str, wanted: Callable[[Mapping[str, float | str]], bool]) -> float:
        values = [float(row["psnr"]) for row in rows if row["variant"] == variant and wanted(row)]
        return float(np.mean(values)) if values else float("nan")

    counts = [sum(row["variant"] == "input" and wanted(row) for row in rows) for _, wanted in columns]
    lines = [
        "| Gain in dB | " + " | ".join(title for title, _ in columns) + " |",
        "| --- |" + " ---: |" * len(columns),
        "| pictures | " + " | ".join(str(count) for count in counts) + " |",
        "| input, PSNR | "
        + " | ".join(f"{mean('input', wanted):.2f}".replace("nan", "-") for _, wanted in columns)
        + " |",
    ]
    for variant in dict.fromkeys(str(row["variant"]) for row in rows if row["variant"] != "input"):
        gains = [mean(variant, wanted) - mean("input", wanted) for _, wanted in columns]
        cells = ["-" if np.isnan(gain) else f"{gain:+.2f}" for gain in gains]
        lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
