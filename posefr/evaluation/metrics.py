"""Measures of restored faces: PSNR, SSIM, identity, landmark error, detail, grid, pattern."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import PoseFRError
from ..training.identity import ARCFACE_POINTS
from ..training.losses import grid, prominence

__all__ = [
    "Identity",
    "detail_ratio",
    "grid_share",
    "landmark_error",
    "pattern_height",
    "psnr",
    "ssim",
]

Image = NDArray[np.uint8]


def psnr(image: Image, truth: Image) -> float:
    """Peak signal-to-noise ratio in dB over [H, W, 3] uint8; 100 for equal pictures."""
    error = np.mean((image.astype(np.float64) - truth.astype(np.float64)) ** 2)
    return float(10 * np.log10(255**2 / error)) if error else 100.0


def ssim(image: Image, truth: Image) -> float:
    """Structural similarity (scikit-image's, 7 px window) over [H, W, 3] uint8."""
    try:
        from skimage.metrics import structural_similarity
    except ImportError as error:
        raise PoseFRError("The measurement needs scikit-image; run `pip install scikit-image`.") from error

    return float(structural_similarity(image, truth, channel_axis=2, data_range=255))


@lru_cache
def _upper_band(size: int) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    frequency = np.fft.fftfreq(size)
    radius = np.hypot(frequency[:, None], np.fft.rfftfreq(size)[None])
    window = np.hanning(size).astype(np.float32)
    return (radius >= 0.25) & (radius <= 0.5), window[:, None] * window[None]


def detail_ratio(image: Image, truth: Image) -> float:
    """Energy of luma above half the Nyquist frequency, over the truth's: 1 is right, near 0 is blurred.

    Both [S, S, 3] uint8; a Hann window keeps the borders out.
    """
    band, window = _upper_band(truth.shape[0])

    def energy(picture: Image) -> float:
        luma = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
        return float(np.sum(np.abs(np.fft.rfft2(luma * window)[band]) ** 2))

    return energy(image) / max(energy(truth), 1e-9)


def grid_share(image: Image) -> float:
    """How far the finest detail of [S, S, 3] uint8 repeats with every 2, 4 or 8 px: 0.07 in photos, 3 in a grid."""
    return float(grid(_tensor(image)))


def pattern_height(image: Image) -> float:
    """How far the strongest fine frequency stands out, on average over regions of [S, S, 3] uint8: 1.2 in photos, 3.5
    in a weave."""
    return float(prominence(_tensor(image)).amax(2).mean())


def _tensor(image: Image) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255


def landmark_error(found: NDArray[np.float32], truth: NDArray[np.float32]) -> float:
    """Mean distance of five landmarks [5, 2] over the truth's distance from eyes to mouth."""
    distance = np.linalg.norm(truth[:2].mean(0) - truth[3:].mean(0))
    return float(np.linalg.norm(found - truth, axis=1).mean() / distance)


class Identity:
    """Face embeddings by a MobileFaceNet in ONNX (112 x 112 RGB, ImageNet mean and deviation), run by OpenCV."""

    def __init__(self, path: Path) -> None:
        self._network = cv2.dnn.readNetFromONNX(str(path))

    def embed(self, image: Image, landmarks: NDArray[np.float32]) -> NDArray[np.float32]:
        """A unit vector for the face in [H, W, 3] uint8 RGB with landmarks [5, 2] in px, continuous coordinates."""
        matrix = cv2.estimateAffinePartial2D(landmarks - 0.5, np.array(ARCFACE_POINTS, np.float32), method=cv2.LMEDS)[0]
        face = cv2.warpAffine(image, matrix, (112, 112), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REFLECT_101)
        value = (face.astype(np.float32) / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
        self._network.setInput(value.transpose(2, 0, 1)[None].astype(np.float32))
        vector = self._network.forward()[0].copy()
        return np.asarray(vector / np.linalg.norm(vector), np.float32)
