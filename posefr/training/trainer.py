"""The training loop: codec and prior together, on pairs of degraded and clean faces."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import PoseFRError
from ..restoration.checkpoint import load_network, save_network
from ..restoration.network import PoseFRConfig, PoseFRNet
from .data import FaceCrops, PairLoader
from .discriminator import Discriminator
from .losses import charbonnier, discriminator_loss, generator_loss, log_error, pyramid_loss, r1_penalty

__all__ = ["LOSSES", "Recipe", "train"]

LOSSES = ("relative", "psnr")
_DECIBELS = 10 / math.log(10)
_R1_EVERY = 16
_WARM_UP = 50  # steps


@dataclass(frozen=True)
class Recipe:
    """What a run does.

    Attributes:
        minutes: time budget; the run stops cleanly after it. steps: or after so many steps; 0 for no such limit.
        batch: faces a step. learning_rate: Adam's, warmed up, then a cosine over the budget down
            to a tenth. ema: decay of the averaged weights, a step.
        loss: of the pixels: "relative" (Charbonnier, against what was wrong with the input) or "psnr" (the logarithm
            of each image's mean squared error). pixel: its weight; gradients of "psnr" are some 30 times as large.
        epsilon: of the Charbonnier loss: errors below it count squared, those above it as they are.
        pyramid: weight of the decoder's small images.
        adversarial: weight of the adversarial loss at fidelity 0, falling to a tenth of it at fidelity 1;
            0 trains without a discriminator. r1: weight of its gradient penalty.
        clean: share of faces that are their own target. faithful: share at fidelity 1; the others' is drawn from 0..1.
        seed: of everything random. bf16: autocast. workers: threads that degrade.
        log_every, sample_every: steps.
    """

    minutes: float = 60.0
    steps: int = 0
    batch: int = 8
    learning_rate: float = 1e-3
    ema: float = 0.998
    loss: str = "relative"
    pixel: float = 1.0
    epsilon: float = 1e-3
    pyramid: float = 0.3
    adversarial: float = 0.0
    r1: float = 5.0
    clean: float = 0.05
    faithful: float = 0.6
    seed: int = 0
    bf16: bool = False
    workers: int = 2
    log_every: int = 50
    sample_every: int = 1000


def train(
    network: PoseFRNet, crops: FaceCrops, recipe: Recipe, out: Path, device: torch.device, note: str = ""
) -> Path:
    """Train until the time budget ends; resume is by passing a loaded network.

    Writes to `out`: network.safetensors (the averaged weights, replaced at every sample), state.pt (what resuming
    exactly needs), log.jsonl and sample sheets.

    Args:
        network: on any device, changed in place. crops: of the network's size. note: goes into the provenance.

    Returns:
        The path of the averaged weights.
    """
    if recipe.loss not in LOSSES:
        raise PoseFRError(f"The pixel loss is one of {', '.join(LOSSES)}; found {recipe.loss!r}.")
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(recipe.seed)
    network = network.to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    averaged = PoseFRNet(network.config).to(device)
    averaged.load_state_dict(network.state_dict())
    averaged.requires_grad_(False)
    optimizer = torch.optim.Adam(network.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.99))
    judge = _Judge(network.config, recipe, device) if recipe.adversarial else None
    state_path, done, before = out / "state.pt", 0, 0.0
    if state_path.exists():
        state = torch.load(state_path, map_location=device, weights_only=True)
        if state["size"] == network.config.size:
            network.load_state_dict(state["network"])
            averaged.load_state_dict(state["averaged"])
            optimizer.load_state_dict(state["optimizer"])
            done, before = state["steps"], state["seconds"]
            if judge is not None and "judge" in state:
                judge.load_state_dict(state["judge"])

    loader = PairLoader(crops, recipe.batch, recipe.seed + done, clean=recipe.clean, workers=recipe.workers)
    start, step, count = time.monotonic(), done, 0
    sums: dict[str, float] = {}
    try:
        for batch in loader:
            elapsed = time.monotonic() - start
            share = elapsed / (recipe.minutes * 60)
            if recipe.steps:
                share = max(share, (step - done) / recipe.steps)
            if share >= 1:
                break
            rate = recipe.learning_rate * min(1.0, (step + 1) / _WARM_UP) * (0.55 + 0.45 * math.cos(math.pi * share))
            for group in optimizer.param_groups:
                group["lr"] = rate
            degraded, target = (
                batch[name].to(device, memory_format=torch.channels_last) for name in ("degraded", "target")
            )
            fidelity = torch.rand(len(target), device=device)
            fidelity[torch.rand(len(target), device=device) < recipe.faithful] = 1.0
            with torch.autocast(device.type, torch.bfloat16, enabled=recipe.bf16):
                output = network(degraded, fidelity, noise_seed=step)
            relative = _relative_weight(degraded, target)
            losses: dict[str, Tensor] = {
                "input": charbonnier(degraded, target),
                "pixel": charbonnier(output.image, target),
                "relative": charbonnier(output.image, target, relative, recipe.epsilon),
                "psnr": log_error(output.image, target),
            }
            losses["gain_db"] = _DECIBELS * (log_error(degraded, target) - losses["psnr"].detach())
            total = recipe.pixel * losses[recipe.loss]
            if output.images:
                losses["pyramid"] = pyramid_loss(output.images, target)
                total = total + recipe.pyramid * losses["pyramid"]
            if judge is not None:
                losses.update(judge.step(output.image, target, step))
                weight = recipe.adversarial * (1 - 0.9 * fidelity)
                losses["adversarial"] = judge.generator_loss(output.image, weight)
                total = total + losses["adversarial"]
            optimizer.zero_grad(set_to_none=True)
            total.backward()
            norm = nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            if torch.isfinite(norm):
                optimizer.step()
            decay = min(recipe.ema, (1 + step - done) / (10 + step - done))
            with torch.no_grad():
                torch._foreach_lerp_(list(averaged.parameters()), list(network.parameters()), 1 - decay)
            step, count = step + 1, count + 1
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach())
            if step % recipe.log_every == 0:
                line = {
                    "step": step, "images": step * recipe.batch, "size": network.config.size,
                    "seconds": round(before + time.monotonic() - start, 1), "rate": rate,
                    **{name: round(value / count, 5) for name, value in sums.items()},
                }  # fmt: skip
                with (out / "log.jsonl").open("a") as log:
                    log.write(json.dumps(line) + "\n")
                sums, count = {}, 0
            if step % recipe.sample_every == 0:
                _save(out, network, averaged, optimizer, judge, step, before + time.monotonic() - start, recipe, note)
                _sample_sheet(out / f"sample-{network.config.size}-{step:06d}.png", averaged, degraded, target)
    finally:
        loader.close()
    return _save(out, network, averaged, optimizer, judge, step, before + time.monotonic() - start, recipe, note)


def _relative_weight(degraded: Tensor, target: Tensor) -> Tensor:
    """[B] weights, about 1 on average, that count an image's error against what was wrong with its input.

    Without them the worst inputs, whose errors are largest, decide alone, and nearly good faces come out softer.
    """
    return 0.03 / ((degraded - target).abs().mean((1, 2, 3)) + 0.01)


class _Judge(nn.Module):
    """The discriminator and its optimiser."""

    def __init__(self, config: PoseFRConfig, recipe: Recipe, device: torch.device) -> None:
        super().__init__()
        self.network = Discriminator(config.size).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=recipe.learning_rate / 2, betas=(0.0, 0.99))
        self.recipe, self.device = recipe, device

    def step(self, fake: Tensor, real: Tensor, step: int) -> dict[str, Tensor]:
        """One step of the discriminator; returns its losses."""
        self.network.requires_grad_(True)
        losses = {}
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.bf16):
            loss = discriminator_loss(self.network(real).float(), self.network(fake.detach().float()).float())
        losses["discriminator"] = loss
        if step % _R1_EVERY == 0:
            loss = loss + self.recipe.r1 * _R1_EVERY * r1_penalty(self.network, real)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.network.requires_grad_(False)
        return losses

    def generator_loss(self, fake: Tensor, weight: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.bf16):
            return generator_loss(self.network(fake.float()).float(), weight)


def _save(
    out: Path,
    network: PoseFRNet,
    averaged: PoseFRNet,
    optimizer: torch.optim.Optimizer,
    judge: _Judge | None,
    steps: int,
    seconds: float,
    recipe: Recipe,
    note: str,
) -> Path:
    state = {
        "size": network.config.size, "network": network.state_dict(), "averaged": averaged.state_dict(),
        "optimizer": optimizer.state_dict(), "steps": steps, "seconds": seconds,
    }  # fmt: skip
    if judge is not None:
        state["judge"] = judge.state_dict()
    partial = out / "state.pt.partial"
    torch.save(state, partial)
    partial.replace(out / "state.pt")
    path = out / "network.safetensors"
    provenance = {
        "steps": steps, "images": steps * recipe.batch, "minutes": round(seconds / 60, 2), "note": note,
        "recipe": asdict(recipe),
    }  # fmt: skip
    save_network(averaged, path, provenance)
    return path


@torch.no_grad()
def _sample_sheet(path: Path, network: PoseFRNet, degraded: Tensor, target: Tensor) -> None:
    """Rows: degraded, restored at fidelity 1 and at 0, target."""
    import cv2

    network.eval()
    rows = [degraded, network(degraded, 1.0).image, network(degraded, 0.0).image, target]
    sheet = torch.cat([torch.cat(list(row.float().clamp(0, 1)), 2) for row in rows], 1)
    cv2.imwrite(str(path), (sheet.permute(1, 2, 0).cpu() * 255).round().byte().numpy()[..., ::-1])


def start_network(config: PoseFRConfig, weights: Path | None) -> PoseFRNet:
    """A fresh network, or one loaded from a checkpoint and grown to the configuration's size where it is smaller."""
    if weights is None:
        return PoseFRNet(config)
    network, _ = load_network(weights)
    if network.config.size < config.size:
        network = network.grow(config.size)
    return network
