"""Training losses: each goes down as it should, and passes gradients to what it trains."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from posefr.errors import PoseFRError
from posefr.restoration.chroma import luma_and_colors, with_green
from posefr.training.adversarial import discriminator_loss, feature_distance, generator_loss, r1_penalty, same_squares
from posefr.training.discriminator import Discriminator
from posefr.training.identity import ARCFACE_POINTS, IdentityLoss, align
from posefr.training.losses import (
    agreement,
    charbonnier,
    detail_distances,
    grid,
    latent_distance,
    log_error,
    pattern,
    prominence,
    pyramid_loss,
    region_loss,
    region_weight,
)

SHARED = Path(os.environ.get("POSEFR_SHARED") or Path(__file__).resolve().parents[2] / "shared")
FACE = torch.tensor([[[24.0, 30.0], [40.0, 30.0], [32.0, 38.0], [26.0, 46.0], [38.0, 46.0]]])  # in 64 px


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
    assert log_error(image[2:], target[2:]) == pytest.approx(np.log(2e-5))


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


def test_equal_images_have_a_finite_penalty():
    network = Discriminator(64, width=8)
    r1_penalty(network, torch.full((2, 3, 64, 64), 0.5)).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters() if parameter.grad is not None)


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


def test_features_of_equal_images_are_no_distance_apart():
    torch.manual_seed(0)
    network = Discriminator(64, width=8)
    image, other = torch.rand(2, 3, 64, 64, requires_grad=True), torch.rand(2, 3, 64, 64)
    seen, logits = network.features(image)
    assert [f.shape[-1] for f in seen] == [32, 16, 8, 4]
    assert torch.equal(network(image), logits)
    assert feature_distance(seen, seen) == 0
    near = feature_distance(network.features(0.9 * other + 0.1 * image)[0], network.features(other)[0])
    far = feature_distance(seen, network.features(other)[0])
    assert 0 < near < far
    far.backward()
    assert image.grad.abs().sum() > 0


def test_regions_lie_on_eyes_and_mouth_and_nowhere_else():
    weight = region_weight(FACE, 64)
    assert weight.shape == (1, 1, 64, 64)
    for x, y in ((24, 30), (40, 30), (26, 46), (32, 46), (38, 46)):
        assert weight[0, 0, y, x] > 0.95
    for x, y in ((2, 2), (60, 60), (32, 8), (50, 50)):
        assert weight[0, 0, y, x] < 0.05


def test_the_region_loss_counts_an_error_at_the_eye_and_not_in_the_corner():
    target = torch.rand(1, 3, 64, 64)
    at_eye, at_corner = target.clone(), target.clone()
    at_eye[..., 27:33, 21:27] += 0.5
    at_corner[..., :6, :6] += 0.5
    assert region_loss(target, target, FACE) == pytest.approx(1e-3)
    assert region_loss(at_eye, target, FACE) > 20 * (region_loss(at_corner, target, FACE) - 1e-3)


def with_colors(pictures, strength):
    """Their luma, with colours that much stronger."""
    light, colors = luma_and_colors(pictures)
    return light + with_green(strength * colors)


def test_amount_and_structure_of_detail_count_each_for_itself():
    torch.manual_seed(0)
    first, other = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)
    amount, structure = detail_distances(first, first)
    assert amount == 0
    assert structure < 0.01
    amount, structure = detail_distances(0.5 + 0.2 * (first - 0.5), first)
    assert amount > 2, "the same detail, weaker"
    assert structure < 0.1
    amount, structure = detail_distances(first, other)
    assert amount < 0.1, "what lies elsewhere need not be as much"
    assert structure > 0.9
    weak = detail_distances(0.5 + 0.2 * (other - 0.5), first)[0]
    assert weak < 0.1 * detail_distances(0.5 + 0.2 * (first - 0.5), first)[0], "and may be much less"
    strong = detail_distances(0.5 + 2 * (other - 0.5), first)[0]
    assert strong > 10 * detail_distances(other, first)[0], "but it may not be more; as much by chance is no harm"
    smooth = torch.nn.functional.interpolate(first[..., ::8, ::8], scale_factor=8, mode="bilinear")
    assert detail_distances(first, smooth)[0] > 2, "and where there is none, it is too much"
    coarse = torch.nn.functional.interpolate(first[..., ::4, ::4], scale_factor=4, mode="bicubic")
    assert detail_distances(0.5 + 0.2 * (coarse - 0.5), coarse)[0] > 5, "weaker outlines lack as much as weaker pores"
    colorful = with_colors(first, 3.0)
    amount, structure = detail_distances(colorful, first)
    assert amount > 0.3, "colours that are too strong"
    assert structure < 0.01, "in the right places"
    assert detail_distances(with_colors(first, 0.3), first)[0] > 0.3, "or too weak"
    mixed = torch.stack((first[0], other[1]))
    assert detail_distances(mixed, first, torch.tensor([1.0, 0.0]))[1] < 0.01


@pytest.mark.parametrize("part", [0, 1])
def test_detail_follows_its_gradient(part):
    torch.manual_seed(0)
    target = torch.rand(2, 3, 64, 64)
    picture = torch.nn.functional.avg_pool2d(target, 3, 1, 1).requires_grad_(True)
    before = detail_distances(picture, target)[part]
    before.backward()
    moved = picture.detach() - 0.01 * picture.grad / picture.grad.abs().max()
    assert detail_distances(moved, target)[part] < before


@pytest.mark.parametrize("period", [2, 4, 8])
def test_a_grid_costs_and_noise_does_not(period):
    torch.manual_seed(0)
    noise, cell = torch.rand(2, 3, 128, 128), torch.rand(1, 3, period, period)
    tiled = cell.repeat(2, 1, 128 // period, 128 // period)
    assert grid(noise) < 0.1
    assert grid(tiled) > 0.9
    half = (0.5 + 0.2 * (noise - 0.5) + 0.2 * (tiled - 0.5)).requires_grad_(True)
    assert 0.2 < grid(half) < grid(tiled)
    grid(half).backward()
    moved = half.detach() - 0.05 * half.grad / half.grad.abs().max()
    assert grid(moved) < grid(half)
    both = torch.cat((noise[:1], tiled[:1]))
    assert grid(both, torch.tensor([1.0, 0.0])) < 0.05 < grid(both, torch.tensor([0.0, 1.0]))


def test_a_weave_of_any_period_costs_and_missing_detail_does_not():
    generator = torch.Generator().manual_seed(0)
    target = F.avg_pool2d(torch.rand(2, 3, 130, 130, generator=generator), 3, 1)
    rows, columns = torch.meshgrid(torch.arange(128.0), torch.arange(128.0), indexing="ij")
    weave = target + 0.03 * torch.sin(
        2 * torch.pi * (rows * 15 + columns * 7) / 32
    )  # fits into no cell of 2, 4 or 8 px
    assert pattern(target, target) == 0
    assert pattern(F.avg_pool2d(F.pad(target, (1,) * 4, mode="reflect"), 3, 1), target) < 1e-3
    assert pattern(weave, target) > 0.03
    assert pattern(weave, weave) == 0  # striped cloth is none
    assert grid(weave) < grid(target) + 0.1  # why there is another loss
    both = torch.cat((target[:1], weave[1:]))
    assert pattern(both, target, torch.tensor([1.0, 0.0])) == 0 < pattern(both, target, torch.tensor([0.0, 1.0]))
    weave.requires_grad_(True)
    pattern(weave, target).backward()
    moved = weave.detach() - 0.01 * weave.grad / weave.grad.abs().max()
    assert pattern(moved, target) < pattern(weave, target)


def test_a_faint_weave_in_a_dark_corner_is_seen_and_noise_is_not():
    generator = torch.Generator().manual_seed(0)
    face = 0.6 + 0.02 * torch.randn(1, 3, 256, 256, generator=generator)
    assert prominence(face).max() < 2.5
    corner = face.clone()
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    corner[..., :64, :64] = 0.05 + 0.01 * torch.sin(rows * 2.6) * torch.sin(columns * 2.2)
    found = prominence(corner).amax(2)
    assert found.shape == (1, 13 * 13)
    assert found[0, 0] > 4
    assert found[0, -1] < 2.5


def test_nothing_repeats_where_there_is_nothing():
    assert grid(torch.full((1, 3, 64, 64), 0.5)) < 1e-3


def test_the_worse_of_two_results_follows_the_better_one():
    target = torch.zeros(2, 3, 4, 4)
    first = torch.tensor([0.1, 0.4])[:, None, None, None].expand(2, 3, 4, 4).clone().requires_grad_(True)
    second = torch.tensor([0.3, 0.2])[:, None, None, None].expand(2, 3, 4, 4).clone().requires_grad_(True)
    loss = agreement(first, second, target)
    assert loss.item() == pytest.approx(0.2, abs=1e-4)
    loss.backward()
    assert not first.grad[0].any()
    assert not second.grad[1].any()
    assert (first.grad[1] > 0).all()
    assert (second.grad[0] > 0).all()


def test_the_latent_distance_is_a_ratio_that_small_latents_do_not_lower():
    torch.manual_seed(0)
    faces = torch.randn(4, 5, 8)
    other = faces + 0.1 * torch.randn(4, 5, 8)
    near = latent_distance(faces, other)
    assert 0 < near < 0.05
    assert latent_distance(0.01 * faces, 0.01 * other) == pytest.approx(near.item(), rel=1e-4)
    assert latent_distance(faces, torch.randn(4, 5, 8)) > 0.3


def test_alignment_brings_the_landmarks_to_their_places():
    size = 300
    turn = torch.polar(torch.tensor(1.7), torch.tensor(0.4))
    template = torch.view_as_complex(torch.tensor(ARCFACE_POINTS)) + (0.5 + 0.5j)
    points = torch.view_as_real(turn * template + (90 + 20j))[None]
    image = np.zeros((size, size, 3), np.float32)
    for x, y in points[0].tolist():
        cv2.circle(image, (round(x * 16 - 8), round(y * 16 - 8)), 4 * 16, (1, 1, 1), -1, cv2.LINE_AA, 4)
    aligned = align(torch.from_numpy(image).permute(2, 0, 1)[None], points)
    assert aligned.shape == (1, 3, 112, 112)
    picture = aligned[0, 0].numpy()
    for x, y in ARCFACE_POINTS:
        left, top = int(x) - 5, int(y) - 5
        part = picture[top : top + 11, left : left + 11]
        rows, columns = np.mgrid[top : top + 11, left : left + 11]
        assert (part * columns).sum() / part.sum() == pytest.approx(x, abs=0.3)
        assert (part * rows).sum() / part.sum() == pytest.approx(y, abs=0.3)


def test_a_file_that_is_no_identity_network_is_refused(tmp_path):
    with pytest.raises(PoseFRError, match="no identity network"):
        IdentityLoss.load(tmp_path / "absent.pt")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(PoseFRError, match=r"other\.pt is not a MobileFaceNet"):
        IdentityLoss.load(tmp_path / "other.pt")


@pytest.fixture
def shared() -> Path:
    if not (SHARED / "reference" / "mobilefacenet.pt").exists():
        pytest.skip(f"no identity network in {SHARED / 'reference'}; set POSEFR_SHARED to the folder above it")
    return SHARED


def test_the_identity_network_is_the_one_that_evaluation_runs(shared):
    network = IdentityLoss.load(shared / "reference" / "mobilefacenet.pt").network
    image = torch.rand(1, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    mean, deviation = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))
    other = cv2.dnn.readNetFromONNX(str(shared / "reference" / "mobilefacenet.onnx"))
    other.setInput(((image.numpy() - mean[:, None, None]) / deviation[:, None, None]).astype(np.float32))
    vector = torch.from_numpy(other.forward()[0])
    assert torch.cosine_similarity(network(image)[0], vector, dim=0) > 0.9999


def test_the_identity_loss_tells_faces_apart_and_has_gradients(shared):
    loss = IdentityLoss.load(shared / "reference" / "mobilefacenet.pt")
    folder = shared / "data" / "validation"
    paths = sorted(folder.glob("*.webp"))[:2]
    faces = [cv2.resize(cv2.imread(str(path)), (128, 128), interpolation=cv2.INTER_AREA) for path in paths]
    first, second = (torch.from_numpy(f[..., ::-1].copy()).permute(2, 0, 1)[None].float() / 255 for f in faces)
    landmarks = FACE * 2
    blurred = torch.nn.functional.avg_pool2d(first, 3, 1, 1).requires_grad_(True)
    same = loss(blurred, first, landmarks)
    assert loss(first, first, landmarks) < 1e-5
    assert same < 0.3 < loss(second, first, landmarks)
    same.backward()
    assert blurred.grad.abs().sum() > 0


def test_squares_are_cut_at_the_same_random_place_of_every_batch():
    torch.manual_seed(0)
    first = torch.arange(2 * 3 * 32 * 32, dtype=torch.float32).reshape(2, 3, 32, 32)
    a, b = same_squares(8, first, first + 0.5)
    assert a.shape == (2, 3, 8, 8)
    assert torch.equal(b - a, torch.full_like(a, 0.5))
    starts = {tuple(int(v) for v in divmod(int(same_squares(8, first)[0][0, 0, 0, 0]), 32)) for _ in range(50)}
    assert len(starts) > 20
    assert all(0 <= y <= 24 and 0 <= x <= 24 for y, x in starts)
    assert torch.equal(same_squares(32, first)[0], first)


def test_weights_choose_the_images_that_a_loss_hears():
    image, target = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    weight = torch.tensor([2.0, 0.0])
    torch.testing.assert_close(log_error(image, target, weight), log_error(image[:1], target[:1]))
    seen, wanted = [torch.rand(2, 4, 8, 8)], [torch.rand(2, 4, 8, 8)]
    heard = feature_distance(seen, wanted, weight)
    seen[0][1] += 5
    assert feature_distance(seen, wanted, weight) == heard
