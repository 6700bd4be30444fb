"""host.py outside ComfyUI: the same calls, with nobody listening."""

from __future__ import annotations

from types import SimpleNamespace

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
