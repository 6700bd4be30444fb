import pytest
import torch

from posefr.training.muon import Muon, is_large, orthogonal


@pytest.mark.parametrize("shape", [(32, 32), (16, 200), (200, 16)])
def test_a_matrix_becomes_orthogonal_whatever_its_scale(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    ours = orthogonal(1e-4 * matrix)
    torch.testing.assert_close(ours, orthogonal(100 * matrix), atol=1e-3, rtol=0)
    now = (left.T @ ours @ right.T).diagonal()
    assert ours.shape == shape
    assert now[values > 0.1 * values[0]].min() > 0.6
    assert now.max() < 1.3
    assert torch.linalg.matrix_norm(ours - left @ now.diag() @ right) < 1e-2, "the singular vectors are the matrix's"


def test_no_step_comes_of_no_gradient():
    assert orthogonal(torch.zeros(8, 9)).abs().max() == 0


def test_only_matrices_with_many_directions_are_large():
    shapes = {(8, 8): True, (16, 3, 3, 3): True, (64, 7): False, (3, 64, 1, 1): False, (64,): False}
    assert {shape: is_large(torch.zeros(shape)) for shape in shapes} == shapes


def test_a_step_goes_down_in_all_directions_alike_and_is_as_long_as_adams():
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.zeros(12, 8, 3, 3).contiguous(memory_format=torch.channels_last))
    bias = torch.nn.Parameter(torch.zeros(12))
    optimizer = Muon([{"params": [weight], "orthogonal": True}, {"params": [bias]}], lr=0.01, betas=(0.9, 0.99))
    slope = torch.randn_like(weight) * torch.logspace(0, -2, 12)[:, None, None, None]
    ((weight * slope).sum() + bias.sum()).backward()
    optimizer.step()
    lengths = weight.detach().flatten(1).norm(dim=1)
    assert lengths.max() < 2 * lengths.min(), "where the slope is a hundred times less steep too"
    assert (weight.detach() * slope).sum() < 0
    assert weight.detach().square().mean().sqrt() == pytest.approx(0.2 * 0.01, rel=0.3)
    torch.testing.assert_close(bias.detach(), torch.full((12,), -0.01))


def test_it_finds_a_map():
    torch.manual_seed(0)
    inputs = torch.randn(256, 16)
    wanted = torch.nn.functional.linear(inputs, torch.randn(16, 16))
    weight = torch.nn.Parameter(torch.zeros(16, 16))
    optimizer = Muon([{"params": [weight], "orthogonal": True}], lr=0.1, betas=(0.9, 0.99))
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 300)
        optimizer.zero_grad()
        loss = (torch.nn.functional.linear(inputs, weight) - wanted).square().mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < 1e-4
