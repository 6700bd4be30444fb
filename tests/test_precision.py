"""Training in bfloat16 on CPUs: the gradients are finite and nearly those of float32."""

from __future__ import annotations

import copy

import torch
from torch.nn import Conv2d, Sequential

from posefr.layout import channels_last
from posefr.training.precision import without_nan_in_bf16


def gradients(network, pictures, bf16):
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = network(pictures).float().square().mean()
    loss.backward()
    return [parameter.grad for parameter in network.parameters()]


def test_dilated_convolutions_have_gradients_under_autocast():
    torch.manual_seed(0)
    network = channels_last(Sequential(Conv2d(8, 24, 3, padding=1), Conv2d(24, 12, 3, padding=2, dilation=2)))
    pictures = torch.rand(4, 8, 64, 64).contiguous(memory_format=torch.channels_last)
    expected = gradients(copy.deepcopy(network), pictures, bf16=False)
    without_nan_in_bf16(network)
    for found, wanted in zip(gradients(network, pictures, bf16=True), expected, strict=True):
        assert torch.isfinite(found).all()
        assert (found - wanted).norm() < 0.05 * wanted.norm()


def test_the_result_is_bfloat16_where_its_input_is():
    network = Conv2d(3, 4, 3, padding=2, dilation=2)
    without_nan_in_bf16(network)
    with torch.autocast("cpu", torch.bfloat16):
        assert network(torch.rand(1, 3, 8, 8).bfloat16()).dtype == torch.bfloat16
    assert network(torch.rand(1, 3, 8, 8)).dtype == torch.float32
