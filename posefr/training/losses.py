"""Losses between restored faces and their targets."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from ..color import luma
from ..restoration.chroma import luma_and_colors

__all__ = [
    "LEAST_ERROR",
    "agreement",
    "charbonnier",
    "detail_distances",
    "grid",
    "latent_distance",
    "log_error",
    "pattern",
    "prominence",
    "pyramid_loss",
    "region_loss",
    "region_weight",
]

LEAST_ERROR = 2e-5  # 47 dB: a squared error below which a face counts as perfect

_CELLS = (2, 4, 8)  # px; one position of the network's features paints 4 or 8, and they may alternate within
_DETAIL_BANDS = 3
_COLORS = 0.5  # what the amount of a colour's detail counts against luma's
_WINDOW = 8  # px of a band, or cells
_LEAST_DETAIL = 1 / 255  # deviation of what counts as no detail
_SPECTRUM = 32  # px of the windows whose spectra are taken
_FINEST = 6  # periods in such a window, from which on a pattern is too fine to be a feature of a face
_REGION = 3  # windows a side, each half over the next, whose spectra are averaged
_AROUND = 9  # frequencies a side that one is compared with
_STANDS_OUT = 1.0  # more than the target's by so much may be chance


def charbonnier(image: Tensor, target: Tensor, weight: Tensor | None = None, epsilon: float = 1e-3) -> Tensor:
    """Mean of sqrt(difference^2 + epsilon^2), a smooth L1, over [B, C, H, W]; `weight` [B] weighs the images."""
    value = ((image.float() - target.float()).square() + epsilon**2).sqrt().mean((1, 2, 3))
    return (value if weight is None else value * weight).mean()


def log_error(image: Tensor, target: Tensor, weight: Tensor | None = None, floor: float = LEAST_ERROR) -> Tensor:
    """Mean over the images [B, C, H, W] of log(MSE + floor): what PSNR averages, times -10 / ln 10.

    The floor keeps nearly perfect images from deciding alone; `weight` [B] weighs the images.
    """
    value = ((image.float() - target.float()).square().mean((1, 2, 3)) + floor).log()
    return (value if weight is None else value * weight).mean()


def pyramid_loss(images: Mapping[int, Tensor], target: Tensor) -> Tensor:
    """Mean Charbonnier loss of the decoder's small images, keyed by size in px, against the target made as small."""
    losses = [charbonnier(image, F.adaptive_avg_pool2d(target, size)) for size, image in images.items()]
    return torch.stack(losses).mean()


def region_loss(image: Tensor, target: Tensor, landmarks: Tensor) -> Tensor:
    """Charbonnier loss around eyes and mouth: landmarks [B, 5, 2] in px of the images [B, C, S, S]."""
    weight = region_weight(landmarks, image.shape[-1])
    value = ((image.float() - target.float()).square() + 1e-6).sqrt().mean(1, keepdim=True)
    return (value * weight).sum() / weight.sum()


def region_weight(landmarks: Tensor, size: int) -> Tensor:
    """[B, 1, size, size]: a bump of height 1 over each eye and one along the mouth, 0 far from them.

    They are as wide as a quarter of the distance from eyes to mouth (standard deviation), which a turned head keeps.
    """
    eyes, corners = landmarks[:, :2], landmarks[:, 3:]
    spots = torch.cat([eyes, corners, corners.mean(1, keepdim=True)], 1)
    width = 0.25 * torch.linalg.vector_norm(eyes.mean(1) - corners.mean(1), dim=1).clamp_min(1)
    steps = torch.arange(size, device=landmarks.device) + 0.5
    bump_x = ((steps - spots[..., :1]) / width[:, None, None]).square()  # [B, 5, size]
    bump_y = ((steps - spots[..., 1:]) / width[:, None, None]).square()
    return torch.exp(-0.5 * (bump_y[..., :, None] + bump_x[..., None, :])).amax(1, keepdim=True)


def detail_distances(image: Tensor, target: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """How far detail is from the target's in its amount and in its structure, [B, 3, S, S] both.

    The mean squared error makes detail as weak as it is uncertain. These two do not: contrast and structure of SSIM
    (Wang et al. 2004), each for itself, in windows of luma's three finest bands, each half as large as the one before.
    Of the two colours, red and blue less the luma, the amount counts too.

    Args:
        weight: [B], of the images.

    Returns:
        amount: what the logarithms of the energies differ by, squared. What is missing counts by the correlation: there
            should be as much detail where it is the right one, and none has to be made up elsewhere. In the finest band
            it counts unsquared as well, since there some is nearly always missing. What is too much counts everywhere:
            skin that becomes leather.
        structure: 1 less the mean correlation of the bands; how strong detail is does not count.
    """
    first, second = (torch.cat(luma_and_colors(picture.float()), 1) for picture in (image, target))
    shares = torch.tensor((1.0, _COLORS, _COLORS), device=image.device)
    amount, structure = torch.zeros(2, len(image), device=image.device)
    for band in range(_DETAIL_BANDS):
        (ours, first), (wanted, second) = _band(first), _band(second)
        energy, wanted_energy = (_windows(part.square()) + _LEAST_DETAIL**2 for part in (ours, wanted))
        correlation = _windows(ours * wanted) / (energy * wanted_energy).sqrt()
        excess = energy.log() - wanted_energy.log()
        right = correlation.detach().clamp_min(0)
        counts = torch.where(excess > 0, 1.0, right)
        amount = amount + (excess.square() * counts).mean((2, 3)) @ shares / _DETAIL_BANDS
        if band == 0:
            amount = amount + (F.relu(-excess) * right)[:, 0].mean((1, 2))
        structure = structure + (1 - correlation)[:, 0].mean((1, 2)) / _DETAIL_BANDS
    if weight is not None:
        amount, structure = amount * weight, structure * weight
    return amount.mean(), structure.mean()


def _luma(picture: Tensor) -> Tensor:
    """[B, 3, S, S] to [B, 1, S, S] in float32."""
    return luma(picture.float().movedim(1, -1))[:, None]


def _band(picture: Tensor) -> tuple[Tensor, Tensor]:
    """The finest band of [B, C, S, S], and what is left at half its size."""
    coarse = F.avg_pool2d(picture, 2)
    return picture - F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False), coarse


