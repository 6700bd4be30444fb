"""The fuzzer itself: its cases are repeatable, it notices what goes wrong, and a few of them pass."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import fuzz
import numpy as np
import pytest

from posefr.errors import PoseFRError

ROOT = Path(__file__).resolve().parents[1]


def test_the_same_seed_does_the_same_damage():
    data = bytes(range(256)) * 20
    first, again, other = (fuzz.damaged(data, np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert first == again
    assert first not in (data, other)


def test_a_refusal_has_to_be_short_and_to_name_the_file():
    path = Path("given.png")
    assert fuzz._told(PoseFRError("given.png is damaged."), path) == "refused"
    for said in ("given.png\nis damaged.", "It is damaged.", "given.png " + "x" * 1000):
        with pytest.raises(AssertionError):
            fuzz._told(PoseFRError(said), path)


def test_what_is_left_behind_is_noticed(tmp_path):
    (tmp_path / "whole.png").touch()
    fuzz._only(tmp_path, {"whole.png"})
    (tmp_path / ".posefr-half.part").touch()
    with pytest.raises(AssertionError, match="left behind"):
        fuzz._only(tmp_path, {"whole.png"})


def test_a_case_that_ends_its_process_is_told_and_the_next_ones_run(monkeypatch, tmp_path):
    """Against a stand-in for the interpreter, whose second case ends as a crash does."""
    script = tmp_path / "python"
    script.write_text(
        "#!/bin/sh\n"
        "for last; do :; done; number=${last#*:}; number=${number%%:*}; end=3\n"
        'while [ "$number" -lt "$end" ]; do echo begin $number; [ "$number" = 1 ] && kill -SEGV $$\n'
        "echo end ok read; number=$((number + 1)); done\n"
    )
    script.chmod(0o755)
    monkeypatch.setattr(fuzz.sys, "executable", str(script))
    ended, failures = fuzz.watch("image", 0, 0, 3)
    assert ended == {"read": 2, "failed": 1}
    (failure,) = failures
    assert failure.startswith("image:1: ended the process (status -11)")


def test_some_cases_pass():
    command = [sys.executable, "-m", "tests.fuzz", "--cases", "40", "--seed", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "image: 20 cases" in done.stdout
    assert "checkpoint: 20 cases" in done.stdout
