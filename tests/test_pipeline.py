"""All of it in one call, with a detector and a restorer whose answers are known."""

from __future__ import annotations

import photos
import pytest
import torch
from fakes import FakeDetector, FakeRestorer

import posefr
from posefr.pipeline import restore_report

MODELS = {"detector": FakeDetector(), "restorer": FakeRestorer()}


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 64, 96, 3, generator=torch.Generator().manual_seed(0))


def test_the_images_come_back_changed_in_the_mask_alone(images):
    before = images.clone()
    result = restore_report(images, fidelity=0.0, color_match="none", **MODELS)
    assert result.images.shape == images.shape
    assert result.mask.shape == images.shape[:3]
    assert result.crops.images.shape == result.restored.shape == (4, 32, 32, 3)
    outside = result.mask == 0
    assert 0.3 < outside.float().mean() < 0.9
    assert torch.equal(result.images[outside], images[outside])
    assert (result.images[result.mask > 0.9] != images[result.mask > 0.9]).any(-1).all()
    assert torch.equal(images, before), "the input is not written to"


def test_restore_images_gives_the_reports_images(images):
    report = restore_report(images, fidelity=0.2, strength=0.5, **MODELS)
    assert torch.equal(posefr.restore_images(images, fidelity=0.2, strength=0.5, **MODELS), report.images)


def test_strength_0_is_the_input(images):
    assert torch.equal(posefr.restore_images(images, strength=0.0, **MODELS), images)


def test_select_restores_some_and_reports_all(images):
    result = restore_report(images, select={"order": "left_to_right", "limit": 1}, **MODELS)
    assert len(result.found) == 4
    assert len(result.faces) == 2
    assert result.faces.box[:, 0].tolist() == [4.0, 4.0]
    assert not result.mask[:, :, 60:].any()


def test_images_without_a_face_come_back_as_they_are():
    images = torch.rand(3, 20, 20, 3)
    result = restore_report(images, **MODELS)
    assert torch.equal(result.images, images)
    assert len(result.faces) == 0
    assert not result.mask.any()


def test_stages_are_told_and_may_stop_the_work(images):
    told = []
    restore_report(images, on_chunk=lambda *chunk: told.append(chunk), **MODELS)
    assert told == [("detect", 2, 2), ("restore", 4, 4)]

    def stop(stage: str, done: int, total: int) -> None:
        raise InterruptedError(stage)

    with pytest.raises(InterruptedError, match="detect"):
        restore_report(images, on_chunk=stop, **MODELS)


def test_a_video_file_comes_out_as_its_frames_would(tmp_path):
    pytest.importorskip("av")
    from posefr.videofiles import VideoClip, write_video

    frames = torch.linspace(0.2, 0.8, 20)[:, None, None, None].expand(20, 64, 96, 3)
    source = tmp_path / "in.mp4"
    photos.write_clip(source, (frames * 255).byte().numpy())
    clip = VideoClip(source)
    images = torch.cat(list(clip.parts()))
    told = []
    options = {"fidelity": 0.0, "strength": 0.5, "color_match": "none", "select": {"indices": "0"}, **MODELS}
    faces = posefr.restore_video(
        source, tmp_path / "out.mp4", quality=1, on_frames=lambda *done: told.append(done), **options
    )
    result = restore_report(images, video=True, **options)
    assert torch.equal(faces.track, result.faces.track)
    assert torch.allclose(faces.landmarks, result.faces.landmarks)
    write_video(tmp_path / "expected.mp4", [result.images], clip, quality=1)
    made, expected = (torch.cat(list(VideoClip(tmp_path / name).parts())) for name in ("out.mp4", "expected.mp4"))
    assert (made - expected).abs().max() < 0.02
    assert (made - images).abs().max() > 0.1
    assert told == [("detect", 16, 20), ("detect", 20, 20), ("restore", 16, 20), ("restore", 20, 20)]
