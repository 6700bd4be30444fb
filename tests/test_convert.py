"""StyleGAN2 generators in the common layout become priors that paint the same picture."""

from __future__ import annotations

import argparse
import math
from dataclasses import replace

import pytest
import torch
from networks import SMALL
from torch import Tensor
from torch.nn import functional as F

from posefr.errors import PoseFRError
from posefr.restoration.network import CONFIGURATIONS
from posefr.training.__main__ import main
from posefr.training.convert import convert, read_generator
from posefr.training.prior import PriorConfig, load_prior

STYLE, LAYERS = 12, 3
WIDTHS = {4: 16, 8: 16, 16: 12, 32: 8, 64: 8}


def generator(seed: int = 0) -> dict[str, Tensor]:
    """A random generator: the names and shapes of the layout, all values filled."""
    source = torch.Generator().manual_seed(seed)

    def random(*shape: int, scale: float = 1.0) -> Tensor:
        return scale * torch.randn(shape, generator=source)

    tensors: dict[str, Tensor] = {"input.input": random(1, WIDTHS[4], 4, 4)}
    for layer in range(1, LAYERS + 1):
        tensors[f"style.{layer}.weight"] = random(STYLE, STYLE, scale=100)
        tensors[f"style.{layer}.bias"] = random(STYLE, scale=10)

    def styled(name: str, inside: int, outside: int, up: bool) -> None:
        tensors[f"{name}.conv.weight"] = random(1, outside, inside, 3, 3)
        tensors[f"{name}.conv.modulation.weight"] = random(inside, STYLE)
        tensors[f"{name}.conv.modulation.bias"] = 1 + random(inside, scale=0.1)
        tensors[f"{name}.noise.weight"] = random(1, scale=0.1)
        tensors[f"{name}.activate.bias"] = random(outside, scale=0.1)
        if up:
            tensors[f"{name}.conv.blur.kernel"] = random(4, 4)

    def to_rgb(name: str, inside: int, up: bool) -> None:
        tensors[f"{name}.conv.weight"] = random(1, 3, inside, 1, 1)
        tensors[f"{name}.conv.modulation.weight"] = random(inside, STYLE)
        tensors[f"{name}.conv.modulation.bias"] = 1 + random(inside, scale=0.1)
        tensors[f"{name}.bias"] = random(1, 3, 1, 1, scale=0.1)
        if up:
            tensors[f"{name}.upsample.kernel"] = random(4, 4)

    styled("conv1", WIDTHS[4], WIDTHS[4], False)
    to_rgb("to_rgb1", WIDTHS[4], False)
    inside = WIDTHS[4]
    for scale, size in enumerate(list(WIDTHS)[1:]):
        styled(f"convs.{2 * scale}", inside, WIDTHS[size], True)
        styled(f"convs.{2 * scale + 1}", WIDTHS[size], WIDTHS[size], False)
        to_rgb(f"to_rgbs.{scale}", WIDTHS[size], True)
        inside = WIDTHS[size]
    for layer in range(2 * len(WIDTHS) - 1):
        size = 4 << (layer + 1) // 2
        tensors[f"noises.noise_{layer}"] = random(1, 1, size, size)
    return tensors


