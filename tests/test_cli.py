"""The command line's mechanics, with a detector and a restorer whose answers are known."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import photos
import pytest
import torch
from fakes import FakeDetector, FakeRestorer
from PIL import Image

import posefr
from posefr import cli
from posefr.color import COLOR_MATCHES
from posefr.imagefiles import Picture, read_picture, write_picture
from posefr.masks import MASK_SHAPES
from posefr.selection import ORDERS

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def models(monkeypatch):
    """Stand in for the weights. Returns what was asked for."""
    asked = {}
    import posefr.detection
    import posefr.restoration

    def detector(name, **options):
        asked["detector"] = {"name": name, **options}
        return FakeDetector()

    def restorer(name, **options):
        asked["restorer"] = {"name": name, **options}
        return FakeRestorer()

    monkeypatch.setattr(posefr.detection, "load_detector", detector)
    monkeypatch.setattr(posefr.restoration, "load_restorer", restorer)
    return asked


@pytest.fixture
def photo(tmp_path) -> Path:
    """A grey-brown image of 96 x 64 px, wide enough for the fake detector's two faces."""
    return _write(tmp_path / "in" / "photo.png", np.full((64, 96, 3), (120, 100, 80), np.uint8))


def _write(path: Path, pixels: np.ndarray) -> Path:
    write_picture(path, Picture(pixels))
    return path


def _run(*args) -> int:
    return cli.main([str(a) for a in args])


def _green(path: Path) -> np.ndarray:
    """[H, W] how much greener than red the pixels are."""
    pixels = read_picture(path).pixels.astype(int)
    return pixels[..., 1] - pixels[..., 0]


def test_a_file_is_restored_into_a_folder(photo, tmp_path, capsys):
    assert _run("restore", photo, "-o", tmp_path / "out", "--color-match", "none", "--fidelity", 0) == cli.DONE
    green = _green(tmp_path / "out" / "photo.png")
    assert green[28, 80] > 100, "the right face is restored"
    assert green[28, 12] > 100, "the left face too"
    assert green[5, 48] == -20, "what lies between them is not touched"
    assert "photo.png: 2 of 2 faces restored" in capsys.readouterr().out


def test_only_counts_by_area_and_restores_one(photo, tmp_path):
    assert _run("restore", photo, "-o", tmp_path / "out", "--only", 0, "--color-match", "none") == cli.DONE
    green = _green(tmp_path / "out" / "photo.png")
    assert green[28, 80] > 0
    assert green[28, 12] == -20


def test_strength_0_returns_the_input(photo, tmp_path):
    assert _run("restore", photo, "-o", tmp_path / "same.png", "--strength", 0) == cli.DONE
    np.testing.assert_array_equal(read_picture(tmp_path / "same.png").pixels, read_picture(photo).pixels)


def test_the_outputs_suffix_sets_the_format(photo, tmp_path):
    assert _run("restore", photo, "-o", tmp_path / "new" / "result.webp") == cli.DONE
    with Image.open(tmp_path / "new" / "result.webp") as image:
        assert image.format == "WEBP"


@pytest.mark.parametrize("name", ["result.gif", "result.mp4"])
def test_a_file_of_a_format_that_is_not_written_is_no_folder(photo, tmp_path, name, capsys):
    assert _run("restore", photo, "-o", tmp_path / name) == cli.USAGE
    assert f"{name} cannot be written; expected a name ending in .png" in capsys.readouterr().err
    assert not (tmp_path / name).exists()
    (tmp_path / name).mkdir()
    assert _run("restore", photo, "-o", tmp_path / name) == cli.DONE


def test_depth_and_alpha_go_through(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 65536, (64, 96, 4)).astype(np.uint16)
    source = _write(tmp_path / "deep.png", pixels)
    assert _run("restore", source, "-o", tmp_path / "out") == cli.DONE
    back = read_picture(tmp_path / "out" / "deep.png").pixels
    assert back.dtype == np.uint16
    np.testing.assert_array_equal(back[..., 3], pixels[..., 3])
    np.testing.assert_array_equal(back[:8], pixels[:8])
    assert (back[28, 80, :3] != pixels[28, 80, :3]).any()


def test_what_the_format_cannot_hold_is_said(tmp_path, capsys):
    source = _write(tmp_path / "a.png", np.zeros((64, 96, 4), np.uint8))
    assert _run("restore", source, "-o", tmp_path / "a.jpg") == cli.DONE
    assert "jpg cannot hold its alpha" in capsys.readouterr().out


