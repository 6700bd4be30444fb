"""A video restored in parts is the video restored at once, however it is cut into parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from posefr.compositing import paste_faces
from posefr.cuts import find_cuts
from posefr.errors import PoseFRError
from posefr.faces import Faces
from posefr.geometry import crop_faces
from posefr.steadying import steady_restored
from posefr.streaming import find_faces_in_parts, restore_in_parts
from posefr.tracking import smooth_faces, track_faces

FRAMES, HEIGHT, WIDTH, SIZE = 45, 72, 128, 32
_POINTS = torch.tensor([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])


def detect(part: Tensor) -> Faces:
    """Two faces that overlap and tremble, told by the number that a frame's first pixel holds; one comes and goes."""
    frames, boxes = [], []
    for index, frame in enumerate(part):
        time = round(float(frame[0, 0, 0]) * 100)
        trembling = 0.7 * (-1) ** time
        for face, (x, side) in enumerate(((30 + time / 2, 30.0), (52 - time / 3, 30.0 + trembling))):
            if not (face == 1 and (18 <= time < 21 or time > 38)):
                frames.append(index)
                boxes.append([x + trembling, 20.0, x + trembling + side, 20 + side])
    box = torch.tensor(boxes).reshape(-1, 4)
    landmarks = box[:, None, :2] + _POINTS * (box[:, None, 2:] - box[:, None, :2])
    score = torch.full((len(box),), 0.9)
    return Faces.make(torch.tensor(frames), box, landmarks, score, (HEIGHT, WIDTH), len(part))


def restore(crops: Tensor) -> Tensor:
    """What a network might make of each crop by itself: another size, other colours, and its noise enlarged."""
    large = torch.nn.functional.interpolate(crops.movedim(3, 1), (48, 48), mode="bilinear").movedim(1, 3)
    return (0.5 + 1.5 * (large - large.mean(dim=(1, 2), keepdim=True))).clamp(0, 1)


@pytest.fixture(scope="module")
def clip() -> Tensor:
    random = torch.Generator().manual_seed(0)
    shots = torch.rand(2, HEIGHT // 4, WIDTH // 4, 3, generator=random).repeat_interleave(4, 1).repeat_interleave(4, 2)
    images = torch.where(torch.arange(FRAMES)[:, None, None, None] < 27, shots[:1], shots[1:])
    images = (images * 0.8 + 0.1 + 0.04 * torch.randn(images.shape, generator=random)).clamp(0, 1)
    images[:, 0, 0, 0] = torch.arange(FRAMES) / 100
    return images


def parts(clip: Tensor, length: int) -> Iterator[Tensor]:
    yield from clip.split(length)


def at_once(clip: Tensor, **options: object) -> tuple[Faces, Tensor]:
    faces = smooth_faces(track_faces(detect(clip), cuts=find_cuts(clip)))
    crops = crop_faces(clip, faces, size=SIZE)
    restored = steady_restored(restore(crops.images), faces)
    return faces, paste_faces(clip, crops, restored, **{"color_match": "mean_std", **options})[0]


@pytest.mark.parametrize("length", [1, 4, 7, 16, 100])
@pytest.mark.parametrize("color_match", ["mean_std", "wavelet", "none"])
def test_parts_of_any_length_give_what_all_frames_at_once_give(clip: Tensor, length: int, color_match: str) -> None:
    expected, pictures = at_once(clip, color_match=color_match, mask="box", strength=0.8)
    faces = find_faces_in_parts(parts(clip, length), detect)
    assert faces.frames == FRAMES
    assert faces.track.unique().numel() > 2, "the cut ends tracks"
    assert torch.equal(faces.track, expected.track)
    assert torch.allclose(faces.landmarks, expected.landmarks, atol=1e-4)
    out = restore_in_parts(
        parts(clip, length), faces, restore, size=SIZE, frame="ffhq", color_match=color_match, mask="box", strength=0.8
    )
    made = list(out)
    assert [len(part) for part in made] == [len(part) for part in clip.split(length)]
    assert torch.allclose(torch.cat(made), pictures, atol=2e-5)
    assert (pictures - clip).abs().max() > 0.1


def test_parts_come_out_as_soon_as_what_they_need_was_read(clip: Tensor) -> None:
    read = 0

    def counted() -> Iterator[Tensor]:
        nonlocal read
        for part in clip.split(2):
            read += len(part)
            yield part

    faces, done, ahead = smooth_faces(track_faces(detect(clip))), 0, []
    for part in restore_in_parts(counted(), faces, restore, size=SIZE, frame="ffhq"):
        done += len(part)
        ahead.append(read - done)
    assert max(ahead) == 8
    assert (read, done) == (FRAMES, FRAMES)


def test_a_crowd_is_worked_on_in_smaller_parts(clip: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    faces, expected = at_once(clip)
    monkeypatch.setattr("posefr.streaming._CROP_PIXELS", 5 * SIZE**2)
    at_a_time = []

    def counted(crops: Tensor) -> Tensor:
        at_a_time.append(len(crops))
        return restore(crops)

    made = list(restore_in_parts(parts(clip, 16), faces, counted, size=SIZE, frame="ffhq"))
    assert max(at_a_time) <= 5
    assert sum(at_a_time) == len(faces)
    assert torch.allclose(torch.cat(made), expected, atol=2e-5)
    monkeypatch.setattr("posefr.streaming._CROP_PIXELS", 1)
    made = list(restore_in_parts(parts(clip, 16), faces, restore, size=SIZE, frame="ffhq"))
    assert torch.allclose(torch.cat(made), expected, atol=2e-5)


def test_frames_without_a_face_come_back_to_the_bit(clip: Tensor) -> None:
    faces = smooth_faces(track_faces(detect(clip)))
    faces = faces[(faces.frame < 5) | (faces.frame >= 40)]
    out = torch.cat(list(restore_in_parts(parts(clip, 4), faces, restore, size=SIZE, frame="ffhq")))
    assert torch.equal(out[5:40], clip[5:40])
    assert not torch.equal(out[:5], clip[:5])
    assert not torch.equal(out[40:], clip[40:])
    none = replace(faces[:0], frames=FRAMES)
    out = torch.cat(list(restore_in_parts(parts(clip, 4), none, restore, size=SIZE, frame="ffhq")))
    assert torch.equal(out, clip)


def test_faces_of_another_video_are_told(clip: Tensor) -> None:
    faces = smooth_faces(track_faces(detect(clip)))
    for frames, said in ((clip[:-1], "but there are 44"), (torch.cat([clip, clip[:1]]), "there are more")):
        with pytest.raises(PoseFRError, match=said):
            list(restore_in_parts(parts(frames, 4), faces, restore, size=SIZE, frame="ffhq"))


def test_a_video_of_no_frames_or_of_several_sizes_is_told(clip: Tensor) -> None:
    with pytest.raises(PoseFRError, match="no frame"):
        find_faces_in_parts([], detect)
    wide = torch.zeros(2, 20, 30, 3)
    with pytest.raises(PoseFRError, match="128x72 to 30x20"):
        find_faces_in_parts([clip[:3], wide], lambda part: Faces.empty(tuple(part.shape[1:3]), len(part)))
