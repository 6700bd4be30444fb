"""The ablation: equal cost, equal budget, held-out faces, a table that adds up."""

from __future__ import annotations

import csv

import cv2
import numpy as np
import pytest
import torch
from networks import SMALL, awake
from torch.utils.flop_counter import FlopCounterMode

from posefr.errors import PoseFRError
from posefr.restoration.checkpoint import load_network, save_network
from posefr.restoration.mmrb import MMRB
from posefr.restoration.network import CONFIGURATIONS, PoseFRNet
from posefr.training.__main__ import main
from posefr.training.ablation import VARIANTS, PlainBlock, split, table
from posefr.training.data import FaceCrops
from posefr.training.prior import Prior, PriorConfig, save_prior

POINTS = np.array([[24, 30], [40, 30], [32, 38], [26, 46], [38, 46]], np.float32)


def crops(count: int = 16) -> FaceCrops:
    rng = np.random.default_rng(0)
    images = [cv2.resize(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8), (64, 64)) for _ in range(count)]
    return FaceCrops(np.stack(images), np.ones(count), np.stack([POINTS] * count))


@pytest.mark.parametrize("channels", [48, 96, 128, 192])
def test_the_plain_block_costs_what_an_mmrb_costs(channels):
    def macs(block: torch.nn.Module) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            block(torch.zeros(1, channels, 16, 16))
        return counter.get_total_flops()

    assert macs(PlainBlock(channels)) == pytest.approx(macs(MMRB(channels)), rel=0.02)


def test_variants_change_what_they_say():
    plain = PoseFRNet(SMALL)
    VARIANTS["plain block of equal MACs"].change(plain)
    assert not any(isinstance(module, MMRB) for module in plain.modules())
    assert sum(isinstance(module, PlainBlock) for module in plain.modules()) == 3
    assert plain(torch.rand(1, 3, 64, 64)).image.shape == (1, 3, 64, 64)

    alone = PoseFRNet(SMALL)
    VARIANTS["without the prior"].change(alone)
    image = torch.rand(1, 3, 64, 64)
    before = alone.eval()(image).image
    with torch.no_grad():
        for size in SMALL.sizes:
            alone.prior.block(size).conv.weight.add_(1)
    assert torch.equal(alone(image).image, before)
    assert not alone.prior.block(64).to_rgb.weight.requires_grad


def test_every_eighth_face_is_held_out_and_its_yaw_told():
    training, held_out, yaw = split(crops(17))
    assert (len(training), len(held_out), len(yaw)) == (14, 3, 3)
    assert np.abs(yaw).max() < 5, "the points are symmetric"
    assert np.array_equal(held_out.images[1], crops(17).images[8])
    with pytest.raises(PoseFRError, match="at least 8"):
        split(crops(4))
    with pytest.raises(PoseFRError, match="without landmarks"):
        split(FaceCrops(crops().images, np.ones(16)))


def test_the_table_averages_gains_by_band_and_severity():
    rows = [
        {"variant": variant, "seed": 0, "severity": severity, "yaw": yaw, "psnr": psnr}
        for variant, severity, yaw, psnr in (
            ("input", "mild", 3.0, 30.0), ("input", "severe", -30.0, 20.0),
            ("own", "mild", 3.0, 31.0), ("own", "severe", -30.0, 23.0),
            ("own", "mild", 3.0, 32.0), ("own", "severe", -30.0, 23.0),
        )
    ]  # fmt: skip
    lines = table(rows).splitlines()
    assert lines[0].startswith(
        "| Gain in dB | yaw 0 to 20 | yaw 20 to 45 | yaw above 45 | mild | medium | severe | all"
    )
    assert lines[2] == "| pictures | 1 | 1 | 0 | 1 | 0 | 1 | 2 |"
    assert lines[-1] == "| own | +1.50 | +3.00 | - | +1.50 | - | +3.00 | +2.25 |"


def test_the_command_trains_measures_and_does_not_repeat_what_is_done(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(CONFIGURATIONS, "posefr-256", SMALL)
    faces = crops()
    np.savez(tmp_path / "faces-64.npz", images=faces.images, scale=faces.scale, landmarks=faces.landmarks)
    save_prior(awake(Prior(PriorConfig.of(SMALL))), tmp_path / "prior.safetensors", {})  # type: ignore[arg-type, type-var]
    options = ["ablation", "--faces", str(tmp_path), "--out", str(tmp_path), "--images", "8", "--batch", "4",
               "--device", "cpu", "--prior", str(tmp_path / "prior.safetensors")]  # fmt: skip
    assert main(options) == 0
    printed = capsys.readouterr().out
    assert printed.count(": 2 steps of 4 faces") == len(VARIANTS)
    with (tmp_path / "ablation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == (len(VARIANTS) + 1) * 2 * 3
    for name in VARIANTS:
        assert f"| {name} |" in (tmp_path / "ablation.md").read_text()
    assert main(options) == 0
    printed = capsys.readouterr().out
    assert "steps of" not in printed
    assert (tmp_path / "ablation.md").read_text() in printed
    stopped = tmp_path / "MMRB-prior-0" / "network.safetensors"
    network, provenance = load_network(stopped)
    save_network(network, stopped, {**provenance, "steps": 1})
    assert main(options) == 0
    assert capsys.readouterr().out.count("steps of") == 1, "one that was stopped is trained anew"
