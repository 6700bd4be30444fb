"""The command line with what is bundled, on a real photo: scikit-image's astronaut."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from skimage import data

from posefr import cli
from posefr.demo import make_worse
from posefr.imagefiles import Picture, read_picture, write_picture

# Eyes, nose and mouth corners of the astronaut, px, read off the photo.
LANDMARKS = np.array([[203, 101], [247, 103], [224, 127], [203, 140], [244, 141]])


@pytest.fixture(scope="module")
def astronaut() -> Picture:
    return Picture(data.astronaut())


def test_the_demo_restores_the_astronaut(tmp_path, astronaut, capsys):
    assert cli.main(["demo", "-o", str(tmp_path / "demo")]) == cli.DONE
    said = capsys.readouterr().out
    assert re.search(r"^[1-9]\d* faces? restored", said, re.MULTILINE)
    names = {"astronaut-restored.png", "astronaut-input.png", "astronaut-before-after.png"}
    assert {p.name for p in (tmp_path / "demo").iterdir()} == names
    assert all(str(tmp_path / "demo" / name) in said for name in names)
    original, before, after = (
        p.pixels[85:165, 190:262].astype(float)
        for p in (
            astronaut,
            read_picture(tmp_path / "demo" / "astronaut-input.png"),
            read_picture(tmp_path / "demo" / "astronaut-restored.png"),
        )
    )
    assert ((after - original) ** 2).mean() < ((before - original) ** 2).mean(), "nearer to the original than the input"


def test_the_demo_restores_a_named_photo_as_it_is(tmp_path, astronaut):
    photo = tmp_path / "a photo.png"
    write_picture(photo, make_worse(astronaut))
    assert cli.main(["demo", str(photo), "-o", str(tmp_path / "demo")]) == cli.DONE
    assert {p.name for p in (tmp_path / "demo").iterdir()} == {"a photo-restored.png", "a photo-before-after.png"}


def test_the_demo_says_when_there_is_no_face(tmp_path, capsys):
    write_picture(tmp_path / "wall.png", Picture(np.full((80, 80, 3), 128, np.uint8)))
    assert cli.main(["demo", str(tmp_path / "wall.png"), "-o", str(tmp_path / "demo")]) == cli.SOME_FAILED
    assert "No face was found" in capsys.readouterr().out
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tiff", ".bmp"])
def test_detect_finds_the_face_in_every_format(tmp_path, astronaut, suffix):
    write_picture(tmp_path / f"a{suffix}", astronaut)
    report = tmp_path / "report.json"
    assert cli.main(["detect", str(tmp_path / f"a{suffix}"), "--report", str(report)]) == cli.DONE
    (face,) = json.loads(report.read_text())["images"][0]["faces"]
    assert np.abs(np.array(face["landmarks"]) - LANDMARKS).max() < 8
    assert abs(face["yaw"]) < 20


def test_restore_changes_the_face_and_nothing_else(tmp_path, astronaut):
    write_picture(tmp_path / "a.png", make_worse(astronaut))
    assert cli.main(["restore", str(tmp_path / "a.png"), "-o", str(tmp_path / "out")]) == cli.DONE
    before, after = (read_picture(p).pixels for p in (tmp_path / "a.png", tmp_path / "out" / "a.png"))
    changed = (before != after).any(2)
    assert changed[95:155, 200:250].mean() > 0.5
    assert not changed[300:].any()
    assert not changed[:, 400:].any()


def test_info_names_what_is_bundled(capsys):
    assert cli.main(["info", "--device", "cpu"]) == cli.DONE
    said = capsys.readouterr().out
    assert "device: cpu" in said
    assert "detectors: bundled mobile0.25 resnet50" in said
    assert "restorers: posefr-256" in said
    weights = Path(cli.__file__).parent / "weights"
    for path in weights.glob("*.safetensors"):
        assert f"{path.name}, {path.stat().st_size} bytes" in said
