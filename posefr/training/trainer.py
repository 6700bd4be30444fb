"""Stage 2: codec and prior together, on pairs of degraded and clean faces."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, autocast, nn

from ..errors import PoseFRError
from ..layout import channels_last
from ..restoration.checkpoint import save_network
from ..restoration.network import PoseFRNet
from ..restoration.shards import written_path
from ..restoration.stylegan2 import ModulatedConv2d
from ..weightfiles import misfits
from .adversarial import Judge, same_squares
from .data import FaceCrops, PairLoader
from .degradation import SEVERITIES
from .identity import IdentityLoss
from .journal import Journal, plot_losses, sheet, write_png
from .losses import (
    agreement,
    charbonnier,
    detail_distances,
    grid,
    latent_distance,
    log_error,
    pattern,
    pyramid_loss,
    region_loss,
)
from .muon import Muon, is_large
from .precision import without_nan_in_bf16
from .processes import Processes
from .recipe import Recipe
from .refining import SquarePool, refine_a_quarter
from .state import SAVED_EVERY, continued, load_optimizer, write_state

__all__ = ["train"]

_DECIBELS = 10 / math.log(10)
_WARM_UP = 50  # steps


def train(
    network: PoseFRNet,
    crops: FaceCrops,
    recipe: Recipe,
    out: Path,
    processes: Processes,
    note: str = "",
    identity: IdentityLoss | None = None,
    shard_mib: float = 0,
) -> Path:
    """Train until the time budget ends; a run found in `out` goes on.

    Writes to `out`: network.safetensors (the averaged weights, replaced at every checkpoint; shards of at most
    `shard_mib` MiB where that is asked for), state.pt (what resuming exactly needs), log.jsonl, its plot loss.png, and
    sample sheets; the last ones when the run ends.

    Args:
        network: on any device, changed in place. crops: of the network's size.
        note: goes into the provenance. identity: for the identity loss.

    Returns:
        The path of the averaged weights, or of their first shard.

    Raises:
        PoseFRError: the recipe asks for a loss that has not what it needs.
    """
    _check(network, crops, recipe, identity)
    return _Trainer(network, crops, recipe, out, processes, note, identity, shard_mib).run()


def _check(network: PoseFRNet, crops: FaceCrops, recipe: Recipe, identity: IdentityLoss | None) -> None:
    recipe.check()
    size = network.config.size
    if crops.images.shape[1] != size:
        raise PoseFRError(f"The network is for {size} px, the faces have {crops.images.shape[1]} px.")
    judged = recipe.judged_size
    if judged and (not 8 <= judged <= size or judged & (judged - 1)):
        raise PoseFRError(f"--judged-size is a power of two from 8 to the faces' {size} px; found {judged}.")
    for name in ("refine_only", "refine_quarter"):
        if getattr(recipe, name) and str(size) not in network.refinements:
            option = name.replace("_", "-")
            raise PoseFRError(f"This network has no refinement at {size} px to train; leave --{option} out.")
    crops.odds(recipe.favoured)
    if (recipe.identity_weight > 0) != (identity is not None):
        raise PoseFRError("The identity loss needs both a network (--identity) and a weight (--identity-weight).")
    if crops.landmarks is None and (recipe.identity_weight or recipe.region):
        raise PoseFRError(
            f"The identity and region losses need landmarks, which these crops were kept without; delete "
            f"faces-{size}.npz, so that they are made again."
        )


class _Trainer:
    def __init__(
        self,
        network: PoseFRNet,
        crops: FaceCrops,
        recipe: Recipe,
        out: Path,
        processes: Processes,
        note: str,
        identity: IdentityLoss | None,
        shard_mib: float,
    ) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.crops, self.recipe, self.out, self.processes = crops, recipe, out, processes
        self.note, self.shard_mib = note, shard_mib
        device = processes.device
        torch.manual_seed(recipe.seed + processes.rank)
        self.network = channels_last(network.to(device)).train()
        processes.same_start(self.network)
        self.averaged = copy.deepcopy(self.network).requires_grad_(False)
        if recipe.bf16 and device.type == "cpu":
            without_nan_in_bf16(self.network)
        self.squares = SquarePool(self.network) if recipe.refine_only else None
        if recipe.refine_quarter:
            refine_a_quarter(self.network.refinements[str(network.config.size)])
        if recipe.free_only or recipe.refine_only:
            self.network.requires_grad_(False)
            refinement = str(network.config.size)
            trained = network.free_parameters() if recipe.free_only else network.refinements[refinement].parameters()
            for parameter in trained:
                parameter.requires_grad_(True)
        # Layers that the caller froze stay as they are.
        self.parameters = [p for p in self.network.parameters() if p.requires_grad]
        groups = _groups(self.network, recipe.prior_rate, recipe.muon)
        self.optimizer = Muon(groups, lr=recipe.learning_rate, betas=(0.9, 0.99))
        self.judge: Judge | None = None
        if recipe.judged:
            size = recipe.judged_size or network.config.size
            self.judge = Judge(size, recipe.discriminator_rate, recipe.r1, processes, recipe.bf16)
        self.identity = None if identity is None else identity.to(device)
        self.journal = Journal(out / "log.jsonl")
        self.steps, self.images, self.seconds = 0, 0, 0.0
        self._unused: dict[str, Any] = {}  # a discriminator of an earlier run, which this one does not train
        self._resume()

    def run(self) -> Path:
        recipe, processes = self.recipe, self.processes
        begun, before, start, saved = self.steps, self.seconds, time.monotonic(), 0.0
        seed = [recipe.seed + begun] + ([processes.rank] if processes.rank else [])
        severities = [SEVERITIES[name] for name in recipe.severity_names]
        loader = PairLoader(
            self.crops, recipe.batch, seed, severities, recipe.clean, recipe.workers, recipe.twice, recipe.favoured
        )
        try:
            for batch in loader:
                elapsed = processes.largest(time.monotonic() - start)
                share = elapsed / (recipe.minutes * 60)
                if recipe.steps:
                    share = max(share, (self.steps - begun) / recipe.steps)
                if share >= 1:
                    break
                rate = recipe.learning_rate * min(1.0, (self.steps + 1) / _WARM_UP)
                rate *= 0.55 + 0.45 * math.cos(math.pi * share)
                batch = self._moved(batch)
                self.journal.add(self._step(batch, rate))
                self.steps += 1
                self.images += recipe.batch * processes.count * (2 if recipe.twice else 1)
                self.seconds = before + time.monotonic() - start
                if self.steps % recipe.log_every == 0:
                    self._log(rate)
                sampled = self.steps % recipe.sample_every == 0
                if sampled or elapsed - saved >= SAVED_EVERY:
                    self._save()
                    saved = elapsed
                if sampled:
                    self._draw(batch)
            path = self._save()
            if self.steps % recipe.sample_every and self.steps > begun:
                if self.steps % recipe.log_every:
                    self._log(rate)
                self._draw(self._moved(batch))
            return path
        except KeyboardInterrupt:
            if processes.count == 1:  # others may be waiting for this one in the middle of a step
                self._save()
            raise
        finally:
            loader.close()

    def _moved(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The batch on the device, pictures in channels_last."""
        device = self.processes.device
        return {
            name: value.to(device, memory_format=torch.channels_last) if value.ndim == 4 else value.to(device)
            for name, value in batch.items()
        }

    def _log(self, rate: float) -> None:
        self.journal.write(
            self.processes, step=self.steps, images=self.images, size=self.network.config.size,
            seconds=round(self.seconds, 1), rate=rate,
        )  # fmt: skip

    def _step(self, batch: dict[str, Tensor], rate: float) -> dict[str, Tensor]:
        """One step at a learning rate. Returns the losses."""
        total, losses = self._losses(batch)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        self.processes.average_gradients(self.parameters)
        norm = nn.utils.clip_grad_norm_(self.parameters, 1.0)
        if torch.isfinite(norm):
            self.optimizer.step()
        decay = min(self.recipe.ema, (1 + self.steps) / (10 + self.steps))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.averaged.parameters()), list(self.network.parameters()), 1 - decay)
        return losses

    def _losses(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss to go down, and its parts before they are weighed."""
        recipe, device = self.recipe, self.processes.device
        if self.squares is not None:
            with autocast(device.type, torch.bfloat16, enabled=recipe.bf16):
                self.squares.add(batch["degraded"], batch["target"])
                after, before = self.squares.error(recipe.batch)
            return recipe.pixel * after, {"refined": after, "refined_db": -10 * torch.log10(after.detach() / before)}
        degraded, target, landmarks = batch["degraded"], batch["target"], batch.get("landmarks")
        fidelity = torch.rand(len(target), device=device)
        faithful = torch.rand(len(target), device=device) < recipe.faithful
        if self.judge is not None:
            faithful[0] = False  # the discriminator has something to judge in every step and process
        fidelity[faithful] = 1.0
        all_faithful = recipe.faithful >= 1 and self.judge is None
        if recipe.twice:
            degraded, target = torch.cat([degraded, batch["second"]]), torch.cat([target, target])
            fidelity = torch.cat([fidelity, fidelity])
            landmarks = None if landmarks is None else torch.cat([landmarks, landmarks])
        with autocast(device.type, torch.bfloat16, enabled=recipe.bf16):
            output = self.network(degraded, 1.0 if all_faithful else fidelity, noise_seed=self.steps)
        image = output.image
        held = recipe.free_pixel + (1 - recipe.free_pixel) * fidelity
        losses = {
            "input": charbonnier(degraded, target),
            "pixel": charbonnier(image, target),
            "relative": charbonnier(image, target, _relative_weight(degraded, target) * held, recipe.epsilon),
            "psnr": log_error(image, target, held),
        }
        with torch.no_grad():
            losses["gain_db"] = _DECIBELS * (log_error(degraded, target) - log_error(image, target))
        weights = {recipe.loss: recipe.pixel}
        if output.images:
            losses["pyramid"], weights["pyramid"] = pyramid_loss(output.images, target), recipe.pyramid
        if self.judge is not None:
            free = fidelity < 1
            fake, real = image[free], target[free]
            if recipe.judged_size:
                fake, real = same_squares(recipe.judged_size, fake, real)
            losses.update(self.judge.step(fake, real, self.steps))
            losses.update(self.judge.losses(fake, real, 1 - fidelity[free]))
            weights |= {"adversarial": recipe.adversarial, "features": recipe.features}
        if not all_faithful and (recipe.detail or recipe.structure):
            losses["detail"], losses["structure"] = detail_distances(image, target, 1 - fidelity)
            weights |= {"detail": recipe.detail, "structure": recipe.structure}
        if not all_faithful and recipe.grid:
            losses["grid"], weights["grid"] = grid(image, 1 - fidelity), recipe.grid
        if not all_faithful and recipe.pattern:
            losses["pattern"], weights["pattern"] = pattern(image, target, 1 - fidelity), recipe.pattern
        if self.identity is not None and landmarks is not None:
            losses["identity"], weights["identity"] = self.identity(image, target, landmarks), recipe.identity_weight
        if recipe.region and landmarks is not None:
            losses["region"], weights["region"] = region_loss(image, target, landmarks), recipe.region
        if recipe.twice:
            first, second = image.chunk(2)
            losses["consistency"] = agreement(first, second, batch["target"])
            weights["consistency"] = recipe.consistency
            if len(batch["target"]) > 1:
                losses["latent"], weights["latent"] = latent_distance(*output.latents.chunk(2)), recipe.latent
        total = torch.stack([losses[name] * weight for name, weight in weights.items() if weight]).sum()
        return total, losses

    @torch.no_grad()
    def _draw(self, batch: dict[str, Tensor]) -> None:
        """A sample sheet (rows: degraded, restored at fidelity 1 and at 0, target) and the plot of the losses."""
        if not self.processes.first:
            return
        self.averaged.eval()
        degraded, target = batch["degraded"], batch["target"]
        rows = [degraded, self.averaged(degraded, 1.0).image, self.averaged(degraded, 0.0).image, target]
        write_png(self.out / f"sample-{self.network.config.size}-{self.steps:06d}.png", sheet(rows))
        plot_losses(self.journal.path, self.out / "loss.png")

    def _save(self) -> Path:
        path = self.out / "network.safetensors"
        if self.processes.first:
            state = {
                "size": self.network.config.size, "network": self.network.state_dict(),
                "averaged": self.averaged.state_dict(), "optimizer": self.optimizer.state_dict(),
                "steps": self.steps, "images": self.images, "seconds": self.seconds, "note": self.note, **self._unused,
            }  # fmt: skip
            if self.judge is not None:
                state["judge"] = self.judge.state_dict()
                state["judge_optimizer"] = self.judge.optimizer.state_dict()
            write_state(state, self.out / "state.pt")
            provenance = {
                "steps": self.steps, "images": self.images,
                "minutes": round(self.seconds / 60, 2), "note": self.note, "recipe": asdict(self.recipe),
            }  # fmt: skip
            save_network(self.averaged, path, provenance, shard_mib=self.shard_mib)
        self.processes.wait()
        return written_path(path)

    def _resume(self) -> None:
        path = self.out / "state.pt"
        if not path.exists():
            return
        state = torch.load(path, map_location=self.processes.device, weights_only=True)
        if state["size"] != self.network.config.size:  # the run before it, from which this one grew
            return
        if state["network"].keys() != self.network.state_dict().keys():
            raise PoseFRError(
                f"{path} is of a network with other parts, from another version; start in another folder, from its "
                "weights (--weights)."
            )
        groups, kept = (
            [_kind(group) for group in optimizer["param_groups"]]
            for optimizer in (self.optimizer.state_dict(), state["optimizer"])
        )
        if groups != kept:
            raise PoseFRError(
                f"{path} is of a run that trained other parts, or some of them at another rate or by "
                "other steps (--free-only, --refine-only, --prior-rate, --muon); start in another folder, "
                "from its weights (--weights)."
            )
        if self.judge is not None and misfits(self.judge.state_dict(), state.get("judge", self.judge.state_dict())):
            raise PoseFRError(
                f"{path} is of a run whose discriminator saw squares of another size; leave --judged-size as it was, "
                "or choose another --out."
            )
        note = continued(state.get("note", ""), self.note, path)
        self.network.load_state_dict(state["network"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:
            _, group["share"], group["orthogonal"] = _kind(group)
        self.steps, self.seconds = state["steps"], state["seconds"]
        self.images = state.get("images", self.steps * self.recipe.batch * self.processes.count)  # older ones: not kept
        self.note = note
        if self.judge is None:
            self._unused = {name: state[name] for name in ("judge", "judge_optimizer") if name in state}
        elif "judge" in state:
            self.judge.load_state_dict(state["judge"])
            if "judge_optimizer" in state:  # older versions did not keep it
                load_optimizer(self.judge.optimizer, state["judge_optimizer"], self.recipe.discriminator_rate)


def _groups(network: PoseFRNet, prior_rate: float, muon: bool) -> list[dict[str, Any]]:
    """What is trained, in groups, each with the `share` of the learning rate that it gets.

    Adam's steps are as large for every weight. The prior's convolutions are stored at unit variance and scaled in use
    (ModulatedConv2d), those of codec and decoders at the variance of their use, 1 / inputs or less. So at one rate the
    prior's change ten to forty times more slowly.
    """
    unit = {
        layer.weight for layer in network.prior.modules() if isinstance(layer, ModulatedConv2d) and layer.demodulate
    }
    kinds: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for parameter in network.parameters():
        if parameter.requires_grad:
            kind = (prior_rate if parameter in unit else 1.0, muon and is_large(parameter))
            kinds.setdefault(kind, []).append(parameter)
    return [{"params": kinds[kind], "share": kind[0], "orthogonal": kind[1]} for kind in kinds]


def _kind(group: dict[str, Any]) -> tuple[int, float, bool]:
    """How many parameters a group has, its share of the rate, and whether its steps are orthogonal; older versions kept
    only the first."""
    return len(group["params"]), group.get("share", 1.0), group.get("orthogonal", False)


def _relative_weight(degraded: Tensor, target: Tensor) -> Tensor:
    """[B] weights, about 1 on average, that count an image's error against what was wrong with its input.

    Without them the worst inputs, whose errors are largest, decide alone, and nearly good faces come out softer.
    """
    return 0.03 / ((degraded - target).abs().mean((1, 2, 3)) + 0.01)
