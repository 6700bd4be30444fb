"""The degradation: each part does what it says, and a draw always gives the same picture."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from posefr.training.degradation import SEVERITIES, Degradation, degrade, draw, recolour

NOTHING = Degradation(
    sigma=(0.0, 0.0), angle=0.0, motion=0.0, downsampling=1.0, interpolation=cv2.INTER_AREA, noise=0.0, poisson=0.0,
    grey_noise=False, codec="jpeg", quality=0, smear=0.0, warp=0.0, gain=(1.0, 1.0, 1.0), offset=(0.0, 0.0, 0.0),
    grey=False, seed=1,
)  # fmt: skip


@pytest.fixture
def image() -> np.ndarray:
    rng = np.random.default_rng(0)
    coarse = rng.integers(40, 215, (32, 32, 3), dtype=np.uint8)
    return cv2.resize(coarse, (128, 128), interpolation=cv2.INTER_NEAREST)


def sharpness(image: np.ndarray) -> float:
    return float(cv2.Laplacian(image.astype(np.float32), cv2.CV_32F).var())


def test_nothing_leaves_the_picture_as_it_is(image):
    assert np.array_equal(degrade(image, NOTHING), image)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_a_draw_gives_the_same_picture_each_time(image, severity):
    first = draw(np.random.default_rng(7), SEVERITIES[severity])
    assert first == draw(np.random.default_rng(7), SEVERITIES[severity])
    degraded = degrade(image, first)
    assert degraded.shape == image.shape
    assert degraded.dtype == np.uint8
    assert np.array_equal(degraded, degrade(image, first))
    assert not np.array_equal(degraded, image)


@pytest.mark.parametrize(
    "change",
    [{"sigma": (8.0, 8.0)}, {"sigma": (8.0, 2.0)}, {"motion": 20.0}, {"downsampling": 12.0}],
)
def test_blur_motion_and_downsampling_take_detail_away(image, change):
    assert sharpness(degrade(image, replace(NOTHING, **change))) < 0.7 * sharpness(image)


def test_a_smear_flattens_texture_and_keeps_outlines():
    step = np.full((256, 256, 3), 60, np.uint8)
    step[:, 128:] = 200
    texture = np.random.default_rng(0).integers(-8, 9, step.shape)
    smeared = degrade((step + texture).astype(np.uint8), replace(NOTHING, smear=1.0)).astype(float)
    assert smeared[64:192, 32:96].std() < 0.5 * texture.std()
    assert smeared[64:192, 131].mean() - smeared[64:192, 124].mean() > 120


def test_an_anisotropic_blur_follows_its_angle(image):
    dot = np.zeros((65, 65, 3), np.uint8)
    dot[32, 32] = 255
    lying = degrade(dot, replace(NOTHING, sigma=(24.0, 4.0), angle=0.0)).astype(int)
    assert lying[32, 36, 0] > lying[36, 32, 0]


@pytest.mark.parametrize("grey", [False, True])
def test_noise_has_the_deviation_asked_for(grey):
    flat = np.full((256, 256, 3), 128, np.uint8)
    noise = degrade(flat, replace(NOTHING, noise=10.0, grey_noise=grey)).astype(float) - 128
    assert abs(noise.std() - 10) < 0.3
    assert abs(noise.mean()) < 0.2
    assert (np.ptp(noise, axis=2).max() == 0) == grey


def test_shot_noise_grows_with_brightness():
    def deviation(value: int) -> float:
        flat = np.full((128, 128, 3), value, np.uint8)
        return float(degrade(flat, replace(NOTHING, poisson=12.0)).std())

    assert deviation(180) > 1.5 * deviation(40)


@pytest.mark.parametrize("codec", ["jpeg", "webp"])
def test_compression_costs_more_the_lower_the_quality(image, codec):
    def error(quality: int) -> float:
        return float(np.abs(degrade(image, replace(NOTHING, codec=codec, quality=quality)).astype(int) - image).mean())

    assert 0 < error(95) < error(25)


def test_a_warp_moves_the_eyes_and_leaves_the_corner():
    ramp = np.tile(np.arange(256, dtype=np.uint8)[None, :, None], (256, 1, 3))
    moved = np.abs(degrade(ramp, replace(NOTHING, warp=20.0)).astype(int) - ramp)
    assert moved[:16, :16].max() <= 1
    assert 1 < moved[100:140, 75:115].max() <= 10


def test_colour_is_the_targets_too(image):
    how = replace(NOTHING, gain=(1.1, 1.0, 0.9), offset=(0.02, 0.0, 0.0))
    assert np.array_equal(degrade(image, how), recolour(image, how))
    assert not np.array_equal(recolour(image, how), image)
    grey = degrade(image, replace(NOTHING, grey=True))
    assert np.ptp(grey.astype(int), axis=2).max() == 0


def test_the_same_draw_looks_the_same_at_another_size():
    rng = np.random.default_rng(3)
    large = cv2.resize(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8), (256, 256), interpolation=cv2.INTER_CUBIC)
    small = cv2.resize(large, (128, 128), interpolation=cv2.INTER_AREA)
    how = replace(NOTHING, sigma=(14.0, 14.0), downsampling=8.0)
    reduced = cv2.resize(degrade(large, how), (128, 128), interpolation=cv2.INTER_AREA)
    difference = np.abs(reduced.astype(int) - degrade(small, how)).mean()
    assert difference < 3 < np.abs(reduced.astype(int) - small).mean()
