"""What is declared in several places says the same in all of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import posefr

ROOT = Path(__file__).resolve().parents[1]
BROUGHT_BY_COMFYUI = {"torch", "torchvision", "numpy", "pillow", "safetensors"}


@pytest.fixture(scope="module")
def project() -> dict:
    tomllib = pytest.importorskip("tomllib", reason="tomllib came with Python 3.11")
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def _name(requirement: str) -> str:
    return re.split(r"[<>=!~\[ ]", requirement)[0]


def test_the_versions_agree(project):
    assert project["project"]["version"] == posefr.__version__


def test_requirements_are_the_dependencies_less_what_comfyui_brings(project):
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    listed = {line for line in lines if line and not line.startswith("#")}
    assert listed == {d for d in project["project"]["dependencies"] if _name(d) not in BROUGHT_BY_COMFYUI}


def test_nothing_that_breaks_other_packs_is_required(project):
    extras = project["project"]["optional-dependencies"].values()
    names = {_name(d) for group in (project["project"]["dependencies"], *extras) for d in group}
    assert not names & {"basicsr", "gfpgan", "onnxruntime", "onnxruntime-gpu"}


def test_the_readmes_two_commands_are_what_ci_runs():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    first, second = re.findall(r"^    (.*(?:posefr demo|/pytest))$", readme, re.MULTILINE)
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert f"\n  {first}\n  {second}\n" in ci


def test_the_readme_names_every_node():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r'display_name="(.*) \(PoseFR\)"', (ROOT / "nodes.py").read_text(encoding="utf-8"))
    assert len(shown) > 5
    assert [name for name in shown if f"\n| {name} |" not in readme] == []


PAGES = [ROOT / "README.md", *sorted((ROOT / "web" / "docs").glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_pictures_and_pages_that_a_page_refers_to_are_there(path):
    referred = re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8"))
    assert [name for name in referred if "://" not in name and not (path.parent / name).is_file()] == []


@pytest.mark.parametrize("name", json.loads((ROOT / "node_list.json").read_text(encoding="utf-8")))
def test_every_help_page_has_a_picture(name):
    assert f"](images/{name}.jpg)" in (ROOT / "web" / "docs" / f"{name}.md").read_text(encoding="utf-8")


def test_pictures_stay_small():
    pictures = [path for kind in ("*.jpg", "*.png") for path in ROOT.glob(f"[dew]*/**/{kind}")]
    assert sum(path.stat().st_size for path in pictures) < 2.5e6


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.py")) + sorted((ROOT / "posefr").rglob("*.py")), ids=str)
def test_sources_can_be_read_under_a_western_windows_locale(path):
    path.read_bytes().decode("utf-8").encode("cp1252")


# What comfy-test's level "syntax" refuses (comfy_test/orchestration/levels/syntax.py, 0.4.15).
REFUSED = re.compile(
    r"(?<![\w.])(torch\.)?nn\.(Linear|Conv[123]d|ConvTranspose[12]d|LayerNorm|GroupNorm|Embedding)\s*\("
    r"|torch\.(cuda\.amp\.|amp\.)?autocast\s*\(|\.cuda\s*\(|\.to\s*\(\s*[\"']cuda"
)


@pytest.mark.parametrize("path", sorted((ROOT / "posefr").rglob("*.py")), ids=lambda path: path.name)
def test_sources_pass_the_registrys_syntax_check(path):
    """Layers and autocast are imported by their own names; memory is the host's patchers' business, not comfy.ops'."""
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if REFUSED.search(line) and not line.lstrip().startswith("#")] == []
