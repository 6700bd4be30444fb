"""Restored faces over the frames of a video: noise is averaged away, what really changes stays, tracks stay apart."""

from __future__ import annotations

import pytest
import torch
from fakes import FakeDetector, FakeRestorer
from torch import Tensor

from posefr.compositing import paste_faces
from posefr.errors import PoseFRError
from posefr.evaluation import __main__ as evaluation
from posefr.faces import Faces
from posefr.geometry import crop_faces
from posefr.pipeline import restore_report
from posefr.steadying import smooth_over_tracks, steady_restored

POINTS = torch.tensor([[24.0, 28.0], [40.0, 28.0], [32.0, 36.0], [26.0, 44.0], [38.0, 44.0]])


def faces_of(tracks: list[int], frames: list[int]) -> Faces:
    count = len(tracks)
    box = torch.tensor([[16.0, 16.0, 48.0, 52.0]]).expand(count, -1)
    return Faces.make(
        torch.tensor(frames),
        box,
        POINTS.expand(count, -1, -1),
        torch.ones(count),
        (64, 64),
        max(frames) + 1,
        track=torch.tensor(tracks),
    )


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


def test_noise_is_averaged_over_a_track() -> None:
    still = torch.rand(1, 96, 96, 3, generator=torch.Generator().manual_seed(1)) * 0.6 + 0.2
    shaky = still + 0.03 * noise(12, 96, 96, 3)
    steady = steady_restored(shaky, faces_of([0] * 12, list(range(12))))
    assert steady.diff(dim=0).square().mean() < shaky.diff(dim=0).square().mean() / 9
    assert (steady - still).square().mean() < (shaky - still).square().mean() / 2
    assert (steady.mean(dim=0) - shaky.mean(dim=0)).abs().max() < 0.02


def test_where_it_is_computed_does_not_matter() -> None:
    faces, shaky = faces_of([0] * 6, list(range(6))), (0.5 + 0.03 * noise(6, 32, 32, 3)).half()
    steady = steady_restored(shaky, faces, device=torch.device("cpu"))
    assert steady.dtype == torch.float16
    assert torch.equal(steady, steady_restored(shaky, faces))
    # A device without numbers takes every step, and only the way back from it fails.
    with pytest.raises(NotImplementedError, match="meta"):
        steady_restored(shaky, faces, device=torch.device("meta"))


def test_a_mouth_that_opens_is_not_blurred_over_time() -> None:
    """It opens from one frame to the next; around it noise is still averaged away."""
    clip = torch.full((10, 64, 64, 3), 0.6)
    clip[5:, 40:52, 20:44] = 0.2
    shaky = clip + 0.02 * noise(10, 64, 64, 3)
    steady = steady_restored(shaky, faces_of([0] * 10, list(range(10))))
    mouth = (slice(None), slice(43, 49), slice(24, 40))
    assert (steady - clip)[mouth].mean(dim=(1, 2, 3)).abs().max() < 0.01
    assert (steady - clip)[:, :30].square().mean() < 0.3 * (shaky - clip)[:, :30].square().mean()


def test_a_light_that_changes_its_hue_leaves_no_cast() -> None:
    clip = torch.full((10, 32, 32, 3), 0.5)
    clip[:5] += torch.tensor([0.15, 0.0, -0.15])
    clip[5:] += torch.tensor([-0.15, 0.0, 0.15])
    steady = steady_restored(clip, faces_of([0] * 10, list(range(10))))
    assert (steady - clip).abs().max() < 0.005


def test_it_tells_how_far_it_is_and_the_order_of_frames_does_not_matter() -> None:
    crops = torch.rand(5, 16, 16, 3, generator=torch.Generator().manual_seed(3)) * 0.02
    frames, told = [3, 0, 2, 1, 4], []
    faces = faces_of([7, 7, 7, 7, -1], frames)
    steady = steady_restored(crops, faces, on_face=lambda done, total: told.append((done, total)))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    order = torch.tensor(frames).argsort()
    in_order = steady_restored(crops[order], faces_of([7, 7, 7, 7, -1], sorted(frames)))
    torch.testing.assert_close(steady[order], in_order, atol=1e-6, rtol=0)


def test_tracks_and_faces_without_one_stay_apart() -> None:
    crops = torch.rand(6, 16, 16, 3, generator=torch.Generator().manual_seed(3)) * 0.02
    crops[1::2] += 0.005
    faces = faces_of([0, 1, 0, 1, -1, -1], [0, 0, 1, 1, 0, 1])
    steady = steady_restored(crops, faces)
    assert torch.equal(steady[4:], crops[4:])
    assert not torch.equal(steady[:4], crops[:4])
    changed = crops.clone()
    changed[1::2] += 0.01
    assert torch.equal(steady_restored(changed, faces)[[0, 2]], steady[[0, 2]])
    assert torch.equal(steady_restored(crops, faces, sigma=0), crops)
    far = faces_of([0, 0, 1, 1, 2, 2], [0, 30, 0, 30, 0, 30])
    assert torch.allclose(steady_restored(crops, far), crops, atol=1e-7), "too far apart in time"
    assert torch.equal(steady_restored(crops[:0], faces[:0]), crops[:0])


