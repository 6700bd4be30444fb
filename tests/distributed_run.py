"""Run by torchrun in test_distributed.py: trains a small network and leaves each process's weights."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from networks import SMALL

from posefr.restoration.network import PoseFRNet
from posefr.training.data import FaceCrops
from posefr.training.prior import Prior, PriorConfig
from posefr.training.prior_trainer import train_prior
from posefr.training.processes import Processes
from posefr.training.recipe import PriorRecipe, Recipe
from posefr.training.trainer import train

out = Path(sys.argv[1])
processes = Processes.start("cpu")
torch.manual_seed(100 + processes.rank)  # the processes have to agree in spite of this
images = np.random.default_rng(0).integers(0, 255, (8, 64, 64, 3), dtype=np.uint8)
network = PoseFRNet(SMALL)
recipe = Recipe(steps=3, batch=2, workers=1, log_every=1, sample_every=2, adversarial=0.01)
train(network, FaceCrops(images, np.ones(8)), recipe, out, processes)
prior = Prior(PriorConfig.of(SMALL))
train_prior(prior, FaceCrops(images, np.ones(8)), PriorRecipe(steps=1, batch=2, log_every=1), out, processes)
state = {f"network.{name}": value for name, value in network.state_dict().items()}
state |= {f"prior.{name}": value for name, value in prior.state_dict().items()}
torch.save(state, out / f"process-{processes.rank}.pt")
processes.stop()
