"""The sheets of the degradation."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from posefr.training.__main__ import main
from posefr.training.degradation import SEVERITIES, degrade
from posefr.training.preview import NOTHING, PARTS, draws_sheet, parts_sheet


@pytest.fixture
def face() -> np.ndarray:
    coarse = np.random.default_rng(0).integers(40, 215, (16, 16, 3), dtype=np.uint8)
    return cv2.resize(coarse, (64, 64), interpolation=cv2.INTER_CUBIC)


def test_every_part_changes_the_face_and_more_so_the_stronger_it_is(face):
    assert np.array_equal(degrade(face, NOTHING), face)
    for name, steps in PARTS.items():
        errors = [np.abs(degrade(face, how).astype(int) - face).mean() for how in steps]
        assert errors == sorted(errors), name
        assert errors[-1] > 0.5, name


def test_every_field_of_a_degradation_has_its_part():
    changed = set()
    for steps in PARTS.values():
        for how in steps:
            changed |= {name for name in vars(how) if getattr(how, name) != getattr(NOTHING, name)}
    fixed = {"angle", "interpolation", "seed"}  # how the others are done
    assert changed >= set(vars(NOTHING)) - fixed


def test_sheets_hold_all_parts_and_all_severities(face):
    parts = parts_sheet(face)
    rows = (len(PARTS) + 2) // 2
    assert parts.shape == (rows * 84, 6 * 64, 3)
    draws = draws_sheet(np.stack([face, face[:, ::-1]]), 3, seed=0)
    assert draws.shape == ((len(SEVERITIES) + 1) * 84, 3 * 64, 3)
    assert np.array_equal(draws[20:84, :64], face)
    assert np.array_equal(draws, draws_sheet(np.stack([face, face[:, ::-1]]), 3, seed=0))
    assert not np.array_equal(draws, draws_sheet(np.stack([face, face[:, ::-1]]), 3, seed=1))


def test_the_command_draws_both(tmp_path, face, capsys):
    photo = cv2.resize(face, (200, 200))
    cv2.imwrite(str(tmp_path / "a.png"), photo)
    points = "80,95,120,95,100,115,85,135,115,135"
    names = ",".join(f"{p}_{a}" for p in ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth") for a in "xy")
    (tmp_path / "manifest.csv").write_text(f"file,{names}\na.png,{points}\n")
    out = tmp_path / "sheets"
    assert main(["preview", "--faces", str(tmp_path), "--out", str(out), "--size", "64", "--draws", "2"]) == 0
    assert cv2.imread(str(out / "parts.png")).shape[1] == 6 * 64
    assert cv2.imread(str(out / "draws.png")).shape[1] == 2 * 64
    assert str(out / "draws.png") in capsys.readouterr().out
