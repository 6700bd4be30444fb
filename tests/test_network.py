"""The network: shapes, weight demodulation, gradients, precision, seeds, fidelity, growth, cost."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from networks import SMALL, awake
from torch import autocast, nn
from torch.nn import Conv2d
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from posefr.color import luma
from posefr.restoration.codec import Guidance, filtered, image_pyramid
from posefr.restoration.mmrb import MMRB
from posefr.restoration.network import CONFIGURATIONS, PoseFRConfig, PoseFRNet
from posefr.restoration.stylegan2 import ModulatedConv2d, Synthesis, seeded_noise


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_fresh_network_returns_its_input(name):
    config = CONFIGURATIONS[name]
    images = torch.rand(1, 3, config.size, config.size)
    output = PoseFRNet(config).eval()(images)
    assert output.image.shape == images.shape
    assert output.latents.shape == (1, 2 + 3 * (len(config.sizes) - 1), config.style_channels)
    torch.testing.assert_close(output.image, images, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("name", "gmacs", "mebibytes"), [("posefr-256", 3, 24), ("posefr-512", 24, 200)])
def test_cost_stays_within_the_limits(name, gmacs, mebibytes):
    network = PoseFRNet(CONFIGURATIONS[name]).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, network.config.size, network.config.size))
    assert counter.get_total_flops() / 2 <= gmacs * 1e9
    assert sum(p.numel() for p in network.parameters()) * 2 <= mebibytes * 2**20


def test_a_wrong_size_is_refused_in_one_sentence():
    with pytest.raises(ValueError, match=r"takes \[B, 3, 64, 64\]; found \[1, 3, 32, 32\]"):
        PoseFRNet(SMALL)(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match="power of two"):
        PoseFRConfig(size=300)
    with pytest.raises(ValueError, match="scales"):
        PoseFRConfig(size=512)


@pytest.mark.parametrize("kernel", [1, 3])
def test_demodulation_equals_scaling_each_samples_weights(kernel):
    torch.manual_seed(0)
    layer = ModulatedConv2d(5, 7, kernel, style_channels=6).double()
    x, latent = torch.randn(3, 5, 8, 8).double(), torch.randn(3, 6).double()
    style = layer.style(latent)
    direct = []
    for sample, scale in zip(x, style, strict=True):
        weight = layer.weight * layer.weight_gain * scale[None, :, None, None]
        weight = weight * (weight.square().sum((1, 2, 3), keepdim=True)).rsqrt()
        direct.append(F.conv2d(sample[None], weight, layer.bias, padding=kernel // 2))
    torch.testing.assert_close(layer(x, latent), torch.cat(direct), atol=1e-5, rtol=1e-5)


def test_upsampling_doubles_the_size_and_keeps_a_constant():
    layer = ModulatedConv2d(1, 1, 3, style_channels=2, upsample=True)
    with torch.no_grad():
        layer.weight.copy_(torch.outer(torch.tensor([1.0, 2.0, 1.0]), torch.tensor([1.0, 2.0, 1.0])))
    out = layer(torch.ones(1, 1, 8, 8), torch.zeros(1, 2))
    assert out.shape == (1, 1, 16, 16)
    inside = out[0, 0, 3:-3, 3:-3]
    assert (inside - inside.mean()).abs().max() < 1e-5, "no checkerboard"


def test_gradients_reach_every_parameter():
    network = awake(PoseFRNet(SMALL)).train()
    output = network(torch.rand(2, 3, 64, 64), torch.tensor([0.3, 0.9]), noise_seed=1)
    loss = output.image.square().mean() + sum(image.square().mean() for image in output.images.values())
    loss.backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.01), (torch.bfloat16, 0.05)])
def test_half_precision_agrees_with_float32(dtype, tolerance):
    network = awake(PoseFRNet(SMALL)).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = network(images, 0.5).image
        with autocast("cpu", dtype):
            found = network.to(dtype)(images, 0.5).image
    assert torch.isfinite(found).all()
    assert (found.float() - expected).abs().mean() < tolerance * expected.std()


def test_large_styles_do_not_overflow_half_precision():
    layer = ModulatedConv2d(64, 64, 3, style_channels=8).half()
    found = layer(torch.full((1, 64, 8, 8), 100.0).half(), torch.full((1, 8), 3000.0).half())
    assert torch.isfinite(found).all()


def test_the_seed_decides_the_noise_and_the_fidelity_the_result():
    network = awake(PoseFRNet(SMALL)).eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        first, again, other = (network(images, 0.5, noise_seed=seed).image for seed in (3, 3, 4))
        trusting = network(images, 0.0, noise_seed=3).image
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert (first - trusting).abs().mean() > 1e-4
    assert torch.equal(seeded_noise(5, 8), seeded_noise(5, 8))


def test_a_kernel_averages_along_one_direction_alone():
    stripes = torch.arange(8.0).remainder(2).expand(1, 3, 8, 8)  # columns of 0 and 1
    kernels = torch.zeros(1, 4, 8, 8)
    kernels[:, 1] = 0.25  # down the columns
    assert not filtered(stripes, kernels).any()
    kernels = torch.zeros(1, 4, 8, 8)
    kernels[:, 0] = 0.25  # across them
    smooth = stripes + filtered(stripes, kernels)
    torch.testing.assert_close(smooth[..., 1:-1], torch.full((1, 3, 8, 6), 0.5))


def test_a_kernel_is_what_a_convolution_with_it_would_be():
    image, weight = torch.rand(2, 3, 9, 7), torch.randn(4)
    a, b, c, d = weight.tolist()
    kernel = torch.tensor([[c, b, d], [a, -2 * (a + b + c + d), a], [d, b, c]])
    expected = F.conv2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), kernel.expand(3, 1, 3, 3), groups=3)
    found = filtered(image, weight.view(1, 4, 1, 1).expand(2, 4, 9, 7))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_network_gets_parts_and_stays_what_it_was():
    bare = replace(SMALL, filters=False, chroma=False, refined=())
    without = awake(PoseFRNet(bare)).eval()
    whole = without.with_parts_of(SMALL).eval()
    assert whole.config == SMALL
    assert whole.with_parts_of(bare).config == SMALL
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        for fidelity in (1.0, 0.3):
            expected = without(images, fidelity).image
            torch.testing.assert_close(whole(images, fidelity).image, expected)


def test_what_is_said_of_colours_leaves_the_luma_as_it_is():
    network = PoseFRNet(SMALL).eval()  # its output is its input
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for layer in network.decoder.chroma.values():
            layer.bias.uniform_(-0.2, 0.2, generator=torch.Generator().manual_seed(0))
        change = network(images).image - images
    assert change.abs().mean() > 1e-3
    assert luma(change.movedim(1, -1)).abs().max() < 1e-4


def test_what_speaks_below_fidelity_1_alone_does_not_change_fidelity_1():
    network = awake(PoseFRNet(SMALL)).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        faithful, free = (network(images, fidelity).image for fidelity in (1.0, 0.0))
        both = network(images, torch.tensor([1.0, 0.0])).image
        for parameter in network.free_parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        after, freer = (network(images, fidelity).image for fidelity in (1.0, 0.0))
    torch.testing.assert_close(both, torch.stack([faithful[0], free[1]]), atol=1e-4, rtol=1e-4)
    assert torch.equal(after, faithful)
    assert (freer - free).abs().mean() > 1e-3


def test_a_refinement_counts_as_much_as_the_fidelity():
    network = awake(PoseFRNet(SMALL)).eval()
    before = awake(PoseFRNet(replace(SMALL, refined=()))).eval()
    before.load_state_dict({key: network.state_dict()[key] for key in before.state_dict()})
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for fidelity in (1.0, 0.5, 0.0):
            plain = before(images, fidelity).image
            features = before.decoder(*_seen(before, images)).seen[64]
            expected = plain + fidelity * network.refinements["64"](images, plain, features)
            torch.testing.assert_close(network(images, fidelity).image, expected)
        assert (expected - plain).abs().max() == 0
        assert (network(images).image - before(images).image).abs().mean() > 1e-3


def _seen(network, images):
    centred = {s: image * 2 - 1 for s, image in image_pyramid(images).items()}
    return network.encoder(centred)[0], centred


def test_guidance_blends_what_both_say_and_keeps_what_one_alone_says():
    ones, nothing = torch.ones(2, 1, 1, 1), Guidance({}, {}, {}, {}, {}, {}, {})
    mine = replace(nothing, conditions={4: 0 * ones}, residuals={64: ones, 128: ones})
    other = replace(nothing, conditions={4: ones}, residuals={128: 5 * ones})
    found = mine.blend(other, torch.tensor([0.0, 0.25])[:, None, None, None])
    assert found.conditions[4].flatten().tolist() == [0.0, 0.25]
    assert found.residuals[64].flatten().tolist() == [1.0, 1.0]
    assert found.residuals[128].flatten().tolist() == [1.0, 2.0]


def test_a_face_does_not_depend_on_the_others_in_its_batch():
    network = awake(PoseFRNet(SMALL)).eval()
    images = torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        together, alone = network(images, 0.5).image[1], network(images[1:2], 0.5).image[0]
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


def test_mmrb_keeps_its_shape_and_replaces_a_residual_block():
    block = MMRB(32)
    assert block(torch.randn(2, 32, 7, 11)).shape == (2, 32, 7, 11)
    plain = nn.Sequential(Conv2d(3, 32, 1), block, Conv2d(32, 3, 1))
    optimizer = torch.optim.Adam(plain.parameters(), 3e-3)
    torch.manual_seed(0)
    x = torch.randn(8, 3, 12, 12)
    target = F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), 3, stride=1)
    losses = []
    for _ in range(60):
        loss = F.mse_loss(plain(x), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0], "it learns"


def test_a_grown_network_gives_the_small_ones_result_and_the_finer_band():
    small = awake(PoseFRNet(SMALL)).eval()
    grown = small.grow(128).eval()
    with torch.no_grad():
        # What is new in the prior is not zero but its layer to RGB is; its noise starts silent.
        face = torch.rand(1, 3, 128, 128)
        expected = F.interpolate(small(image_pyramid(face)[64]).image, scale_factor=2, mode="bilinear")
        band = face - F.interpolate(F.avg_pool2d(face, 2), scale_factor=2, mode="bilinear")
        torch.testing.assert_close(grown(face).image, expected + band, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="larger size only"):
        grown.grow(64)


def test_the_prior_alone_paints_images():
    prior = Synthesis({4: 8, 8: 8, 16: 8}, style_channels=4)
    latents = torch.randn(2, prior.latents, 4)
    assert prior(latents, seed=1).shape == (2, 3, 16, 16)
    assert torch.equal(prior(latents, seed=1), prior(latents, seed=1))
    with pytest.raises(ValueError, match="scales"):
        Synthesis({4: 8, 16: 8}, style_channels=4)
