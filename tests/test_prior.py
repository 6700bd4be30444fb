"""Stage 1: the prior alone, its augmentation and penalties, and what stage 2 takes from it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import SMALL, awake

from posefr.errors import PoseFRError
from posefr.restoration.checkpoint import save_network
from posefr.restoration.network import PoseFRNet
from posefr.training.adversarial import Judge
from posefr.training.augmentation import Augmentation
from posefr.training.data import FaceCrops
from posefr.training.journal import Journal, read_log
from posefr.training.prior import Prior, PriorConfig, load_prior, save_prior, take_prior
from posefr.training.prior_trainer import PathLength, _PriorTrainer, grown, train_prior
from posefr.training.processes import Processes
from posefr.training.recipe import PriorRecipe
from posefr.training.start import start_network

CPU = Processes(torch.device("cpu"))


@pytest.fixture
def prior() -> Prior:
    torch.manual_seed(0)
    return Prior(PriorConfig.of(SMALL))


def test_z_becomes_images_and_truncation_draws_them_together(prior):
    z = torch.randn(3, 16)
    with torch.no_grad():
        images, near = prior(z), prior(z, truncation=0.0)
    assert images.shape == (3, 3, 64, 64)
    assert (near[0] - near[1]).abs().max() < 1e-5 < (images[0] - images[1]).abs().max()
    torch.testing.assert_close(prior.styles(2 * z), prior.styles(z), msg="z is normalised")


def test_style_mixing_takes_coarse_scales_from_one_and_fine_ones_from_the_other(prior):
    first, second = torch.randn(2, 1, 16)
    mixed = prior.styles(first, second, crossover=3)
    assert torch.equal(mixed[:, :3], prior.styles(first)[:, :3])
    assert torch.equal(mixed[:, 3:], prior.styles(second)[:, 3:])


@pytest.mark.parametrize("parts", ["colour", "shift", "cutout", "colour,shift,cutout"])
def test_augmentation_changes_each_image_differently_and_passes_gradients(parts):
    torch.manual_seed(0)
    images = torch.rand(1, 3, 32, 32).expand(4, -1, -1, -1).clone().requires_grad_(True)
    changed = Augmentation(parts)(images)
    assert changed.shape == images.shape
    assert not torch.allclose(changed[0], changed[1])
    (gradient,) = torch.autograd.grad(changed.sum(), images)
    assert gradient.abs().sum() > 0


def test_augmentation_shifts_by_whole_pixels_and_cuts_grey_squares():
    torch.manual_seed(0)
    images = torch.rand(8, 3, 32, 32)
    for image, moved in zip(images, Augmentation("shift")(images), strict=True):
        padded = torch.nn.functional.pad(image, [4] * 4, value=0.5)
        assert any(torch.equal(padded[:, y : y + 32, x : x + 32], moved) for y in range(9) for x in range(9))
    cut = Augmentation("cutout")(images)
    hole = (cut == 0.5).all(1) & (images != 0.5).any(1)
    assert torch.equal(torch.where(hole[:, None], images, cut), images)
    assert 16 * 16 * 0.2 < hole.sum((1, 2)).float().mean() <= 16 * 16
    assert torch.equal(Augmentation("")(images), images)
    with pytest.raises(PoseFRError, match="no part 'mirror'"):
        Augmentation("colour, mirror")


def test_the_path_length_of_a_linear_painter_is_its_scale():
    torch.manual_seed(0)
    penalty = PathLength(decay=0.0)
    latents = torch.randn(64, 1, 3 * 16 * 16, requires_grad=True)
    images = (3 * latents).reshape(64, 3, 16, 16)
    even = penalty(images, latents)
    # |J' y| for J = 3 and y normal over 768 values, divided by the size of 16 px.
    assert penalty.mean == pytest.approx(3 * 768**0.5 / 16, rel=0.02)
    assert penalty(2 * images, latents) == pytest.approx(penalty.mean**2, rel=0.05)
    assert even < 0.01 * penalty.mean**2


def test_a_prior_is_stored_and_loaded(prior, tmp_path):
    save_prior(prior, tmp_path / "prior.safetensors", {"note": "a test"}, torch.float32)
    loaded, provenance = load_prior(tmp_path / "prior.safetensors")
    assert loaded.config == prior.config
    assert provenance == {"note": "a test"}
    z = torch.randn(1, 16)
    assert torch.equal(loaded(z), prior(z))
    save_network(PoseFRNet(SMALL), tmp_path / "network.safetensors", {})
    with pytest.raises(PoseFRError, match="is not a PoseFR prior"):
        load_prior(tmp_path / "network.safetensors")


def test_stage_2_takes_the_prior_up_and_still_starts_from_its_input(prior, tmp_path):
    awake(prior, 1)
    save_prior(prior, tmp_path / "prior.safetensors", {}, torch.float32)
    network = start_network(SMALL, None, tmp_path / "prior.safetensors")
    assert torch.equal(network.prior.block(32).up.weight, prior.synthesis.block(32).up.weight)
    assert torch.equal(network.mean_latent, prior.mean_latent())
    image = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(network.eval()(image).image, image, atol=1e-5, rtol=0)
    assert not network.prior.block(32).to_rgb.weight.any()


def test_what_does_not_fit_is_told(prior):
    other = Prior(PriorConfig({**prior.config.channels, 32: 24}, 16))
    refused = take_prior(PoseFRNet(SMALL), other)
    assert "prior.blocks.32.up.weight" in refused
    assert "prior.blocks.16.up.weight" not in refused
    assert take_prior(PoseFRNet(SMALL), prior) == []


def test_a_network_that_has_grown_takes_the_new_scales_alone(prior):
    network = PoseFRNet(SMALL)
    trained = {key: value.clone() for key, value in network.state_dict().items()}
    assert take_prior(network, prior, smallest=32) == []
    for size, taken in ((16, False), (32, True), (64, True)):
        own, source = network.prior.block(size).up.weight, prior.synthesis.block(size).up.weight
        assert torch.equal(own, source) == taken
        assert torch.equal(own, trained[f"prior.blocks.{size}.up.weight"]) != taken
    assert torch.equal(network.mean_latent, trained["mean_latent"])


def test_a_prior_grows(prior):
    larger = grown(prior, Prior(PriorConfig.of(SMALL.at(128))))
    z = torch.randn(1, 16)
    small, large = prior(z), larger(z)
    reduced = torch.nn.functional.avg_pool2d(large, 2)
    assert (reduced - small).abs().mean() < 0.15 * small.std()
    assert grown(prior, Prior(PriorConfig.of(SMALL))) is prior
    with pytest.raises(PoseFRError, match="cannot grow"):
        grown(larger, Prior(PriorConfig({**prior.config.channels, 32: 24}, 16)))


def faces(value: int = 200) -> FaceCrops:
    images = np.full((8, 64, 64, 3), value, np.uint8)
    return FaceCrops(images, np.ones(8))


def test_a_run_writes_resumes_and_checks_the_size(prior, tmp_path):
    recipe = PriorRecipe(steps=2, batch=2, log_every=1, sample_every=2)
    path = train_prior(prior, faces(), recipe, tmp_path, CPU, "a test")
    loaded, provenance = load_prior(path)
    assert loaded.config == prior.config
    assert (provenance["steps"], provenance["images"], provenance["note"]) == (2, 4, "a test")
    assert (tmp_path / "prior-64-000002.png").exists()
    assert (tmp_path / "prior-loss.png").exists()
    lines = read_log(tmp_path / "prior-log.jsonl")
    assert {"adversarial", "discriminator", "r1", "path_length"} <= set(lines[0])
    train_prior(Prior(prior.config), faces(), recipe, tmp_path, CPU)
    assert load_prior(path)[1]["steps"] == 4
    with pytest.raises(PoseFRError, match="The prior is for 64 px, the faces have 32 px"):
        train_prior(prior, FaceCrops(np.zeros((1, 32, 32, 3), np.uint8), np.ones(1)), recipe, tmp_path, CPU)


def test_a_run_that_goes_on_takes_its_rates_and_refuses_other_widths(prior, tmp_path):
    recipe = PriorRecipe(steps=1, batch=2)
    train_prior(prior, faces(), recipe, tmp_path, CPU)
    changed = replace(recipe, learning_rate=3e-6, discriminator_rate=2e-6)
    trainer = _PriorTrainer(Prior(prior.config), faces(), changed, tmp_path, CPU, "")
    assert {group["lr"] for group in trainer.optimizer.param_groups} == {3e-6}
    assert {group["lr"] for group in trainer.judge.optimizer.param_groups} == {2e-6}
    train_prior(prior, faces(), replace(recipe, batch=3), tmp_path, CPU)
    assert load_prior(tmp_path / "prior.safetensors")[1]["images"] == 2 + 3
    wider = Prior(replace(prior.config, style_channels=24))
    with pytest.raises(PoseFRError, match=r"a prior of other widths \(--configuration\)"):
        train_prior(wider, faces(), recipe, tmp_path, CPU)
    with pytest.raises(PoseFRError, match="--log-every must be at least 1"):
        train_prior(prior, faces(), replace(recipe, log_every=0), tmp_path, CPU)


def test_what_is_stopped_by_hand_goes_on_later(prior, tmp_path, monkeypatch):
    def add(journal: Journal, losses: object) -> None:
        steps_done.append(losses)
        if len(steps_done) == 3:
            raise KeyboardInterrupt

    steps_done: list[object] = []
    monkeypatch.setattr(Journal, "add", add)
    with pytest.raises(KeyboardInterrupt):
        train_prior(prior, faces(), PriorRecipe(steps=9, batch=2, sample_every=100), tmp_path, CPU)
    state = torch.load(tmp_path / "prior-state.pt", weights_only=True)
    assert state["steps"] == 2


def test_the_average_goes_on_where_a_run_stopped(prior, tmp_path):
    def averaged_and_raw() -> tuple[torch.Tensor, torch.Tensor]:
        state = torch.load(tmp_path / "prior-state.pt", weights_only=True)
        name = next(iter(state["prior"]))
        return state["averaged"][name], state["prior"][name]

    recipe = PriorRecipe(steps=20, batch=2, sample_every=100)
    train_prior(prior, faces(), recipe, tmp_path, CPU)
    before, _ = averaged_and_raw()
    train_prior(Prior(prior.config), faces(), replace(recipe, steps=1), tmp_path, CPU)
    after, raw = averaged_and_raw()
    assert (raw - before).abs().mean() > 2e-4
    torch.testing.assert_close(after - before, (raw - before) * (1 - 21 / 30), rtol=1e-3, atol=2e-5)


def test_the_prior_follows_the_discriminators_gradient(prior):
    torch.manual_seed(0)
    judge = Judge(64, 1e-3, r1=0.0, processes=CPU)
    judge.network.requires_grad_(False)
    optimizer = torch.optim.Adam(prior.parameters(), lr=1e-3, betas=(0.0, 0.99))
    z = torch.randn(2, 16)
    values = []
    for _ in range(6):
        loss = judge.losses(prior(z), None)["adversarial"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < values[0]
    assert prior.mapping[0].weight.grad.abs().sum() > 0


def test_the_prior_learns_the_colour_of_its_pictures(tmp_path):
    torch.manual_seed(0)
    colour = torch.tensor([200, 120, 60])
    images = colour.to(torch.uint8).expand(8, 64, 64, 3).numpy()
    prior = Prior(PriorConfig({4: 8, 8: 8, 16: 4, 32: 4, 64: 4}, 8, layers=2))

    def error(prior: Prior) -> float:
        with torch.no_grad():
            return (prior(torch.randn(8, 8)).mean((0, 2, 3)) - colour / 255).abs().mean().item()

    before = error(prior)
    recipe = PriorRecipe(steps=30, batch=2, learning_rate=1e-2, augment="", path_length=0.0, ema=0.8)
    path = train_prior(prior, FaceCrops(images, np.ones(8)), recipe, tmp_path, CPU)
    assert error(load_prior(path)[0]) < 0.4 * before
