"""Evaluation of restorers: measures, clean faces, real photos, and the files that are written."""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
from fakes import FakeDetector
from networks import SMALL, awake

from posefr.evaluation import photos, restore
from posefr.evaluation.__main__ import main
from posefr.evaluation.metrics import detail_ratio, grid_share, landmark_error, pattern_height, psnr, ssim
from posefr.evaluation.options import add_input
from posefr.restoration.checkpoint import save_network
from posefr.restoration.network import PoseFRNet


def picture(seed: int, size: int = 96) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(40, 215, (12, 12, 3), dtype=np.uint8)
    return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def detector(monkeypatch) -> FakeDetector:
    fake = FakeDetector()
    for module in (restore, photos):
        monkeypatch.setattr(module, "load_detector", lambda name: fake)
    return fake


def test_measures_are_right_on_known_errors():
    truth = picture(0)
    shifted = np.clip(truth.astype(int) + 10, 0, 255).astype(np.uint8)
    assert psnr(shifted, truth) == pytest.approx(20 * np.log10(255 / 10), abs=0.1)
    assert psnr(truth, truth) == 100
    assert ssim(truth, truth) == pytest.approx(1)
    noise = np.random.default_rng(1).integers(0, 255, truth.shape, dtype=np.uint8)
    assert detail_ratio(noise, noise) == pytest.approx(1)
    assert detail_ratio(cv2.GaussianBlur(noise, (0, 0), 2), noise) < 0.1
    points = np.array([[30, 40], [60, 40], [45, 55], [35, 70], [55, 70]], np.float32)
    assert landmark_error(points + np.array((3, 0), np.float32), points) == pytest.approx(0.1)


def test_restorers_are_compared_and_clean_faces_get_rows_of_their_own(tmp_path, detector, capsys):
    faces = tmp_path / "faces"
    faces.mkdir()
    for seed in range(2):
        cv2.imwrite(str(faces / f"{seed}.png"), picture(seed))
    (faces / "manifest.csv").write_text("file,yaw\n0.png,3\n1.png,-40\n")
    models = tmp_path / "models"
    models.mkdir()
    save_network(PoseFRNet(SMALL), models / "same.safetensors", {})
    save_network(awake(PoseFRNet(SMALL)), models / "own.safetensors", {})
    (models / "broken.safetensors").write_bytes(b"nothing")
    table, sheet = tmp_path / "out" / "rows.csv", tmp_path / "out" / "sheet.png"
    status = main(["restore", "--faces", str(faces), "--models", str(models), "--size", "64", "--fidelity", "1",
                   "--reference", str(tmp_path), "--csv", str(table), "--sheet", str(sheet)])  # fmt: skip
    assert status == 0
    printed = capsys.readouterr().out
    assert "left out: broken.safetensors" in printed
    assert "the floor is 32 dB" in printed
    with table.open() as file:
        rows = list(csv.DictReader(file))
    methods = {row["method"] for row in rows}
    assert {"degraded (bicubic)", "Lanczos", "denoise + unsharp", "same f=1", "own f=1", "posefr-256 f=1"} <= methods
    clean = {row["method"]: float(row["psnr"]) for row in rows if row["severity"] == "clean"}
    assert clean["same f=1"] > 50
    assert clean["own f=1"] < 32
    # The bundled weights, too, may fail such a picture, which is no photo.
    low = {row["method"] for row in rows if row["severity"] == "clean" and float(row["psnr"]) < 32}
    assert {line[:28].strip() for line in printed.splitlines() if line.endswith("below the floor")} == low
    assert {"own f=1"} <= low <= {"own f=1", "posefr-256 f=1"}
    by_severity = [
        np.mean([float(row["psnr"]) for row in rows if (row["method"], row["severity"]) == ("same f=1", severity)])
        for severity in ("mild", "medium", "severe")
    ]
    assert by_severity == sorted(by_severity, reverse=True)
    gain = next(line for line in printed.split("PSNR gain")[1].splitlines() if line.startswith("same f=1"))
    assert [abs(float(cell)) for cell in gain.split()[2:]] == pytest.approx([0, 0, 0], abs=0.05)
    assert cv2.imread(str(sheet)).shape[1] == 160 * (3 * 4 + 1)