def _windows(values: Tensor) -> Tensor:
    return F.avg_pool2d(values, _WINDOW, _WINDOW // 2)


def grid(images: Tensor, weight: Tensor | None = None) -> Tensor:
    """How far the finest detail of images [B, 3, S, S] repeats with every 2, 4 or 8 px: 0.07 in photos, 3 in a grid.

    A network that paints squares of px at a time repeats itself where it invents. For each period it is the share of
    detail that is the same in neighbouring cells of that size; to this comes how unevenly detail lies within the
    largest cell. `weight` [B] weighs the images.
    """
    images = images.float()
    detail = images - F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="reflect"), 3, 1)
    value = torch.zeros(len(images), device=images.device)
    for size in _CELLS:
        cells = F.pixel_unshuffle(detail, size)
        same = _windows(cells).square().sum((1, 2, 3))
        energy = _windows(cells.square()).sum((1, 2, 3))
        value = value + same / (energy + 1e-6)
    places = cells.square().mean((2, 3)).unflatten(1, (images.shape[1], -1))
    value = value + (places / (places.mean(2, keepdim=True) + 1e-8)).var(2).mean(1)
    return (value if weight is None else value * weight).mean()


def pattern(image: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """How far fine frequencies stand out from those around them, [B, 3, S, S] both: a weave, whatever its period.

    `grid` lets patterns pass that do not fit into its cells. This is the mean over regions and fine frequencies of the
    squared prominence above the target's, so that stripes of cloth count as none. `weight` [B] weighs the images.
    """
    excess = prominence(image) - prominence(target).clamp_min(0) - _STANDS_OUT
    value = F.relu(excess).square().mean((1, 2))
    return (value if weight is None else value * weight).mean()


def prominence(images: Tensor) -> Tensor:
    """How far each fine frequency stands out from those around it, in regions of 64 px: about 1 at most in photos, 4 in
    a weave.

    It is the logarithm of luma's power spectrum, less its mean over the 9x9 frequencies around. So noise and texture,
    whose power spreads over neighbouring frequencies, do not stand out, nor does what is too weak to be seen; a
    straight outline does, by up to 3. The logarithms are averaged over overlapping windows (as powers are in Welch,
    "The Use of Fast Fourier Transform for the Estimation of Power Spectra", 1967), but only over those of one region:
    a weave in dark hair is not outvoted by smooth skin.

    Shape: images [B, 3, S, S] in 0..1 to [B, regions, frequencies], S at least 32.
    """
    window = torch.hann_window(_SPECTRUM, device=images.device)
    window = window[:, None] * window
    floor = (0.5 * _LEAST_DETAIL) ** 2 * window.square().sum()
    patches = F.unfold(_luma(images), _SPECTRUM, stride=_SPECTRUM // 2)
    patches = patches.transpose(1, 2).unflatten(2, (_SPECTRUM, _SPECTRUM))
    patches = (patches - patches.mean((2, 3), keepdim=True)) * window
    spectra = (torch.view_as_real(torch.fft.fft2(patches)).square().sum(-1) + floor).log()
    side = images.shape[-1] // (_SPECTRUM // 2) - 1
    spectra = F.avg_pool2d(spectra.flatten(2).transpose(1, 2).unflatten(2, (side, side)), min(_REGION, side), 1)
    spectra = spectra.flatten(2).transpose(1, 2).unflatten(2, (_SPECTRUM, _SPECTRUM))
    padded = F.pad(spectra, (_AROUND // 2,) * 4, mode="circular")
    frequency = torch.fft.fftfreq(_SPECTRUM, 1 / _SPECTRUM, device=images.device)
    fine = torch.hypot(frequency[:, None], frequency) >= _FINEST
    return (spectra - F.avg_pool2d(padded, _AROUND, 1))[..., fine]


def agreement(first: Tensor, second: Tensor, target: Tensor) -> Tensor:
    """Distance between two results [B, C, H, W] for one face; the one further from its target follows the other.

    Were both to give way, what a good input shows would be lost to a bad one.
    """
    errors = [(image - target).float().square().mean((1, 2, 3), keepdim=True) for image in (first, second)]
    ahead = errors[0] < errors[1]
    leader, follower = torch.where(ahead, first, second), torch.where(ahead, second, first)
    return charbonnier(follower, leader.detach())


def latent_distance(latents: Tensor, other: Tensor) -> Tensor:
    """Squared distance between two latents of one face, over that between different faces.

    As a ratio it cannot be lowered by making all latents small or equal. latents, other: [B, L, C], B at least 2.
    """
    within = (latents - other).float().square().mean()
    between = (latents - other.roll(1, 0)).float().square().mean()
    return within / between.clamp_min(1e-8)
