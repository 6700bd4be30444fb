"""Recipes: what a training run does, as dataclasses whose fields are the command's options."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from ..errors import PoseFRError
from .degradation import SEVERITIES

__all__ = ["LOSSES", "PriorRecipe", "Recipe", "add_options", "from_options"]

LOSSES = ("relative", "psnr")
# Losses of whole faces, which a run of the refinement alone, in squares, does not have.
_NOT_REFINING = ("adversarial", "features", "identity_weight", "region", "consistency", "latent")
_T = TypeVar("_T")
_R = TypeVar("_R", bound="Run")


def _option(default: _T, text: str, **more: Any) -> _T:
    value: _T = field(default=default, metadata={"help": text, **more})
    return value


@dataclass(frozen=True)
class Run:
    """What every run has. Weights of 0 switch a loss off."""

    minutes: float = _option(60.0, "time budget of this run; it stops cleanly after it")
    steps: int = _option(0, "stop after so many steps of this run; 0 for no such limit")
    batch: int = _option(8, "faces a step, on each device")
    seed: int = _option(0, "of everything random")
    bf16: bool = _option(False, "bfloat16 autocast: for CUDA, and for CPUs that multiply it (avx512_bf16, amx)")
    log_every: int = _option(50, "steps between two lines of the log")
    sample_every: int = _option(1000, "steps between two checkpoints, each with a sheet of samples and the loss plot")

    def check(self) -> None:
        """Raises PoseFRError for values that no run can have."""
        for name in ("batch", "log_every", "sample_every"):
            if getattr(self, name) < 1:
                raise PoseFRError(f"--{name.replace('_', '-')} must be at least 1; found {getattr(self, name)}.")
        if self.minutes <= 0:
            raise PoseFRError(f"--minutes must be more than 0; found {self.minutes:g}.")


@dataclass(frozen=True)
class Recipe(Run):
    """Codec and prior together, on pairs of degraded and clean faces."""

    learning_rate: float = _option(1e-3, "Adam's, warmed up, then a cosine over the budget down to a tenth")
    prior_rate: float = _option(
        1.0, "learning rate of the prior's convolutions over the others'; 10 for a prior that was not trained alone"
    )
    muon: bool = _option(False, "orthogonal steps (Muon) for all matrices but small ones, Adam's for the rest")
    ema: float = _option(0.998, "decay of the averaged weights, a step")
    loss: str = _option(
        "psnr",
        "of the pixels: relative weighs each face's Charbonnier error by what was wrong with its input; psnr is the "
        "logarithm of each face's squared error",
        choices=LOSSES,
    )
    pixel: float = _option(
        0.03, "weight of the pixel loss; the gradients of psnr are some 30 times those of relative, which takes 1"
    )
    epsilon: float = _option(1e-3, "errors below it count squared in the relative loss, those above it as they are")
    pyramid: float = _option(0.3, "weight of the decoder's small images")
    adversarial: float = _option(0.0, "weight of the adversarial loss at fidelity 0, falling to nothing at fidelity 1")
    features: float = _option(0.0, "weight of the distance in the discriminator's features, falling likewise")
    judged_size: int = _option(0, "px of the random squares that the discriminator sees; 0: whole faces")
    free_only: bool = _option(False, "train only what speaks below fidelity 1; fidelity 1 stays as it is")
    refine_only: bool = _option(
        False, "train only the refinement at the network's size, by the error of pixels in squares of restored faces"
    )
    refine_quarter: bool = _option(
        False,
        "look with the refinement at a random quarter of each face only, which makes a step shorter by a quarter; "
        "--refine-only afterwards makes up for what it learns less",
    )
    free_pixel: float = _option(0.3, "share of the pixel loss that is left at fidelity 0")
    detail: float = _option(
        0.25, "weight of missing detail where its structure is right, and of too much anywhere, falling likewise"
    )
    structure: float = _option(0.3, "weight of the distance in the structure of detail, falling likewise")
    grid: float = _option(0.15, "weight of detail that repeats with every 2, 4 or 8 px, falling likewise")
    pattern: float = _option(3.0, "weight of fine frequencies that stand out from those around them, falling likewise")
    discriminator_rate: float = _option(5e-4, "the discriminator's learning rate, the same all the time")
    r1: float = _option(5.0, "weight of the discriminator's gradient penalty")
    identity_weight: float = _option(0.0, "weight of the identity loss; needs --identity")
    region: float = _option(0.0, "weight of the pixel error around eyes and mouth")
    consistency: float = _option(
        0.0, "weight of the distance from the worse to the better of the results of two degradations"
    )
    latent: float = _option(0.0, "weight of the distance between their latents, over that between different faces")
    severities: str = _option(
        "training",
        f"what the degradation is drawn from, with commas between: {', '.join(SEVERITIES)}; what stands twice is drawn "
        "twice as often",
    )
    favour: str = _option(
        "",
        "photos that are drawn more often or more rarely than others: patterns of their names in --faces and how many "
        "times, with commas between, as in ffhq*=8,old/*=0.5",
    )
    clean: float = _option(0.05, "share of faces that are their own target")
    faithful: float = _option(0.6, "share of faces at fidelity 1; the others' is drawn from 0..1")
    workers: int = _option(2, "threads that degrade faces")

    @property
    def severity_names(self) -> list[str]:
        """What the degradation is drawn from."""
        return [name.strip() for name in self.severities.split(",")]

    @property
    def favoured(self) -> dict[str, float]:
        """How many times as often photos are drawn, by patterns of their names.

        Raises:
            ValueError: a part is no pattern with a positive number.
        """
        parts = [part.rpartition("=") for part in self.favour.split(",") if part.strip()]
        favoured = {pattern.strip(): float(times) for pattern, _, times in parts}
        if not all(pattern and 0 < times < math.inf for pattern, times in favoured.items()):
            raise ValueError(self.favour)
        return favoured

    @property
    def twice(self) -> bool:
        """Whether each face is degraded twice."""
        return self.consistency > 0 or self.latent > 0

    @property
    def judged(self) -> bool:
        """Whether a discriminator is trained."""
        return self.adversarial > 0 or self.features > 0

    def check(self) -> None:
        """Raises PoseFRError for values that no run can have, or that exclude each other."""
        super().check()
        if self.workers < 1:
            raise PoseFRError(f"--workers must be at least 1; found {self.workers}.")
        if self.loss not in LOSSES:
            raise PoseFRError(f"The pixel loss is one of {', '.join(LOSSES)}; found {self.loss!r}.")
        if unknown := sorted(set(self.severity_names) - set(SEVERITIES)):
            names = ", ".join(map(repr, unknown))
            raise PoseFRError(f"The severities are some of {', '.join(SEVERITIES)}; found {names}.")
        try:
            _ = self.favoured
        except ValueError:
            raise PoseFRError(
                f"--favour is made of patterns and positive numbers, as in 'ffhq*=8,old/*=0.5'; found {self.favour!r}."
            ) from None
        if self.free_only and self.faithful >= 1:
            raise PoseFRError(
                "--free-only trains what speaks below fidelity 1; --faithful must be less than 1 with it."
            )
        for other in ("free_only", "refine_quarter", *_NOT_REFINING):
            if self.refine_only and getattr(self, other):
                raise PoseFRError(f"--refine-only and --{other.replace('_', '-')} exclude each other; choose one.")
        if self.judged_size and not self.judged:
            raise PoseFRError("--judged-size is of the discriminator, which only --adversarial or --features train.")
        if self.latent and self.batch < 2:
            raise PoseFRError("The latent loss compares different faces of a batch; --batch must be at least 2.")


@dataclass(frozen=True)
class PriorRecipe(Run):
    """The StyleGAN2 prior alone."""

    learning_rate: float = _option(2e-3, "Adam's, for the prior, whose layers have an equalized learning rate")
    discriminator_rate: float = _option(2e-4, "Adam's, for the discriminator, whose layers have not")
    ema: float = _option(0.998, "decay of the averaged weights, a step")
    r1: float = _option(2.0, "weight of the discriminator's gradient penalty, every 16th step")
    path_length: float = _option(2.0, "weight of the path length penalty, every 8th step")
    mixing: float = _option(0.5, "share of faces whose coarse and fine scales come from two latents")
    augment: str = _option(
        "colour,shift,cutout", "differentiable augmentation of real and generated faces; empty: none"
    )


def add_options(parser: argparse.ArgumentParser, recipe: type[Run]) -> None:
    """An option for each field."""
    for entry in fields(recipe):
        name = "--" + entry.name.replace("_", "-")
        text = entry.metadata["help"].replace("%", "%%")
        if isinstance(entry.default, bool):
            parser.add_argument(name, action="store_true", help=text)
        else:
            text, choices = f"{text} (default: %(default)s)", entry.metadata.get("choices")
            parser.add_argument(name, type=type(entry.default), default=entry.default, choices=choices, help=text)


def from_options(args: argparse.Namespace, recipe: type[_R]) -> _R:
    """The recipe that the options ask for."""
    return recipe(**{entry.name: getattr(args, entry.name) for entry in fields(recipe)})