def test_means_over_tracks() -> None:
    values = torch.tensor([0.0, 10.0, 1.0, 10.0, 2.0, 10.0])[:, None]
    smooth = smooth_over_tracks(values, faces_of([0, 1, 0, 1, 0, -1], [0, 0, 1, 1, 2, 2]))[:, 0]
    assert smooth[1::2].tolist() == pytest.approx([10, 10, 10])
    assert smooth[2] == pytest.approx(1)
    assert 0.3 < smooth[0] < 0.9
    assert smooth[4] == pytest.approx(2 - float(smooth[0]))


@pytest.mark.parametrize("method", ["mean_std", "wavelet", "detail"])
def test_the_colour_match_of_a_track_does_not_flicker(method: str) -> None:
    """The input's brightness trembles by 1 per cent; the pasted face trembles less, and stays where it was."""
    base = 0.3 + 0.3 * torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(4))
    images = base + 0.01 * noise(8, 1, 1, 1)
    restored = base.expand(8, -1, -1, -1)[:, 16:48, 16:48].contiguous()

    def middle(track: int) -> Tensor:
        faces = faces_of([track] * 8, list(range(8)))
        crops = crop_faces(images, faces, 32)
        out, covered = paste_faces(images, crops, restored, color_match=method)
        return out[(covered == 1).all(dim=0).expand(8, -1, -1)].view(8, -1).mean(dim=1)

    apart, together = middle(-1), middle(0)
    assert together.diff().square().mean() < apart.diff().square().mean() / 3
    assert abs(float(together.mean() - apart.mean())) < 0.003


def test_the_pipeline_steadies_a_video() -> None:
    images = torch.rand(1, 64, 96, 3, generator=torch.Generator().manual_seed(0)).expand(6, -1, -1, -1)
    shaky = (images + 0.02 * noise(6, 64, 96, 3)).clamp(0, 1)
    models = {"detector": FakeDetector(), "restorer": FakeRestorer()}
    apart = restore_report(shaky, fidelity=1.0, **models)
    together = restore_report(shaky, fidelity=1.0, video=True, **models)
    assert apart.faces.track.tolist() == [-1] * 12
    assert sorted(set(together.faces.track.tolist())) == [0, 1]
    assert together.restored.view(6, 2, -1).diff(dim=0).std() < apart.restored.view(6, 2, -1).diff(dim=0).std() / 2
    outside = together.mask == 0
    assert torch.equal(together.images[outside], shaky[outside])


def test_mistakes_are_named() -> None:
    faces = faces_of([0, 0], [0, 1])
    with pytest.raises(PoseFRError, match="steadying is -1 frames"):
        steady_restored(torch.zeros(2, 8, 8, 3), faces, sigma=-1)
    with pytest.raises(PoseFRError, match="There are 1 restored crops but 2 faces"):
        steady_restored(torch.zeros(1, 8, 8, 3), faces)


def test_the_measurement_names_a_folder_without_pictures(tmp_path, capsys, caplog) -> None:
    assert evaluation.main(["video", "--faces", str(tmp_path)]) == 1
    assert f"There are no pictures in {tmp_path}" in capsys.readouterr().err
    (tmp_path / "a.png").write_bytes(b"no picture")
    assert evaluation.main(["video", "--faces", str(tmp_path)]) == 1
    assert f"There are no pictures in {tmp_path}" in capsys.readouterr().err
    assert "a.png is not an image that can be read" in caplog.text


def test_restored_faces_are_steadier_than_frame_by_frame(tmp_path, capsys) -> None:
    """On a real face, with what is bundled: what the command prints of one short clip."""
    import cv2
    import skimage.data

    face = cv2.resize(skimage.data.astronaut()[10:230, 110:330], (512, 512), interpolation=cv2.INTER_CUBIC)
    assert cv2.imwrite(str(tmp_path / "face.png"), face[..., ::-1])
    given = ["--faces", str(tmp_path), "--frames", "10", "--restorer", "posefr-256"]
    assert evaluation.main(["video", *given]) == 0
    said = capsys.readouterr().out
    assert "1 of 1 clips" in said
    ratios = {line.split(",")[0]: float(line.split()[-1]) for line in said.splitlines() if ", 1/255" in line}
    assert set(ratios) == {"temporal difference", "error"}
    assert ratios["temporal difference"] > 1.1
    assert ratios["error"] > 1
