"""Pose from landmarks: exact on a turned mean face, close to a pose network on photos."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest
import torch

from posefr.errors import PoseFRError
from posefr.pose import MEAN_FACE, estimate_pose

SHARED = Path(os.environ.get("POSEFR_SHARED") or Path(__file__).resolve().parents[2] / "shared")


def turned(yaw: float, pitch: float, roll: float, scale: float = 40.0) -> torch.Tensor:
    """[1, 5, 2]: the mean face's shadow after turning by yaw, then pitch (up), then roll (clockwise)."""
    a, b, c = torch.deg2rad(torch.tensor([yaw, -pitch, roll], dtype=torch.float64))
    one, nil = torch.ones_like(a), torch.zeros_like(a)
    by_yaw = torch.stack([a.cos(), nil, a.sin(), nil, one, nil, -a.sin(), nil, a.cos()]).view(3, 3)
    by_pitch = torch.stack([one, nil, nil, nil, b.cos(), -b.sin(), nil, b.sin(), b.cos()]).view(3, 3)
    by_roll = torch.stack([c.cos(), -c.sin(), nil, c.sin(), c.cos(), nil, nil, nil, one]).view(3, 3)
    face = torch.tensor(MEAN_FACE, dtype=torch.float64) @ (by_roll @ by_pitch @ by_yaw).T
    return (face[None, :, :2] * scale + 300).float()


@pytest.mark.parametrize("roll", [-170, -90, -20, 0, 45, 180])
@pytest.mark.parametrize("pitch", [-35, 0, 25])
@pytest.mark.parametrize("yaw", [-85, -40, 0, 10, 60])
def test_recovers_a_turned_mean_face(yaw: float, pitch: float, roll: float) -> None:
    found = estimate_pose(turned(yaw, pitch, roll))[0]
    difference = (found - torch.tensor([yaw, pitch, roll]) + 180) % 360 - 180
    assert difference.abs().max() < 0.1


def test_does_not_depend_on_position_scale_or_company() -> None:
    small, large = turned(30, 10, 5, scale=3.0), turned(30, 10, 5, scale=900.0) + 5000
    alone = estimate_pose(small)
    together = estimate_pose(torch.cat([large, turned(-50, 0, 0), small]))
    assert (together[[0, 2]] - alone).abs().max() < 0.05


def test_signs_on_a_picture() -> None:
    face = torch.tensor([[[100.0, 100], [140, 100], [120, 122], [105, 140], [135, 140]]])
    nose = torch.zeros_like(face)
    nose[0, 2] = 1
    assert estimate_pose(face - 8 * nose * torch.tensor([1.0, 0]))[0, 0] > 10  # nose to the left: yaw above 0
    frontal = estimate_pose(face)[0]
    assert frontal[[0, 2]].abs().max() < 0.5
    assert estimate_pose(face - 8 * nose * torch.tensor([0.0, 1]))[0, 1] > frontal[1] + 5  # nose up: pitch rises
    lean = face.clone()
    lean[0, [1, 4], 1] += 10  # the right of the picture sinks: clockwise
    assert estimate_pose(lean)[0, 2] > 5


def test_unusable_landmarks_give_nan_and_leave_the_others_alone() -> None:
    good = turned(20, 0, 0)
    broken = good.clone()
    broken[0, 2, 0] = float("nan")
    infinite = good.clone()
    infinite[0, 0, 1] = float("inf")
    point = torch.full((1, 5, 2), 7.0)
    pose = estimate_pose(torch.cat([good, broken, infinite, point, good]))
    assert torch.isnan(pose[1:4]).all()
    assert (pose[[0, 4]] - torch.tensor([20.0, 0, 0])).abs().max() < 0.1


def test_no_faces() -> None:
    assert estimate_pose(torch.zeros(0, 5, 2)).shape == (0, 3)


def test_wrong_shape_is_named() -> None:
    with pytest.raises(PoseFRError, match=r"\[3, 68, 2\]"):
        estimate_pose(torch.zeros(3, 68, 2))


def test_agrees_with_a_pose_network_on_photos() -> None:
    manifest = SHARED / "data" / "faces" / "manifest.csv"
    if not manifest.is_file():
        pytest.skip(f"{manifest} is not there: poses by FSA-Net are needed to compare with.")
    with manifest.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
    landmarks = torch.tensor([[[float(row[f"{name}_{axis}"]) for axis in "xy"] for name in names] for row in rows])
    truth = torch.tensor([[float(row[name]) for name in ("yaw", "pitch", "roll")] for row in rows])
    found = estimate_pose(landmarks)
    correlation = [float(torch.corrcoef(torch.stack([found[:, i], truth[:, i]]))[0, 1]) for i in range(3)]
    error = (found - truth).abs().mean(dim=0)
    assert all(got > floor for got, floor in zip(correlation, (0.95, 0.65, 0.85), strict=True)), correlation
    assert all(got < limit for got, limit in zip(error.tolist(), (3.5, 4.5, 2.5), strict=True)), error
