"""Training in two processes under torchrun, gloo on the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from networks import SMALL
from torch.nn import Linear

from posefr.restoration.checkpoint import load_network
from posefr.restoration.network import PoseFRNet
from posefr.training.journal import read_log
from posefr.training.processes import Processes

ROOT = Path(__file__).resolve().parents[1]


def test_two_processes_train_one_network(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    result = subprocess.run(
        [*command, str(ROOT / "tests" / "distributed_run.py"), str(tmp_path)],
        env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"process-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    fresh = PoseFRNet(SMALL).state_dict()
    assert any(not torch.equal(first[f"network.{name}"], value) for name, value in fresh.items())
    lines = read_log(tmp_path / "log.jsonl")
    assert [(line["step"], line["images"]) for line in lines] == [(1, 4), (2, 8), (3, 12)], "one process writes the log"
    _, provenance = load_network(tmp_path / "network.safetensors")
    assert (provenance["steps"], provenance["images"]) == (3, 12)
    assert len(list(tmp_path.glob("sample-*.png"))) == 2
    assert (tmp_path / "prior.safetensors").exists()


def test_one_process_alone_changes_nothing():
    processes = Processes.start("cpu")
    assert (processes.rank, processes.count, processes.first) == (0, 1, True)
    layer = Linear(2, 2)
    layer(torch.ones(1, 2)).sum().backward()
    before = layer.weight.grad.clone()
    processes.average_gradients(layer.parameters())
    assert torch.equal(layer.weight.grad, before)
    assert processes.largest(0.25) == 0.25
    assert processes.in_turn(lambda: "made") == "made"