def test_an_image_without_a_face_is_passed_through_byte_for_byte(tmp_path, capsys):
    source = tmp_path / "small.jpg"
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(source, comment=b"kept")
    assert _run("restore", source, "-o", tmp_path / "out", "--report", tmp_path / "r.json") == cli.DONE
    assert (tmp_path / "out" / "small.jpg").read_bytes() == source.read_bytes()
    assert "no face found, passed through" in capsys.readouterr().out
    record = json.loads((tmp_path / "r.json").read_text())["images"][0]
    assert (record["status"], record["found"], record["faces"]) == ("passed through", 0, [])


def test_a_choice_that_leaves_no_face_is_passed_through_with_a_word(photo, tmp_path, capsys):
    assert _run("restore", photo, "-o", tmp_path / "out", "--only", 7) == cli.DONE
    assert (tmp_path / "out" / "photo.png").read_bytes() == photo.read_bytes()
    assert "none of 2 faces selected, passed through" in capsys.readouterr().out


def test_an_image_without_a_face_is_converted_if_asked(tmp_path):
    source = _write(tmp_path / "small.png", np.full((20, 20, 3), 9, np.uint8))
    assert _run("restore", source, "-o", tmp_path / "small.bmp") == cli.DONE
    assert (read_picture(tmp_path / "small.bmp").pixels == 9).all()


def test_an_unreadable_file_is_named_and_counted_and_the_others_go_on(photo, tmp_path, capsys):
    bad = photo.with_name("bad.png")
    bad.write_bytes(photo.read_bytes()[:60])
    report = tmp_path / "report.json"
    assert _run("restore", photo.parent, "-o", tmp_path / "out", "--report", report) == cli.SOME_FAILED
    said = capsys.readouterr()
    assert "bad.png is not an image that can be read" in said.err
    assert "1 done, 1 failed" in said.out
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["photo.png"]
    written = json.loads(report.read_text())
    assert written["failed"] == 1
    assert [r["status"] for r in written["images"]] == ["failed", "restored"]
    assert "bad.png" in written["images"][0]["error"]


def test_a_failure_of_pytorch_ends_that_files_work_alone(photo, tmp_path, monkeypatch, capsys):
    def detect(self, images, **options):
        raise RuntimeError("CUDA error: device lost")

    monkeypatch.setattr(FakeDetector, "detect", detect)
    assert _run("restore", photo, "-o", tmp_path / "out") == cli.SOME_FAILED
    assert "photo.png: CUDA error: device lost" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_batch_is_halved_when_memory_runs_out(photo, tmp_path, monkeypatch, capsys):
    batches = []
    detect = FakeDetector.detect

    def hungry(self, images, **options):
        batches.append(options["batch"])
        if options["batch"] > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return detect(self, images, **options)

    monkeypatch.setattr(FakeDetector, "detect", hungry)
    assert _run("restore", photo, "-o", tmp_path / "out") == cli.DONE
    assert batches == [8, 4, 2]
    assert "restored; memory ran out, done with 2 at a time" in capsys.readouterr().out


def test_folders_keep_their_sub_folders_and_skip_what_is_hidden_or_written(photo, tmp_path):
    folder = photo.parent
    _write(folder / "sub" / "\u4eba\u50cf.JPG", np.zeros((64, 96, 3), np.uint8))
    _write(folder / ".cache" / "x.png", np.zeros((64, 96, 3), np.uint8))
    (folder / "notes.txt").write_text("no image")
    out = folder / "restored"
    for _ in range(2):  # the second run must not restore the first one's results
        assert _run("restore", folder, "-o", out) == cli.DONE
        assert sorted(str(p.relative_to(out)) for p in out.rglob("*.*")) == [
            "photo.png",
            str(Path("sub", "\u4eba\u50cf.JPG")),
        ]


