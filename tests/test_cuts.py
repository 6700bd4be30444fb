"""Cuts are found where the shot changes, and not where it moves, flashes or grows brighter."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from posefr.cuts import find_cuts
from posefr.errors import PoseFRError
from posefr.faces import Faces
from posefr.tracking import track_faces


def scene(seed: int, size: tuple[int, int] = (135, 240), shapes: tuple[int, int] = (6, 9)) -> Tensor:
    """[h, w, 3]: soft shapes, as a photo has them when it is made small."""
    coarse = torch.rand(1, 3, *shapes, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=size, mode="bicubic", align_corners=False)[0].movedim(0, 2).clamp(0, 1)


def held(picture: Tensor, frames: int, seed: int = 0) -> Tensor:
    """[frames, h, w, 3]: one picture with some noise on each frame."""
    noise = torch.randn(frames, *picture.shape, generator=torch.Generator().manual_seed(seed))
    return (picture + 0.05 * noise).clamp(0, 1)


def pan(picture: Tensor, frames: int, step: int, hold: int = 1) -> Tensor:
    """[frames, h, 160, 3]: a window that moves by some px a frame, each picture shown for `hold` frames."""
    return torch.stack([picture[:, step * (i // hold) :][:, :160] for i in range(frames)])


def test_each_shot_begins_where_the_picture_changes():
    for lengths, cuts in (((10, 2, 5, 12), [10, 12, 17]), ((10, 4, 4, 10), [10, 14, 18])):
        shots = [held(scene(seed), length, seed) for seed, length in enumerate(lengths)]
        assert find_cuts(torch.cat(shots)) == cuts


def test_black_bars_hide_no_cut():
    clip = torch.cat([held(scene(1), 8), held(scene(2), 8)])
    wide, tall = clip.clone(), clip.clone()
    wide[:, :17], wide[:, -17:] = 0, 0
    tall[:, :, :82], tall[:, :, -82:] = 0, 0
    assert find_cuts(wide) == find_cuts(tall) == [8]
    assert find_cuts(tall[:8]) == []
    assert find_cuts(torch.zeros(9, 20, 20, 3)) == []


def test_a_flash_or_a_broken_pixel_hides_no_cut():
    clip = torch.cat([held(scene(1), 8), held(scene(2), 8)])
    flash, broken = clip.clone(), clip.clone()
    flash[5] = 1
    broken[6, 0, 0], broken[9, 0, 0] = float("nan"), float("inf")
    assert find_cuts(flash) == find_cuts(broken) == [8]
    assert find_cuts(torch.cat([clip, torch.zeros_like(clip[..., :1])], dim=3)) == [8], "RGBA"
    with pytest.raises(PoseFRError, match="expected"):
        find_cuts(clip[0])


@pytest.mark.parametrize("frames", [0, 1, 2])
def test_short_clips(frames):
    assert find_cuts(torch.zeros(frames, 48, 64, 3)) == []
    assert find_cuts(torch.stack([scene(1), scene(2)])[:frames]) == [1][: max(0, frames - 1)]


def test_one_shot_has_no_cut():
    still = held(scene(1), 12)
    assert find_cuts(still) == []
    lamp = torch.cat([still[:6] * 0.45, still[6:]])
    assert find_cuts(lamp) == []
    for length in (1, 2):
        flash = still.clone()
        flash[5 : 5 + length] = 1
        assert find_cuts(flash) == []
        flash[5 : 5 + length] = 0
        assert find_cuts(flash) == []


@pytest.mark.parametrize("hold", [1, 2, 3, 5])
def test_a_pan_is_no_cut_however_fast(hold):
    for shapes in ((6, 30), (6, 60)):
        wide = scene(3, (90, 1200), shapes)
        for step in (3, 10, 20) if shapes[1] < 60 else (3, 10):
            assert find_cuts(pan(wide, 30, step, hold)) == []


def test_a_cut_through_white_or_black_is_found():
    one, other = held(scene(1), 8), held(scene(2), 8)
    for level in (0.0, 1.0):
        between = torch.full_like(one[:1], level)
        cuts = find_cuts(torch.cat([one, between, other]))
        assert cuts in ([8], [9], [8, 9])


def test_a_cut_within_a_pan_is_found():
    one, other = (pan(scene(seed, (90, 400)), 10, 10) for seed in (4, 5))
    assert find_cuts(torch.cat([one, other])) == [10]


def test_sizes_do_not_matter():
    clip = torch.cat([held(scene(1), 5), held(scene(2), 5)])
    for size in ((24, 40), (270, 480), (540, 300)):
        resized = F.interpolate(clip.movedim(3, 1), size=size, mode="bilinear").movedim(1, 3)
        assert find_cuts(resized) == [5]
    assert find_cuts(clip.half()) == [5]


def test_no_track_goes_on_after_a_cut():
    frame = torch.tensor([0, 1, 2, 6, 7, 8])
    box = torch.tensor([[10.0, 10, 60, 60]]).expand(6, -1)
    landmarks = torch.tensor([[[25.0, 25], [45, 25], [35, 38], [27, 48], [43, 48]]]).expand(6, -1, -1)
    faces = Faces.make(frame, box, landmarks, torch.full((6,), 0.9), (80, 80), 9)
    assert len(track_faces(faces)) == 9
    for cuts in ([3], [5], [6], [1, 4]):
        tracked = track_faces(faces, cuts=cuts)
        assert len(tracked) == 6, "nothing is filled in over a cut"
        assert int(tracked.track[-1]) == len(cuts)
    assert torch.equal(track_faces(faces, cuts=[0, 9]).track, track_faces(faces).track)
