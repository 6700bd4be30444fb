"""Where pictures are worked on."""

from __future__ import annotations

import pytest
import torch

from posefr.devices import desk_of


@pytest.mark.parametrize(("device", "desk"), [("cpu", "cpu"), ("cuda:1", "cuda:1"), ("mps", "cpu")])
def test_pictures_are_worked_on_beside_the_network_but_not_on_apples_gpu(device, desk):
    assert desk_of(torch.device(device)) == torch.device(desk)
