"""Training: losses, discriminator, data, and a run that learns, stops on time and resumes."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch
from networks import SMALL

from posefr.errors import PoseFRError
from posefr.restoration.checkpoint import load_network
from posefr.restoration.network import PoseFRNet
from posefr.training.data import FaceCrops, PairLoader, load_crops
from posefr.training.discriminator import Discriminator
from posefr.training.losses import charbonnier, discriminator_loss, generator_loss, log_error, pyramid_loss, r1_penalty
from posefr.training.trainer import LOSSES, Recipe, start_network, train

CPU = torch.device("cpu")


@pytest.fixture
def crops() -> FaceCrops:
    rng = np.random.default_rng(0)
    images = [
        cv2.resize(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8), (64, 64), interpolation=cv2.INTER_CUBIC)
        for _ in range(6)
    ]
    return FaceCrops(np.stack(images), np.ones(6))


def test_charbonnier_is_nearly_the_absolute_difference_and_weighs_images():
    zeros, ones = torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)
    assert charbonnier(zeros, ones) == pytest.approx(1, abs=1e-4)
    assert charbonnier(zeros, ones, torch.tensor([2.0, 0.0])) == pytest.approx(1, abs=1e-4)
    assert pyramid_loss({8: torch.zeros(1, 3, 8, 8)}, torch.full((1, 3, 16, 16), 0.5)) == pytest.approx(0.5, abs=1e-4)


def test_the_logarithmic_error_is_what_psnr_averages():
    target = torch.rand(3, 3, 8, 8)
    image = target + torch.tensor([0.1, 0.03, 0.0])[:, None, None, None]
    psnr = torch.tensor([20.0, -20 * np.log10(0.03)])
    expected = -10 / np.log(10) * log_error(image[:2], target[:2], floor=0)
    assert expected == pytest.approx(psnr.mean().item(), abs=1e-3)
    assert log_error(image[2:], target[2:]) == pytest.approx(np.log(1e-4))


def test_adversarial_losses_fall_as_each_side_wins():
    low, high = torch.full((4, 1), -3.0), torch.full((4, 1), 3.0)
    assert discriminator_loss(high, low) < discriminator_loss(low, high)
    assert generator_loss(high) < generator_loss(low)
    assert generator_loss(low, torch.zeros(4)) == 0


def test_r1_is_half_the_squared_gradient():
    class Linear(torch.nn.Module):
        def forward(self, x):
            return 3 * x.sum((1, 2, 3))[:, None]

    assert r1_penalty(Linear(), torch.rand(2, 3, 4, 4)) == pytest.approx(0.5 * 9 * 48)


@pytest.mark.parametrize("size", [64, 128])
def test_the_discriminator_tells_noise_from_flat_after_a_few_steps(size):
    torch.manual_seed(0)
    network = Discriminator(size, width=8)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(12):
        real, fake = torch.rand(4, 3, size, size), torch.rand(4, 3, 1, 1).expand(4, 3, size, size)
        loss = discriminator_loss(network(real), network(fake))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert network(real).mean() > network(fake).mean()


def test_pairs_are_degraded_targets_and_clean_ones_are_their_own(crops):
    for clean in (0.0, 1.0):
        loader = PairLoader(crops, batch=4, seed=0, clean=clean, workers=1)
        batch = next(iter(loader))
        loader.close()
        assert batch["degraded"].shape == batch["target"].shape == (4, 3, 64, 64)
        assert torch.equal(batch["degraded"], batch["target"]) == (clean == 1.0)


def test_crops_come_from_a_manifests_landmarks_and_are_cached(tmp_path):
    photo = np.zeros((200, 200, 3), np.uint8)
    photo[90:100, 75:85] = photo[90:100, 115:125] = 255  # two eyes, centred at (80, 95) and (120, 95)
    cv2.imwrite(str(tmp_path / "a.png"), photo)
    points = {"left_eye": (80, 95), "right_eye": (120, 95), "nose": (100, 115), "left_mouth": (85, 135),
              "right_mouth": (115, 135)}  # fmt: skip
    header = ["file"] + [f"{point}_{axis}" for point in points for axis in "xy"]
    values = ["a.png"] + [str(v) for xy in points.values() for v in xy]
    (tmp_path / "manifest.csv").write_text(",".join(header) + "\n" + ",".join(values) + "\n")
    crops = load_crops(tmp_path, 64, cache=tmp_path / "cache.npz")
    assert crops.images.shape == (1, 64, 64, 3)
    # 2 * max(2 * 40, 1.8 * 40) = 160 px of the photo are 64 px of the crop.
    assert crops.scale[0] == pytest.approx(160 / 64)
    rows, columns = np.nonzero(crops.images[0, ..., 0] > 128)
    assert columns.mean() + 0.5 == pytest.approx(32, abs=0.3), "the eyes' middle is the crop's"
    assert rows.mean() + 0.5 == pytest.approx(32 - 0.1 * 40 * 64 / 160, abs=0.5)
    (tmp_path / "a.png").unlink()
    assert np.array_equal(load_crops(tmp_path, 64, cache=tmp_path / "cache.npz").images, crops.images)


def test_a_folder_without_faces_is_refused(tmp_path):
    with pytest.raises(PoseFRError, match="No photo with a face"):
        load_crops(tmp_path, 64)


@pytest.mark.parametrize("adversarial", [0.0, 0.01])
def test_a_run_writes_weights_log_and_samples_and_resumes(crops, tmp_path, adversarial):
    recipe = Recipe(steps=2, batch=2, adversarial=adversarial, workers=1, log_every=1, sample_every=1)
    path = train(PoseFRNet(SMALL), crops, recipe, tmp_path, CPU, note="a test")
    network, provenance = load_network(path)
    assert network.config == SMALL
    assert provenance["steps"] == 2
    assert provenance["note"] == "a test"
    assert list(tmp_path.glob("sample-64-*.png"))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert all(np.isfinite(line["pixel"]) for line in lines)
    assert ("discriminator" in lines[0]) == bool(adversarial)
    train(network, crops, recipe, tmp_path, CPU)
    assert load_network(path)[1]["steps"] == 4


@pytest.mark.parametrize("loss", LOSSES)
def test_a_trained_network_takes_noise_away(crops, tmp_path, loss):
    torch.manual_seed(0)
    network = PoseFRNet(SMALL)
    train(network, crops, Recipe(steps=80, batch=4, learning_rate=4e-3, loss=loss, workers=1), tmp_path, CPU)
    target = torch.from_numpy(crops.images).permute(0, 3, 1, 2).float() / 255
    noisy = (target + 0.06 * torch.randn(target.shape)).clamp(0, 1)
    with torch.no_grad():
        restored = network.eval()(noisy).image
    assert (restored - target).square().mean() < 0.9 * (noisy - target).square().mean()


def test_an_unknown_pixel_loss_is_refused(crops, tmp_path):
    with pytest.raises(PoseFRError, match="one of relative, psnr; found 'l7'"):
        train(PoseFRNet(SMALL), crops, Recipe(loss="l7"), tmp_path, CPU)


def test_a_run_stops_after_its_minutes(crops, tmp_path):
    path = train(PoseFRNet(SMALL), crops, Recipe(minutes=0.02, batch=1, workers=1), tmp_path, CPU)
    assert 0 < load_network(path)[1]["minutes"] < 1


def test_a_run_starts_from_a_smaller_checkpoint_grown(crops, tmp_path):
    recipe = Recipe(steps=1, batch=2, workers=1)
    path = train(PoseFRNet(SMALL), crops, recipe, tmp_path, CPU)
    assert start_network(SMALL.at(128), path).config.size == 128
    assert start_network(SMALL, None).config == SMALL
