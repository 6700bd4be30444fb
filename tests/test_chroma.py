"""Colour that follows luma."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from posefr.color import luma
from posefr.restoration.chroma import CHROMA_TERMS, chroma_from_luma, luma_and_colors, with_green


def light(image: Tensor) -> Tensor:
    return luma(image.movedim(1, -1))[:, None]


def weights(image: Tensor, *values: float) -> Tensor:
    return image.new_tensor(values).view(1, CHROMA_TERMS, 1, 1).expand(len(image), -1, *image.shape[2:])


@pytest.fixture
def photo() -> Tensor:
    """[1, 3, 64, 64] whose colours follow its luma, from brown to pale blue."""
    texture = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    dark, bright = torch.tensor([0.35, 0.2, 0.1]), torch.tensor([0.6, 0.8, 0.95])
    return torch.lerp(dark.view(1, 3, 1, 1), bright.view(1, 3, 1, 1), texture)


def halved(image: Tensor) -> Tensor:
    """The image with its colours, less their luma, at half the size, as photos are compressed."""
    colors = F.interpolate(F.avg_pool2d(image - light(image), 2), scale_factor=2, mode="bilinear", align_corners=False)
    return light(image) + colors


@pytest.mark.parametrize(("values", "left"), [((1, 0, 0), 0.25), ((0, 1, 0), 0.1), ((0, 0, 1), 0.3)])
def test_colours_kept_at_half_size_come_back(photo, values, left):
    compressed = halved(photo)
    restored = compressed + chroma_from_luma(compressed, weights(photo, *values))
    error, before = ((image - photo).square().mean() for image in (restored, compressed))
    assert error < left * before
    assert not chroma_from_luma(compressed, weights(photo, 0, 0, 0)).any()


def test_the_luma_stays():
    image = torch.rand(2, 3, 32, 48)
    change = chroma_from_luma(image, torch.rand(2, CHROMA_TERMS, 32, 48))
    assert change.abs().mean() > 0.01
    torch.testing.assert_close(light(change), torch.zeros(2, 1, 32, 48), atol=1e-5, rtol=0)


def test_luma_and_colours_are_the_image():
    image = torch.rand(2, 3, 8, 8)
    light_of, colors = luma_and_colors(image)
    torch.testing.assert_close(light_of, light(image))
    torch.testing.assert_close(light_of + with_green(colors), image)
    torch.testing.assert_close(light(with_green(torch.randn(2, 2, 8, 8))), torch.zeros(2, 1, 8, 8), atol=1e-6, rtol=0)


def test_noise_in_the_luma_of_a_flat_area_does_not_colour_it():
    noise = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(1)) / 255
    image = torch.tensor([0.7, 0.5, 0.4]).view(1, 3, 1, 1) + noise
    assert chroma_from_luma(image, weights(image, 1, 1, 1)).abs().max() < 1e-4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_costs_no_more_than_its_steps(photo, dtype):
    compressed = halved(photo)
    expected = chroma_from_luma(compressed.to(dtype).float(), weights(photo, 0.5, 0.5, 0.5))
    found = chroma_from_luma(compressed.to(dtype), weights(photo, 0.5, 0.5, 0.5).to(dtype))
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, atol=2 * torch.finfo(dtype).eps, rtol=0)


def test_gradients_reach_image_and_weights():
    image = torch.rand(1, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(1, CHROMA_TERMS, 8, 8, dtype=torch.float64, requires_grad=True)
    chroma_from_luma(image, weight).square().sum().backward()
    assert all(value.grad is not None and value.grad.isfinite().all() and value.grad.any() for value in (image, weight))