def test_restorers_of_one_name_have_rows_of_their_own_and_bad_input_is_told(tmp_path, detector, capsys):
    faces = tmp_path / "faces"
    faces.mkdir()
    cv2.imwrite(str(faces / "a.jpeg"), picture(0))
    (faces / "manifest.csv").write_text("file\na.jpeg\n")
    (faces / "._a.jpeg").write_bytes(b"hidden")
    weights = [tmp_path / name / "network.safetensors" for name in ("first", "second")]
    for path, network in zip(weights, (PoseFRNet(SMALL), awake(PoseFRNet(SMALL))), strict=True):
        path.parent.mkdir()
        save_network(network, path, {})
    options = ["restore", "--faces", str(faces), "--size", "64", "--reference", str(tmp_path)]
    options += [part for path in weights for part in ("--restorer", str(path))]
    assert main([*options, "--fidelity", "1", "--csv", str(tmp_path / "rows.csv")]) == 0
    with (tmp_path / "rows.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["method"].endswith("f=1")]
    assert {row["method"] for row in rows} == {f"{path} f=1" for path in weights}
    assert len(rows) == 2 * 4, "three severities and the clean face"
    capsys.readouterr()
    assert main([*options, "--fidelity", "2"]) == 1
    assert "error: " in capsys.readouterr().err


def test_photos_without_a_truth_are_measured_against_themselves(tmp_path, detector, capsys):
    for group in ("aligned_lq", "whole_lq"):
        (tmp_path / group).mkdir()
        cv2.imwrite(str(tmp_path / group / "a.png"), picture(len(group), 128))
    (tmp_path / "whole_lq" / "broken.png").write_bytes(b"nothing")
    save_network(PoseFRNet(SMALL), tmp_path / "same.safetensors", {})
    table, sheet = tmp_path / "rows.csv", tmp_path / "sheet.png"
    options = ["photos", "--photos", str(tmp_path), "--restorer", str(tmp_path / "same.safetensors"), "--size", "64",
               "--fidelity", "1", "--reference", str(tmp_path), "--csv", str(table), "--sheet", str(sheet)]  # fmt: skip
    assert main(options) == 0
    printed = capsys.readouterr().out
    assert "aligned_lq, 1 faces of 128 to 128 px" in printed
    assert "whole_lq, 2 faces of" in printed
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["face"] for row in rows] == ["a.png", "a.png 1", "a.png 0"], "the larger face comes first"
    assert all(float(row["detail"]) == pytest.approx(1, abs=0.05) for row in rows)
    assert all(float(row["colour"]) < 0.1 for row in rows)
    assert cv2.imread(str(sheet)).shape[1] == 3 * 2 * 192
    assert main([*options, "--photos", str(tmp_path / "whole_lq")]) == 0
    assert "whole_lq, 2 faces of" in capsys.readouterr().out


def test_faces_of_a_photo_are_cut_out_with_their_landmarks(tmp_path, detector):
    folder = tmp_path / "whole_lq"
    folder.mkdir()
    cv2.imwrite(str(folder / "a.png"), picture(0, 128))
    small, large = photos.find_faces(folder, 64, detector)
    assert small.image.shape == large.image.shape == (64, 64, 3)
    assert large.side == pytest.approx(1.5 * small.side)
    eyes = small.landmarks[:2].mean(0)
    assert eyes[0] == pytest.approx(32, abs=0.01)
    assert 0 < eyes[1] < 32


def test_a_grid_is_told_from_a_photo():
    photo = cv2.resize(skimage.data.astronaut(), (256, 256), interpolation=cv2.INTER_AREA)
    assert grid_share(photo) < 0.15
    cell = np.random.default_rng(0).normal(0, 6, (4, 4, 3))
    painted = np.clip(cv2.GaussianBlur(photo, (0, 0), 2) + np.tile(cell, (64, 64, 1)), 0, 255).astype(np.uint8)
    assert grid_share(painted) > 1


