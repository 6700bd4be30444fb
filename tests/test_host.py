"""host.py outside ComfyUI: the same calls, with nobody listening."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from torch.nn import Linear

from posefr import host


def test_the_same_calls_work_without_a_host():
    model = SimpleNamespace(network=Linear(1, 1))
    adopted = host.adopt(model)
    assert host.load(adopted, 1e9) is model
    assert host.loading_device() is None
    assert host.folders(host.DETECTOR_FOLDERS) == []
    host.register_folders()
    host.note("7", "unheard")
    first, second = host.progress(2)
    first(1, 1)
    second(1, 1)
    image = torch.rand(1, 2, 2, 3)
    assert host.hand_over(image) is image
    tried = []

    def fits_three(batch):
        tried.append(batch)
        if batch > 3:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:75] DefaultCPUAllocator: can't allocate memory")
        return "done"

    assert host.with_smaller_batches(fits_three, 8) == ("done", 2)
    assert tried == [8, 4, 2]


@pytest.mark.parametrize("of_host", [False, True])
def test_a_network_that_another_node_took_away_is_brought_back(monkeypatch, of_host):
    """Where the host gives upscale models no patcher, it takes them for loaded although its own node moved them.

    What it streams by a patcher of its own is left to it.
    """
    patcher = SimpleNamespace(load_device="meta", is_dynamic=lambda: True)
    management = SimpleNamespace(
        get_torch_device=lambda: "meta", unet_offload_device=lambda: "cpu", load_models_gpu=lambda *_, **__: None
    )
    monkeypatch.setitem(sys.modules, "comfy.model_management", management)
    monkeypatch.setitem(sys.modules, "comfy.model_patcher", SimpleNamespace(ModelPatcher=lambda *_, **__: patcher))
    model, owner = SimpleNamespace(network=Linear(1, 1)), SimpleNamespace()
    if of_host:
        owner.patcher = patcher
    host.load(host.adopt(model, owner), 0)
    assert model.network.weight.is_meta != of_host
