"""Averaged weights: what lies between two networks, and what becomes of a part that one of them lacks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from networks import SMALL, awake

from posefr.errors import PoseFRError
from posefr.restoration.checkpoint import load_network, save_network
from posefr.restoration.network import PoseFRNet
from posefr.training.__main__ import main
from posefr.training.average import average

BARE = replace(SMALL, filters=False, chroma=False, refined=())


def test_every_weight_lies_between():
    first, second = (awake(PoseFRNet(SMALL), seed) for seed in (0, 1))
    before = first.state_dict()["encoder.mix.weight"].clone()
    found = average(first, second, 0.25).state_dict()
    for name, value in first.state_dict().items():
        torch.testing.assert_close(found[name], 0.75 * value + 0.25 * second.state_dict()[name])
    assert torch.equal(first.state_dict()["encoder.mix.weight"], before)


def test_a_part_that_the_first_lacks_is_the_seconds():
    first = awake(PoseFRNet(BARE)).eval()
    second = awake(first.with_parts_of(SMALL)).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = second(images).image
        assert (first(images).image - expected).abs().mean() > 1e-3
        torch.testing.assert_close(average(first, second, 0.25).eval()(images).image, expected)


def test_the_command_writes_what_the_function_gives(tmp_path, capsys):
    networks = [awake(PoseFRNet(SMALL), seed) for seed in (0, 1)]
    paths = [save_network(n, tmp_path / f"{i}.safetensors", {"steps": i}) for i, n in enumerate(networks)]
    out = tmp_path / "mean.safetensors"
    assert main(["average", *map(str, paths), "--share", "0.25", "-o", str(out)]) == 0
    found, provenance = load_network(out)
    expected = average(networks[0], networks[1], 0.25).state_dict()
    for name, value in found.state_dict().items():
        torch.testing.assert_close(value, expected[name], atol=2e-3, rtol=2e-3)
    assert provenance["note"] == "averaged: 0.75 0.safetensors, 0.25 1.safetensors"
    assert main(["average", *map(str, paths), "--share", "1.5", "-o", str(out)]) == 1
    assert "--share is 0 to 1; found 1.5." in capsys.readouterr().err


def test_networks_of_other_widths_have_no_average():
    wider = replace(SMALL, style_channels=32)
    with pytest.raises(PoseFRError, match="differ in their sizes or widths"):
        average(PoseFRNet(SMALL), PoseFRNet(wider), 0.5)
    with pytest.raises(PoseFRError, match="differ in their sizes or widths"):
        average(PoseFRNet(SMALL), PoseFRNet(BARE), 0.5)