def test_a_weave_is_told_from_a_photo():
    photo = cv2.resize(skimage.data.astronaut(), (256, 256), interpolation=cv2.INTER_AREA)
    rows, columns = np.mgrid[:256, :256]
    weave = 4 * np.sin(2 * np.pi * (15 * rows + 7 * columns) / 32)
    woven = np.clip(cv2.GaussianBlur(photo, (0, 0), 2) + weave[..., None], 0, 255).astype(np.uint8)
    assert pattern_height(photo) < 1.5
    assert pattern_height(cv2.GaussianBlur(photo, (0, 0), 2)) < 1.5
    assert pattern_height(woven) > 3


def test_a_colour_shift_and_lost_detail_are_seen():
    noise = np.random.default_rng(1).integers(50, 200, (64, 64, 3), dtype=np.uint8)
    face = photos.Face("whole_lq", "a", noise, None, 64.0)
    redder = noise.copy()
    redder[..., 0] += 20
    assert photos.measure(redder, face, None)["colour"] == pytest.approx(20)
    figures = photos.measure(cv2.GaussianBlur(noise, (0, 0), 2), face, None)
    assert figures["detail"] < 0.1
    assert np.isnan(figures["identity"])


def test_a_folder_without_faces_is_told_in_one_line(tmp_path, detector, capsys):
    assert main(["photos", "--photos", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith(f"error: No face was found in {tmp_path}")
    assert main(["restore", "--faces", str(tmp_path)]) == 1
    assert "There are no face pictures" in capsys.readouterr().err


def test_faces_that_are_not_square_or_have_no_yaw_and_folders_that_are_not_there_are_told(tmp_path, detector, capsys):
    cv2.imwrite(str(tmp_path / "wide.png"), picture(0)[:64])
    assert main(["restore", "--faces", str(tmp_path), "--restorer", "posefr-256"]) == 1
    assert "wide.png has 96 x 64 px; expected square crops" in capsys.readouterr().err
    cv2.imwrite(str(tmp_path / "wide.png"), picture(0))
    (tmp_path / "manifest.csv").write_text("file,yaw\nwide.png,left\n")
    assert main(["restore", "--faces", str(tmp_path), "--restorer", "posefr-256"]) == 1
    assert "has a yaw that is no number" in capsys.readouterr().err
    (tmp_path / "manifest.csv").unlink()
    assert main(["restore", "--faces", str(tmp_path), "--models", str(tmp_path / "typo"), "--limit", "1"]) == 1
    assert "typo; give --models one that exists" in capsys.readouterr().err


def test_a_small_face_grows_smoothly_and_a_large_one_shrinks_by_means():
    small = picture(0, 32)
    smooth = cv2.resize(small, (64, 64), interpolation=cv2.INTER_CUBIC)
    assert np.array_equal(restore.resized(small, 64), smooth)
    assert np.array_equal(restore.resized(small.repeat(2, 0).repeat(2, 1), 32), small)


def test_a_size_that_the_measures_cannot_take_is_told(capsys):
    with pytest.raises(SystemExit):
        main(["restore", "--faces", "any", "--size", "100"])
    assert "100 is no multiple of 8 from 32 up" in capsys.readouterr().err


def test_rows_are_written_in_utf8(tmp_path):
    restore.write_csv(tmp_path / "new" / "rows.csv", [{"face": "顔"}])
    assert (tmp_path / "new" / "rows.csv").read_text(encoding="utf-8").split() == ["face", "顔"]


def test_an_input_has_a_default_only_where_it_is_there(tmp_path, capsys):
    there, absent = argparse.ArgumentParser(), argparse.ArgumentParser()
    add_input(there, "--faces", tmp_path, "faces")
    add_input(absent, "--faces", tmp_path / "none", "faces")
    assert there.parse_args([]).faces == tmp_path
    assert absent.parse_args(["--faces", "mine"]).faces == Path("mine")
    with pytest.raises(SystemExit):
        absent.parse_args([])
    assert "required: --faces" in capsys.readouterr().err
    assert "none" not in absent.format_help()