@pytest.mark.parametrize("value", ["nonsense", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(photo, tmp_path, capsys, value):
    assert _run("restore", photo, "-o", tmp_path / "out", "--device", value) == cli.USAGE
    assert f"posefr: The device '{value}' cannot be used here" in capsys.readouterr().err


def test_a_folder_above_the_input_may_take_the_results(photo, tmp_path, monkeypatch):
    source = _write(tmp_path / "raw" / "a.png", read_picture(photo).pixels)
    monkeypatch.chdir(tmp_path)
    assert _run("restore", "raw", "-o", ".") == cli.DONE
    assert (tmp_path / "a.png").exists()
    assert _run("restore", "raw", "-o", "raw/done") == cli.DONE
    assert _run("restore", "raw", "-o", "raw/done") == cli.DONE
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("a.png")) == [
        "a.png", "raw/a.png", "raw/done/a.png",
    ]  # fmt: skip
    assert source.exists()


def test_an_input_is_known_under_another_name(photo, tmp_path, capsys):
    """On disks that ignore case one file has many names; a hard link is the same elsewhere."""
    (tmp_path / "out").mkdir()
    before = photo.read_bytes()
    os.link(photo, tmp_path / "out" / photo.name)
    assert _run("restore", photo, "-o", tmp_path / "out") == cli.USAGE
    assert "would be overwritten" in capsys.readouterr().err
    assert photo.read_bytes() == before


def test_nothing_starts_that_is_bound_to_go_wrong(photo, tmp_path, capsys):
    other = _write(tmp_path / "other" / "photo.png", np.zeros((64, 96, 3), np.uint8))
    (tmp_path / "empty").mkdir()
    for args, words in {
        (photo, "-o", photo.parent): "would be overwritten",
        (photo, other, "-o", tmp_path / "out"): "would both be written to",
        (photo, other, "-o", tmp_path / "out.png"): "expected a folder for several images",
        (tmp_path / "empty", "-o", tmp_path / "out"): "holds no image",
        (photo, "-o", tmp_path / "out", "--only", "first"): "first",
    }.items():
        before = photo.read_bytes()
        assert _run("restore", *args) == cli.USAGE
        assert words in capsys.readouterr().err
        assert photo.read_bytes() == before
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["restore", "detect"])
def test_a_report_takes_no_pictures_place_and_is_refused_before_the_work(photo, tmp_path, capsys, models, command):
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "folder").mkdir()
    os.link(photo, tmp_path / "linked.png")
    weights = tmp_path / "mine.pth"
    weights.write_bytes(b"weights")
    before = photo.read_bytes()
    for report, words in {
        photo: "is one of the pictures and would be overwritten",
        tmp_path / "linked.png": "is one of the pictures and would be overwritten",
        tmp_path / "out" / "photo.png": "is one of the pictures and would be overwritten",
        weights: "holds the weights in use and would be overwritten",
        tmp_path / "file" / "report.json": "cannot be written",
        tmp_path / "folder": "cannot be written: Is a directory",
    }.items():
        given = ("--detector", weights, "--report", report)
        assert _run(command, photo, "-o", tmp_path / "out", *given) == cli.USAGE
        assert words in capsys.readouterr().err
        assert photo.read_bytes() == before
        assert not (tmp_path / "out").exists()
    assert not models, "no network was loaded for it"
    assert not list((tmp_path / "folder").iterdir())


@pytest.mark.parametrize("command", ["restore", "detect"])
def test_a_place_that_takes_no_results_is_told_before_the_work(photo, tmp_path, capsys, models, command):
    (tmp_path / "file").write_text("no folder")
    for place in (tmp_path / "file", tmp_path / "file" / "more"):
        assert _run(command, photo, "-o", place) == cli.USAGE
        assert "file" in capsys.readouterr().err
    assert not models
    shutil.copy(photo, photo.with_suffix(".jfif"))
    assert _run(command, photo.with_suffix(".jfif"), photo, "-o", tmp_path / "out") == cli.SOME_FAILED
    assert "photo.jfif ends in '.jfif'; expected one of .png" in capsys.readouterr().err
    assert (tmp_path / "out" / "photo.png").exists()


def test_a_place_without_any_folder_that_exists_is_told(photo, tmp_path, monkeypatch, capsys):
    """As on Windows where there is no such drive."""
    monkeypatch.setattr(os.path, "lexists", lambda path: False)
    assert _run("restore", photo, "-o", tmp_path / "no" / "drive") == cli.USAGE
    assert "drive cannot be written: No such file or directory" in capsys.readouterr().err


def test_a_pattern_stands_for_its_files(photo, tmp_path, capsys):
    shutil.copy(photo, photo.with_name("other[1].png"))
    assert _run("detect", photo.parent / "*.png") == cli.DONE
    assert "2 done, 0 failed" in capsys.readouterr().out
    assert _run("detect", photo.with_name("other[1].png")) == cli.DONE, "a file of that very name"
    assert _run("detect", photo.parent / "*.tif") == cli.SOME_FAILED


def test_other_angles_come_beside_the_upright_one(photo, tmp_path, monkeypatch):
    seen = []
    detect = FakeDetector.detect

    def watched(self, images, **options):
        seen.append(options["angles"])
        return detect(self, images, **options)

    monkeypatch.setattr(FakeDetector, "detect", watched)
    assert _run("detect", photo, "--angles", "180", "90") == cli.DONE
    assert _run("restore", photo, "-o", tmp_path / "out", "--angles", "270") == cli.DONE
    assert seen == [[0, 90, 180], [0, 270]]


