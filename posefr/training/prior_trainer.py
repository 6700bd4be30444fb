"""Stage 1: `python -m posefr.training prior` trains the StyleGAN2 prior alone, without pairs (arXiv 1912.04958)."""

from __future__ import annotations

import argparse
import copy
import logging
import math
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, autocast

from ..devices import default_device
from ..errors import PoseFRError
from ..layout import channels_last
from ..restoration.network import CONFIGURATIONS
from ..weightfiles import misfits
from .adversarial import Judge
from .augmentation import Augmentation
from .data import FaceCrops, load_crops
from .journal import Journal, plot_losses, sheet, write_png
from .prior import Prior, PriorConfig, load_prior, save_prior
from .processes import Processes
from .recipe import PriorRecipe, add_options, from_options
from .state import SAVED_EVERY, continued, load_optimizer, origin, write_state

__all__ = ["PathLength", "train_prior"]

_PATH_EVERY = 8  # steps; its batch is half as large: arXiv 1912.04958, appendix B
_SAMPLES = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m posefr.training prior`."""
    add = parser.add_argument
    add("--faces", type=Path, required=True, help="folder of photos; the faces in them are cut out and kept in --out")
    add("--out", type=Path, required=True, help="folder for weights, log and samples; a run found there is resumed")
    add("--configuration", default="posefr-256", choices=sorted(CONFIGURATIONS))
    add("--size", type=int, help="train at this size in px (default: the configuration's)")
    add("--weights", type=Path, help="prior to start from; a smaller one is grown")
    add("--device", default=default_device().type)
    add("--note", default="", help="goes into the provenance")
    add_options(parser, PriorRecipe)


def run(args: argparse.Namespace) -> int:
    """Train and say where the weights are."""
    config = CONFIGURATIONS[args.configuration]
    config = config.at(args.size) if args.size else config
    recipe = from_options(args, PriorRecipe)
    recipe.check()
    processes = Processes.start(args.device)
    crops = processes.in_turn(
        lambda: load_crops(args.faces, config.size, args.out / f"faces-{config.size}.npz", device=processes.device)
    )
    torch.manual_seed(args.seed)
    shapes = PriorConfig.of(config)
    notes = [args.note] if args.note else []
    if args.weights:
        known, _ = load_prior(args.weights)
        prior = grown(known, Prior(replace(shapes, layers=known.config.layers)))
        notes.insert(0, origin(args.weights))
    else:
        prior = Prior(shapes)
    path = train_prior(prior, crops, recipe, args.out, processes, ", ".join(notes))
    if processes.first:
        logging.getLogger(__name__).info("Weights: %s", path)
    processes.stop()
    return 0


@torch.no_grad()
def grown(known: Prior, prior: Prior) -> Prior:
    """`known` itself where it has the size of `prior`, otherwise `prior` with all that it knows.

    New scales start without a layer to RGB: the picture is that of the smaller prior, enlarged.
    """
    if known.config == prior.config:
        return known
    own = prior.state_dict()
    for name, value in known.state_dict().items():
        if name not in own or own[name].shape != value.shape:
            raise PoseFRError(
                f"A prior for {known.config.size} px cannot grow into this one for {prior.config.size} px: {name} "
                f"differs."
            )
        own[name].copy_(value)
    for size in set(prior.config.channels) - set(known.config.channels):
        prior.synthesis.block(size).to_rgb.weight.zero_()
    return prior


class PathLength:
    """Penalty on how far the image's change per change of latent is from its running mean (arXiv 1912.04958, 3.2)."""

    def __init__(self, decay: float = 0.01) -> None:
        self.decay, self.mean = decay, 0.0

    def __call__(self, images: Tensor, latents: Tensor) -> Tensor:
        """images [B, 3, S, S] in -1..1, painted from latents [B, L, C] that need gradients."""
        direction = torch.randn_like(images) / images.shape[-1]
        (gradient,) = torch.autograd.grad((images * direction).sum(), latents, create_graph=True)
        lengths = gradient.float().square().sum(2).mean(1).sqrt()
        mean = float(lengths.detach().mean())
        self.mean = mean if self.mean == 0 else self.mean + self.decay * (mean - self.mean)
        return (lengths - self.mean).square().mean()


def train_prior(
    prior: Prior, crops: FaceCrops, recipe: PriorRecipe, out: Path, processes: Processes, note: str = ""
) -> Path:
    """Train until the budget ends; a run found in `out` goes on.

    Writes to `out`: prior.safetensors (the averaged weights), prior-state.pt, prior-log.jsonl, its plot, samples.

    Args:
        prior: changed in place. crops: of its size.

    Returns:
        The path of the averaged weights.

    Raises:
        PoseFRError: a recipe that no run can have, or a run in `out` that cannot go on like this.
    """
    recipe.check()
    return _PriorTrainer(prior, crops, recipe, out, processes, note).run()


class _PriorTrainer:
    def __init__(
        self, prior: Prior, crops: FaceCrops, recipe: PriorRecipe, out: Path, processes: Processes, note: str
    ) -> None:
        if crops.images.shape[1] != prior.config.size:
            raise PoseFRError(f"The prior is for {prior.config.size} px, the faces have {crops.images.shape[1]} px.")
        out.mkdir(parents=True, exist_ok=True)
        self.crops, self.recipe, self.out, self.processes, self.note = crops, recipe, out, processes, note
        torch.manual_seed(recipe.seed + processes.rank)
        self.prior = channels_last(prior.to(processes.device)).train()
        processes.same_start(self.prior)
        self.averaged = copy.deepcopy(self.prior).requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.prior.parameters(), lr=recipe.learning_rate, betas=(0.0, 0.99))
        augment = Augmentation(recipe.augment)
        self.judge = Judge(prior.config.size, recipe.discriminator_rate, recipe.r1, processes, recipe.bf16, augment)
        self.path_length = PathLength()
        self.journal = Journal(out / "prior-log.jsonl")
        self.steps, self.images, self.seconds = 0, 0, 0.0
        self._resume()
        self.rng = np.random.default_rng([recipe.seed, self.steps, processes.rank])
        weight = np.clip(crops.scale, 0.4, 1.0) ** 2
        self.probability = weight / weight.sum()

    def run(self) -> Path:
        try:
            return self._run()
        except KeyboardInterrupt:
            if self.processes.count == 1:  # others may be waiting for this one in the middle of a step
                self._save()
            raise

    def _run(self) -> Path:
        start, begun = time.monotonic(), self.steps
        before, saved = self.seconds, 0.0
        while True:
            elapsed = self.processes.largest(time.monotonic() - start)
            share = elapsed / (self.recipe.minutes * 60)
            if self.recipe.steps:
                share = max(share, (self.steps - begun) / self.recipe.steps)
            if share >= 1:
                break
            self.journal.add(self._step())
            self.steps += 1
            self.images += self.recipe.batch * self.processes.count
            self.seconds = before + time.monotonic() - start
            if self.steps % self.recipe.log_every == 0:
                self.journal.write(
                    self.processes, step=self.steps, images=self.images,
                    size=self.prior.config.size, seconds=round(self.seconds, 1),
                )  # fmt: skip
            if self.steps % self.recipe.sample_every == 0:
                self._checkpoint()
                saved = elapsed
            elif elapsed - saved >= SAVED_EVERY:
                self._save()
                saved = elapsed
        if self.steps % self.recipe.sample_every and self.steps > begun:
            self._checkpoint()
        return self._save()

    def _latents(self, batch: int) -> Tensor:
        """W+ latents for a batch, some of them mixed of two."""
        channels = self.prior.config.style_channels
        z, other = torch.randn(2, batch, channels, device=self.processes.device)
        if torch.rand(()) < self.recipe.mixing:
            return self.prior.styles(z, other, int(torch.randint(1, self.prior.synthesis.latents, ())))
        return self.prior.styles(z)

    def _paint(self, latents: Tensor) -> Tensor:
        with autocast(self.processes.device.type, torch.bfloat16, enabled=self.recipe.bf16):
            return self.prior.paint(latents, seed=int(torch.randint(1 << 30, ())))

    def _step(self) -> dict[str, Tensor]:
        fake = self._paint(self._latents(self.recipe.batch)).float()
        losses = self.judge.step(fake, self._real(), self.steps)
        losses.update(self.judge.losses(fake, None))
        total = losses["adversarial"]
        if self.steps % _PATH_EVERY == 0 and self.recipe.path_length:
            latents = self._latents(max(1, self.recipe.batch // 2))
            losses["path_length"] = self.path_length(self._paint(latents).float() * 2 - 1, latents)
            total = total + self.recipe.path_length * _PATH_EVERY * losses["path_length"]
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        self.processes.average_gradients(self.prior.parameters())
        self.optimizer.step()
        decay = min(self.recipe.ema, (1 + self.steps) / (10 + self.steps))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.averaged.parameters()), list(self.prior.parameters()), 1 - decay)
        return losses

    def _real(self) -> Tensor:
        """A batch of faces, half of them mirrored, [B, 3, S, S] in 0..1."""
        chosen = self.rng.choice(len(self.crops), self.recipe.batch, p=self.probability)
        images = self.crops.images[chosen].copy()
        mirrored = self.rng.random(len(chosen)) < 0.5
        images[mirrored] = images[mirrored, :, ::-1]
        faces = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        return faces.to(self.processes.device, memory_format=torch.channels_last)

    def _checkpoint(self) -> None:
        self._save()
        if not self.processes.first:
            return
        generator = torch.Generator().manual_seed(0)
        z = torch.randn(_SAMPLES, self.prior.config.style_channels, generator=generator).to(self.processes.device)
        columns = math.isqrt(_SAMPLES)
        with torch.no_grad():
            images = torch.cat([self.averaged(part, truncation=0.7) for part in z.split(columns)])
        path = self.out / f"prior-{self.prior.config.size}-{self.steps:06d}.png"
        write_png(path, sheet([*images.split(columns), self._real()[:columns]]))
        plot_losses(self.journal.path, self.out / "prior-loss.png")

    def _save(self) -> Path:
        path = self.out / "prior.safetensors"
        if self.processes.first:
            state = {
                "size": self.prior.config.size, "prior": self.prior.state_dict(),
                "averaged": self.averaged.state_dict(), "optimizer": self.optimizer.state_dict(),
                "judge": self.judge.state_dict(), "judge_optimizer": self.judge.optimizer.state_dict(),
                "path_length": self.path_length.mean, "steps": self.steps, "images": self.images,
                "seconds": self.seconds, "note": self.note,
            }  # fmt: skip
            write_state(state, self.out / "prior-state.pt")
            save_prior(
                self.averaged, path,
                {
                    "steps": self.steps, "images": self.images,
                    "minutes": round(self.seconds / 60, 2), "note": self.note, "recipe": asdict(self.recipe),
                },
            )  # fmt: skip
        self.processes.wait()
        return path

    def _resume(self) -> None:
        path = self.out / "prior-state.pt"
        if not path.exists():
            return
        state = torch.load(path, map_location=self.processes.device, weights_only=True)
        if state["size"] != self.prior.config.size:
            raise PoseFRError(
                f"{self.out} holds a prior for {state['size']} px, and this one is for {self.prior.config.size} px; "
                "choose another --out."
            )
        if misfits(self.prior.state_dict(), state["prior"]):
            raise PoseFRError(f"{path} is of a prior of other widths (--configuration); choose another --out.")
        self.note = continued(state.get("note", self.note), self.note, path)
        self.prior.load_state_dict(state["prior"])
        self.averaged.load_state_dict(state["averaged"])
        load_optimizer(self.optimizer, state["optimizer"], self.recipe.learning_rate)
        self.judge.load_state_dict(state["judge"])
        load_optimizer(self.judge.optimizer, state["judge_optimizer"], self.recipe.discriminator_rate)
        self.path_length.mean = state["path_length"]
        self.steps, self.seconds = state["steps"], state["seconds"]
        self.images = state.get("images", self.steps * self.recipe.batch * self.processes.count)  # older ones: not kept