def paint(tensors: dict[str, Tensor], z: Tensor) -> Tensor:
    """The layout's own arithmetic, from arXiv 1912.04958: weights scaled per sample, no noise."""
    w = z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()
    for layer in range(1, LAYERS + 1):
        weight, bias = tensors[f"style.{layer}.weight"], tensors[f"style.{layer}.bias"]
        w = F.leaky_relu(F.linear(w, weight * 0.01 / math.sqrt(STYLE), bias * 0.01), 0.2) * math.sqrt(2)

    fir = torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1]))

    def modulated(name: str, x: Tensor, up: bool, demodulate: bool) -> Tensor:
        weight = tensors[f"{name}.conv.weight"]
        affine = tensors[f"{name}.conv.modulation.weight"] / math.sqrt(STYLE)
        style = F.linear(w, affine, tensors[f"{name}.conv.modulation.bias"])
        weight = weight / math.sqrt(weight[0, 0].numel()) * style[:, None, :, None, None]
        if demodulate:
            weight = weight * (weight.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
        results = []
        for image, own in zip(x, weight, strict=True):
            if up:
                large = F.conv_transpose2d(image[None], own.transpose(0, 1), stride=2)
                taps = (fir / 16).expand(len(own), 1, 4, 4)
                results.append(F.conv2d(large, taps, padding=1, groups=len(own)))
            else:
                results.append(F.conv2d(image[None], own, padding=own.shape[-1] // 2))
        return torch.cat(results)

    def styled(name: str, x: Tensor, up: bool) -> Tensor:
        y = modulated(name, x, up, True) + tensors[f"{name}.activate.bias"][:, None, None]
        return F.leaky_relu(y, 0.2) * math.sqrt(2)

    x = styled("conv1", tensors["input.input"].expand(len(z), -1, -1, -1), False)
    rgb = modulated("to_rgb1", x, False, False) + tensors["to_rgb1.bias"]
    for scale in range(len(WIDTHS) - 1):
        x = styled(f"convs.{2 * scale + 1}", styled(f"convs.{2 * scale}", x, True), False)
        added = modulated(f"to_rgbs.{scale}", x, False, False) + tensors[f"to_rgbs.{scale}.bias"]
        rgb = F.interpolate(rgb, scale_factor=2, mode="bilinear", align_corners=False) + added
    return (rgb + 1) / 2


def test_a_converted_generator_paints_the_same_picture():
    tensors = generator()
    taken = {name: value for name, value in tensors.items() if "kernel" not in name and "noises" not in name}
    prior, refused = convert(taken)
    assert refused == []
    assert prior.config == PriorConfig(WIDTHS, STYLE, LAYERS)
    strengths = [value for name, value in prior.state_dict().items() if name.endswith("strength")]
    assert len(strengths) == 2 * len(WIDTHS) - 1
    assert all(value.any() for value in strengths)
    for value in strengths:
        value.zero_()
    z = torch.randn(2, STYLE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(prior(z), paint(tensors, z), atol=1e-4, rtol=1e-4)


def test_the_command_takes_g_ema_and_says_what_stays(tmp_path, capsys):
    torch.save({"g_ema": generator(), "args": argparse.Namespace(size=64)}, tmp_path / "generator.pt")
    out = tmp_path / "prior.safetensors"
    assert main(["convert", str(tmp_path / "generator.pt"), "-o", str(out), "--size", "32"]) == 0
    prior, provenance = load_prior(out)
    assert prior.config.channels == {4: 16, 8: 16, 16: 12, 32: 8}
    assert "generator.pt" in provenance["note"]
    told = capsys.readouterr().out
    assert "not taken: convs.6.conv.weight [1, 8, 8, 3, 3]: the prior has nothing like it" in told
    assert "not taken: convs.4" not in told


def test_what_fits_another_configuration_is_taken_and_the_rest_named():
    tensors = {name: value for name, value in generator().items() if not name.startswith("noises")}
    tensors = {name: value for name, value in tensors.items() if not name.endswith("kernel")}
    prior, refused = convert(tensors, PriorConfig({**WIDTHS, 64: 4}, STYLE, LAYERS))
    assert torch.equal(prior.synthesis.block(32).up.weight, tensors["convs.4.conv.weight"][0])
    assert "convs.6.conv.weight [1, 8, 8, 3, 3]: synthesis.blocks.64.up.weight has [4, 8, 3, 3]" in refused
    assert all("convs.6" in line or "convs.7" in line or "to_rgbs.3" in line for line in refused)


def test_with_a_configuration_the_mapping_network_keeps_all_its_layers(tmp_path, monkeypatch):
    monkeypatch.setitem(CONFIGURATIONS, "posefr-256", replace(SMALL, prior=WIDTHS, style_channels=STYLE))
    torch.save(generator(), tmp_path / "generator.pt")
    options = [str(tmp_path / "generator.pt"), "-o", str(tmp_path / "prior.safetensors"), "--size", "64"]
    assert main(["convert", *options, "--configuration", "posefr-256"]) == 0
    prior, provenance = load_prior(tmp_path / "prior.safetensors")
    assert prior.config.layers == LAYERS
    assert not provenance["not_taken"]


def test_a_generator_of_other_widths_is_refused(tmp_path):
    torch.save(generator(), tmp_path / "generator.pt")
    out = tmp_path / "prior.safetensors"
    with pytest.raises(PoseFRError, match="it has 16 channels at 4 px, the prior 192"):
        convert(read_generator(tmp_path / "generator.pt"), PriorConfig.of(CONFIGURATIONS["posefr-256"]))
    assert main(["convert", str(tmp_path / "generator.pt"), "-o", str(out), "--configuration", "posefr-256"]) != 0
    assert not out.exists()


def test_other_files_are_refused(tmp_path):
    with pytest.raises(PoseFRError, match=r"no file .*absent\.pt"):
        read_generator(tmp_path / "absent.pt")
    (tmp_path / "text.pt").write_text("not a checkpoint")
    with pytest.raises(PoseFRError, match=r"text\.pt cannot be read as a checkpoint"):
        read_generator(tmp_path / "text.pt")
    torch.save({"g_ema": {"a": torch.zeros(1)}}, tmp_path / "other.pt")
    with pytest.raises(PoseFRError, match=r"other\.pt holds no StyleGAN2 generator"):
        read_generator(tmp_path / "other.pt")
    torch.save({"g_ema": generator()}, tmp_path / "generator.pt")
    with pytest.raises(PoseFRError, match="sizes 4, 8, 16, 32, 64 px; found no 48"):
        convert(read_generator(tmp_path / "generator.pt"), size=48)


def test_a_pickle_that_runs_code_does_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"g_ema": Bomb()}, tmp_path / "bomb.pt")
    with pytest.raises(PoseFRError, match="tensors alone"):
        read_generator(tmp_path / "bomb.pt")
    assert not (tmp_path / "ran").exists()
