"""Faces over frames: the same face keeps its track, gaps are filled, and smoothing removes trembling but not motion."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from posefr.compositing import paste_faces
from posefr.errors import PoseFRError
from posefr.faces import Faces
from posefr.geometry import alignment_transform, apply_transform, crop_faces, invert_similarity, sample_crops
from posefr.pose import estimate_pose
from posefr.tracking import smooth_faces, track_faces

SHARED = Path(os.environ.get("POSEFR_SHARED", Path(__file__).resolve().parents[2] / "shared"))
FACE = torch.tensor([[-0.2, -0.15], [0.2, -0.15], [0.0, 0.05], [-0.15, 0.25], [0.15, 0.25]])  # in a box of 1 x 1


def at(frames: Tensor, x: Tensor, y: Tensor, size: Tensor | float, degrees: Tensor | float = 0.0) -> Faces:
    """A face around (x, y) at each of some frames; everything but frames may be one number for all."""
    x, y, size, degrees = (torch.as_tensor(v, dtype=torch.float64).expand(len(frames)) for v in (x, y, size, degrees))
    angle = torch.deg2rad(degrees)
    turn = torch.stack([angle.cos(), angle.sin(), -angle.sin(), angle.cos()], dim=1).view(-1, 2, 2)
    middle = torch.stack([x, y], dim=1)
    landmarks = middle[:, None] + size[:, None, None] * FACE.double() @ turn
    half = size[:, None] / 2
    box = torch.cat([middle - half, middle + half], dim=1)
    score = torch.full((len(frames),), 0.9)
    return Faces.make(frames, box, landmarks, score, (480, 640), 60, pose=estimate_pose(landmarks))


def noisy(faces: Faces, sigma: float, seed: int = 0) -> Faces:
    generator = torch.Generator().manual_seed(seed)
    box = faces.box + sigma * torch.randn(faces.box.shape, generator=generator)
    landmarks = faces.landmarks + sigma * torch.randn(faces.landmarks.shape, generator=generator)
    return Faces.make(faces.frame, box, landmarks, faces.score, faces.image_size, faces.frames, faces.pose, faces.track)


def corners(faces: Faces) -> Tensor:
    """[N, 4, 2]: where the corners of the crops lie in the images."""
    square = torch.tensor([[0.0, 0.0], [256.0, 0.0], [0.0, 256.0], [256.0, 256.0]])
    inverse = invert_similarity(alignment_transform(faces.landmarks, 256).double())
    return apply_transform(inverse, square.double().expand(len(faces), -1, -1))


def rms(vectors: Tensor) -> float:
    return float(vectors.square().sum(dim=-1).mean().sqrt())


@pytest.fixture
def clip() -> Faces:
    """60 frames: a pan that gathers speed to 6 px a frame and stops, a zoom from 1 to 1.8, a head that leans."""
    frames = torch.arange(60)
    phase = frames / 59 * math.pi
    return at(
        frames, 120 + 117 * (1 - phase.cos()), 200 + 60 * phase.sin(), 90 * 1.8 ** (frames / 59), 15 * phase.sin()
    )


def test_a_track_each_for_faces_that_move(clip: Faces) -> None:
    frames = torch.arange(60)
    other = at(frames, 500 - 4.0 * frames, 420, 60)
    both = Faces.cat([noisy(other, 1.0), noisy(clip, 1.0)])
    tracked = track_faces(both)
    assert tracked.frame.tolist() == sorted(both.frame.tolist())
    for track, truth in enumerate((other, clip)):
        assert (tracked[tracked.track == track].landmarks - truth.landmarks).abs().max() < 6


def test_two_faces_that_pass_each_other_keep_their_tracks() -> None:
    """One goes left, one right, and the smaller one is hidden while they meet."""
    frames = torch.arange(60)
    right, left = at(frames, 100 + 7.0 * frames, 200, 80), at(frames, 520 - 7.0 * frames, 210, 60)
    hidden = range(28, 33)
    left = left[[i for i in range(60) if i not in hidden]]
    tracked = track_faces(noisy(Faces.cat([right, left]), 0.8))
    assert tracked.track.unique().tolist() == [0, 1]
    for track, size, step in ((0, 80, 7.0), (1, 60, -7.0)):
        own = tracked[tracked.track == track]
        assert (own.size - size).abs().max() < 4
        assert (own.box[:, 0].diff() / own.frame.diff() - step).abs().max() < 4
    assert len(tracked) == 120 - len(hidden), "a face was filled in where it was hidden"


@pytest.mark.parametrize(("missing", "tracks"), [(1, 1), (5, 1), (6, 2)])
def test_gaps_are_filled_up_to_the_limit(clip: Faces, missing: int, tracks: int) -> None:
    kept = [i for i in range(60) if not 20 <= i < 20 + missing]
    tracked = track_faces(clip[kept], gap=5)
    assert tracked.track.unique().tolist() == list(range(tracks))
    if tracks == 1:
        assert tracked.frame.tolist() == list(range(60))
        assert (tracked.landmarks - clip.landmarks).abs().max() < 1.5
        made = tracked.score == 0
        assert made.nonzero()[:, 0].tolist() == list(range(20, 20 + missing))
        assert tracked.pose.isfinite().all()
    else:
        assert (tracked.score > 0).all()


def test_a_face_elsewhere_or_of_another_size_starts_a_track() -> None:
    frame = torch.tensor([0])
    first = at(frame, 100, 100, 50)
    for other in (at(frame + 1, 100 + 50, 100, 50), at(frame + 1, 100, 100, 110)):
        assert track_faces(Faces.cat([first, other])).track.tolist() == [0, 1]
    assert track_faces(Faces.cat([first, at(frame + 1, 120, 110, 60)])).track.tolist() == [0, 0]


def test_a_new_face_beside_a_lost_one_takes_nothing_over() -> None:
    """Two poor matches are no better than one good one."""
    pair = at(torch.tensor([0, 0]), torch.tensor([100.0, 130.0]), 100, 50)
    then = at(torch.tensor([1, 1]), torch.tensor([130.0, 160.0]), 100, 50)
    assert track_faces(Faces.cat([pair, then])).track.tolist() == [0, 1, 1, 2]


def test_no_faces_and_a_single_face(clip: Faces) -> None:
    none = Faces.empty((10, 10), 3)
    assert len(smooth_faces(track_faces(none))) == 0
    one = track_faces(clip[7])
    assert one.track.tolist() == [0]
    assert torch.allclose(smooth_faces(one).landmarks, one.landmarks)


def test_smoothing_calms_the_crop_at_least_three_times(clip: Faces) -> None:
    truth = corners(clip)
    tracked = track_faces(noisy(clip, 1.0))
    before, after = corners(tracked) - truth, corners(smooth_faces(tracked)) - truth
    assert rms(before.diff(dim=0)) > 1
    assert rms(after.diff(dim=0)) < rms(before.diff(dim=0)) / 5
    assert rms(after) < rms(before) / 1.5
    assert (after.mean(dim=0) - before.mean(dim=0)).norm(dim=1).max() < 0.05
    for seen, smooth in zip(before.split(20), after.split(20), strict=True):  # no drift in any third of the clip
        assert (seen.mean(dim=0) - smooth.mean(dim=0)).norm(dim=1).max() < 1


@pytest.mark.parametrize("sigma", [1.0, 3.0, 5.0])
def test_smoothing_follows_motion_without_lag(clip: Faces, sigma: float) -> None:
    smooth = smooth_faces(track_faces(clip), sigma=sigma)
    assert (corners(smooth) - corners(clip)).norm(dim=2).max() < 1
    assert (smooth.box - clip.box).abs().max() < 1


def test_what_is_pasted_flickers_less(clip: Faces) -> None:
    """One texture on the face in every frame, as a restorer makes it up, against the same on the true landmarks."""
    truth = replace(
        clip[:20], landmarks=clip.landmarks[:20] / 2, box=clip.box[:20] / 2, image_size=(200, 200), frames=20
    )
    tracked = track_faces(noisy(truth, 0.5))
    images = torch.full((20, 200, 200, 3), 0.5)
    texture = torch.rand(1, 16, 16, 3, generator=torch.Generator().manual_seed(4)).expand(20, -1, -1, -1)

    def pasted(faces: Faces) -> Tensor:
        return paste_faces(images, crop_faces(images, faces, 64), texture)[0]

    steady = pasted(truth).diff(dim=0)
    before, after = (rms(pasted(faces).diff(dim=0) - steady) for faces in (tracked, smooth_faces(tracked)))
    assert after < before / 2


def test_a_sudden_move_is_followed() -> None:
    frames = torch.arange(60)
    jump = at(frames, torch.where(frames < 30, 200, 260), 200, 100)
    smooth = smooth_faces(track_faces(jump))
    assert smooth.track.unique().tolist() == [0]
    assert (smooth.landmarks - jump.landmarks).norm(dim=2).max() < 5.1


@pytest.mark.parametrize("period", [6, 8, 10])
def test_a_head_that_nods_quickly_stays_in_its_crop(period: int) -> None:
    frames = torch.arange(48)
    nods = noisy(at(frames, 320.0, 240 + 30 * torch.sin(2 * math.pi * frames.double() / period), 100.0), 0.5)
    tracked = track_faces(nods)
    moved = (smooth_faces(tracked).landmarks - tracked.landmarks).mean(dim=1).norm(dim=1)
    assert len(tracked.track.unique()) == 1
    assert moved.max() < 13


def test_a_still_face_is_found_again_after_a_long_gap() -> None:
    frames = torch.cat([torch.arange(10), torch.arange(50, 60)])
    for seed in range(5):
        tracked = track_faces(noisy(at(frames, 320.0, 240.0, 30.0), 1.5, seed), gap=59)
        assert len(tracked) == 60
        assert len(tracked.track.unique()) == 1


def test_a_filled_gap_is_fitted_to_the_frames_around_it(clip: Faces) -> None:
    tracked = track_faces(clip[[*range(25), *range(30, 60)]])
    made = tracked.score == 0
    smooth = smooth_faces(tracked)
    assert rms((smooth.landmarks - clip.landmarks)[made]) < rms((tracked.landmarks - clip.landmarks)[made])


def test_smoothing_leaves_alone_what_has_no_track_and_what_needs_none(clip: Faces) -> None:
    trembling = noisy(clip, 1.0)
    assert torch.equal(smooth_faces(trembling).landmarks, trembling.landmarks)
    assert torch.equal(smooth_faces(track_faces(trembling), sigma=0).landmarks, trembling.landmarks)


def test_pose_is_steadied_too(clip: Faces) -> None:
    shaky = noisy(clip, 1.0)
    shaky = Faces.make(
        shaky.frame, shaky.box, shaky.landmarks, shaky.score, (480, 640), 60, estimate_pose(shaky.landmarks)
    )
    tracked = track_faces(shaky)
    smooth = smooth_faces(tracked)
    assert smooth.pose[:, 0].diff().abs().mean() < tracked.pose[:, 0].diff().abs().mean() / 3
    unknown = Faces.make(clip.frame, clip.box, clip.landmarks, clip.score, clip.image_size, clip.frames)
    assert smooth_faces(track_faces(unknown)).pose.isnan().all()


def test_mistakes_are_named(clip: Faces) -> None:
    with pytest.raises(PoseFRError, match="gap is -1"):
        track_faces(clip, gap=-1)
    with pytest.raises(PoseFRError, match="smoothing is -1"):
        smooth_faces(clip, sigma=-1)
    twice = track_faces(clip)
    with pytest.raises(PoseFRError, match="Track 0 has two faces in one frame"):
        smooth_faces(Faces.cat([twice, twice]))


def test_a_short_clip_that_gathers_speed_and_stops_is_followed_to_its_ends() -> None:
    """24 frames of a pan that reaches 6 px a frame: without noise no corner is off by 1 px, at the ends neither."""
    frames = torch.arange(24)
    phase = frames / 23 * math.pi
    short = at(
        frames, 120 + 46.8 * (1 - phase.cos()), 200 + 24 * phase.sin(), 90 * 1.8 ** (frames / 59), 15 * phase.sin()
    )
    truth = corners(short)
    assert (corners(smooth_faces(track_faces(short))) - truth).norm(dim=2).max() < 1
    before, after = [], []
    for seed in range(4):
        tracked = track_faces(noisy(short, 1.0, seed))
        before.append(corners(tracked) - truth)
        after.append(corners(smooth_faces(tracked)) - truth)
    assert rms(torch.stack(after).diff(dim=1)) < rms(torch.stack(before).diff(dim=1)) / 5
    assert rms(torch.stack(after)) < rms(torch.stack(before)) / 2


@pytest.mark.parametrize("count", [24, 48])
def test_a_photo_panned_zoomed_and_noisy_as_the_detector_sees_it(count: int) -> None:
    """The crop's corners, taken back into the photo, tremble less; in no third of the clip do they drift by 1 px."""
    from PIL import Image

    from posefr.detection import load_detector

    path = SHARED / "data" / "validation" / "ffhq_3.webp"
    if not path.is_file():
        pytest.skip(f"no photo {path}; set POSEFR_SHARED to the folder that holds data/validation")
    with Image.open(path) as opened:
        photo = torch.frombuffer(bytearray(opened.convert("RGB").tobytes()), dtype=torch.uint8)
        photo = photo.view(1, opened.height, opened.width, 3).float() / 255
    size = 224
    time = torch.linspace(0, 1, count)
    scale = 0.36 * 1.25**time
    shift = torch.stack([10 + 24 * time - 0.09 * 256 * time, 30 - 20 * time], dim=1)
    motion = torch.cat([torch.eye(2).expand(count, 2, 2) * scale[:, None, None], shift[:, :, None]], dim=2)
    frames = sample_crops(photo, torch.zeros(count, dtype=torch.int64), motion, size)
    frames += 0.05 * torch.randn(frames.shape, generator=torch.Generator().manual_seed(1))
    found = load_detector("bundled").detect(frames.clamp(0, 1), threshold=0.3)
    tracked = track_faces(found)
    main = int(tracked.track.mode().values)
    raw = tracked[tracked.track == main]
    assert len(raw) >= count - 2

    def in_photo(faces: Faces) -> Tensor:
        return apply_transform(invert_similarity(motion[faces.frame].double()), corners(faces)) * float(scale.mean())

    before, after = in_photo(raw), in_photo(smooth_faces(raw))
    assert rms(after.diff(dim=0)) < rms(before.diff(dim=0)) / 3
    for seen, smooth in zip(before.split(count // 3), after.split(count // 3), strict=True):
        assert (seen.mean(dim=0) - smooth.mean(dim=0)).norm(dim=1).max() < 1
