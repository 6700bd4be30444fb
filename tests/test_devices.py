"""Where pictures are worked on."""

from __future__ import annotations

import pytest
import torch

import posefr
from posefr.devices import default_device, desk_of


@pytest.mark.parametrize(("device", "desk"), [("cpu", "cpu"), ("cuda:1", "cuda:1"), ("mps", "cpu")])
def test_pictures_are_worked_on_beside_the_network_but_not_on_apples_gpu(device, desk):
    assert desk_of(torch.device(device)) == torch.device(desk)


@pytest.mark.parametrize(("available", "device"), [(True, "cuda"), (False, "cpu")])
def test_networks_go_to_cuda_where_there_is_some(monkeypatch, available, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert default_device() == torch.device(device)


@pytest.mark.parametrize("load", [posefr.load_detector, posefr.load_restorer])
def test_detectors_and_restorers_go_to_the_same_device_by_themselves(monkeypatch, load):
    asked = []
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, device: asked.append(torch.device(device)) or self)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    load()
    assert asked[-1] == torch.device("cuda")