def test_without_a_face_a_file_of_the_same_format_is_copied_whatever_its_ending(tmp_path):
    small = _write(tmp_path / "in" / "small.jpg", np.zeros((32, 32, 3), np.uint8))
    assert _run("restore", small, "-o", tmp_path / "copy.JPEG") == cli.DONE
    assert (tmp_path / "copy.JPEG").read_bytes() == small.read_bytes()


def test_a_reader_that_has_ended_is_no_crash(tmp_path):
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    process = subprocess.Popen(
        [sys.executable, "-m", "posefr", "info"],
        cwd=ROOT,
        env=buffered,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == cli.NOBODY_READS


@pytest.mark.parametrize("option", [("--strength", "1.5"), ("--fidelity", "x"), ("--mask", "star"), ("--size", "-1")])
def test_an_option_out_of_range_is_wrong_usage(photo, option, capsys):
    with pytest.raises(SystemExit) as stopped:
        _run("restore", photo, "-o", "out", *option)
    assert stopped.value.code == cli.USAGE
    assert option[0] in capsys.readouterr().err


def test_info_tells_what_there_is_and_what_it_costs(tmp_path):
    command = [sys.executable, "-m", "posefr", "info", "--models", str(tmp_path)]
    (tmp_path / "mine.pth").write_bytes(b"")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == cli.DONE, done.stderr
    assert "restorers: posefr-256 mine.pth" in done.stdout
    assert re.search(
        r"^posefr-256: [\d,]+ parameters, \d\.\d\d GMACs a face of 256 px, alignment ffhq$", done.stdout, re.M
    )
    done = subprocess.run([*command, "--restorer", "mine.pth"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != cli.DONE
    assert "mine.pth cannot be read as weights" in done.stderr


def test_the_choices_are_the_librarys():
    assert set(cli.ORDERS) == set(ORDERS)
    assert set(cli.MASKS) == set(MASK_SHAPES)
    assert set(cli.COLOR_MATCHES) == set(COLOR_MATCHES)


def test_weights_are_looked_up_where_comfyui_keeps_them(photo, tmp_path, models, capsys):
    library = tmp_path / "models"
    (library / "facedetection").mkdir(parents=True)
    (library / "facerestore_models").mkdir()
    given = ("--models", library, "--detector", "resnet50", "--restorer", "GFPGANv1.4.pth")
    assert _run("restore", photo, "-o", tmp_path / "out", *given) == cli.DONE
    assert models["detector"]["name"] == "resnet50"
    assert models["detector"]["folders"] == [library / "facedetection"]
    assert models["restorer"]["name"] == "GFPGANv1.4.pth"
    assert models["restorer"]["folders"] == [library / "facerestore_models"]
    plain = tmp_path / "plain"
    assert _run("restore", photo, "-o", tmp_path / "out", "--models", plain) == cli.USAGE
    assert "There is no folder" in capsys.readouterr().err
    plain.mkdir()
    assert _run("restore", photo, "-o", tmp_path / "out", "--models", plain) == cli.DONE
    assert models["detector"]["folders"] == models["restorer"]["folders"] == [plain]
    fresh = tmp_path / "fresh"
    (fresh / "checkpoints").mkdir(parents=True)
    assert _run("restore", photo, "-o", tmp_path / "out", "--models", fresh) == cli.DONE
    assert models["detector"]["folders"] == [fresh / "facedetection"]
    assert models["restorer"]["folders"] == [fresh / "posefr"]


def test_the_report_tells_settings_and_faces(photo, tmp_path):
    assert _run("restore", photo, "-o", tmp_path / "o", "--seed", 3, "--report", tmp_path / "r.json") == cli.DONE
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["posefr"] == posefr.__version__
    assert report["settings"]["seed"] == 3
    (image,) = report["images"]
    assert image["input"] == str(photo)
    assert image["output"] == str(tmp_path / "o" / "photo.png")
    assert [f["box"] for f in image["faces"]] == [[68, 16, 92, 40], [4, 20, 20, 36]]
    assert image["faces"][0]["index"] == 0
    assert image["seconds"] >= 0


def test_the_report_is_written_where_the_user_stops(photo, tmp_path, monkeypatch):
    shutil.copy(photo, photo.with_name("second.png"))
    read = cli.read_picture

    def stop_at_the_second(path):
        if path.name == "second.png":
            raise KeyboardInterrupt
        return read(path)

    monkeypatch.setattr(cli, "read_picture", stop_at_the_second)
    _run("restore", photo, photo.with_name("second.png"), "-o", tmp_path / "o", "--report", tmp_path / "r.json")
    (image,) = json.loads((tmp_path / "r.json").read_text())["images"]
    assert image["status"] == "restored"


def test_a_face_keeps_its_number_where_others_are_left_out(photo, tmp_path, capsys):
    assert _run("detect", photo, "-o", tmp_path / "seen", "--only", 1) == cli.DONE
    assert "1 of 2 faces listed\n  1: 16 x 16 px at 4, 20" in capsys.readouterr().out
    assert _run("restore", photo, "-o", tmp_path / "o", "--only", 1, "--report", tmp_path / "r.json") == cli.DONE
    (face,) = json.loads((tmp_path / "r.json").read_text())["images"][0]["faces"]
    assert (face["index"], face["box"]) == (1, [4, 20, 20, 36])


def test_detect_lists_faces_and_draws_them(photo, tmp_path, capsys):
    assert _run("detect", photo, "-o", tmp_path / "seen", "--report", tmp_path / "r.json") == cli.DONE
    said = capsys.readouterr().out
    assert "photo.png: 2 faces\n  0: 24 x 24 px at 68, 16, score 0.80, yaw unknown\n  1: 16 x 16 px at 4, 20" in said
    drawn, given = (read_picture(p).pixels for p in (tmp_path / "seen" / "photo.png", photo))
    assert (drawn[16, 70:90] != given[16, 70:90]).any(1).all(), "the upper edge of the larger face's box"
    np.testing.assert_array_equal(drawn[50:], given[50:])
    assert json.loads((tmp_path / "r.json").read_text())["images"][0]["status"] == "detected"


def test_detect_writes_no_image_unasked(photo):
    before = sorted(photo.parent.iterdir())
    assert _run("detect", photo) == cli.DONE
    assert sorted(photo.parent.iterdir()) == before


def test_the_module_runs_as_the_command_does():
    done = subprocess.run(
        [sys.executable, "-m", "posefr", "--version"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"posefr {posefr.__version__}"


def test_an_interruption_is_told_by_the_exit_status(photo, tmp_path, monkeypatch, capsys):
    def detect(self, images, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(FakeDetector, "detect", detect)
    assert _run("restore", photo, "-o", tmp_path / "out") == cli.INTERRUPTED
    assert "interrupted" in capsys.readouterr().err


@pytest.fixture
def clip(tmp_path) -> Path:
    """A grey-brown video of 12 frames of 96 x 64 px."""
    pytest.importorskip("av")
    path = tmp_path / "in" / "clip.mp4"
    path.parent.mkdir(exist_ok=True)
    photos.write_clip(path, np.full((12, 64, 96, 3), (120, 100, 80), np.uint8))
    return path


def _frames(path: Path) -> np.ndarray:
    from posefr.videofiles import VideoClip

    return (torch.cat(list(VideoClip(path).parts())).numpy() * 255).round().astype(int)


def test_a_video_is_restored_and_reported(clip, tmp_path, capsys):
    out = tmp_path / "new" / "out.mp4"
    arguments = ["--color-match", "none", "--fidelity", 0, "--quality", 1, "--report", tmp_path / "r.json"]
    assert _run("video", clip, "-o", out, *arguments) == cli.DONE
    assert "clip.mp4: 2 faces restored in 12 frames" in capsys.readouterr().out
    frames = _frames(out)
    assert frames.shape == (12, 64, 96, 3)
    assert (frames[:, 28, 80, 1] - frames[:, 28, 80, 0] > 100).all(), "the right face is restored"
    assert (frames[:, 28, 12, 1] - frames[:, 28, 12, 0] > 100).all(), "the left face too"
    assert (np.abs(frames[:, 5, 48] - (120, 100, 80)) < 6).all(), "what lies between them looks the same"
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["frames"], report["count"], report["tracks"]) == (12, 24, [0, 1])
    assert _run("video", clip, "-o", out, "--only", 0) == cli.DONE
    assert "1 face restored in 12 frames" in capsys.readouterr().out


def test_a_video_without_a_face_or_that_cannot_be_written_leaves_nothing(clip, photo, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(FakeDetector, "detect", lambda self, images, **_: posefr.Faces.empty((64, 96), len(images)))
    assert _run("video", clip, "-o", tmp_path / "out.mp4") == cli.DONE
    assert "no face in 12 frames, nothing was written" in capsys.readouterr().out
    for output, said in (("out.gif", "expected a name ending in .mp4"), (clip, "is the input too")):
        assert _run("video", clip, "-o", tmp_path / output) == cli.USAGE
        assert said in capsys.readouterr().err
    assert _run("video", photo, "-o", tmp_path / "out.mp4", "--only", "x") == cli.USAGE
    assert not list(tmp_path.glob("out*"))
