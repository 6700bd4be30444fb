"""The example workflows fit the nodes as they are: a changed widget or socket must not leave an example behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "example_workflows"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))


def read(name: str) -> dict:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def test_there_is_one_for_each_way_to_begin():
    assert {"restore_faces_one_node", "restore_faces_step_by_step"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_names_and_thumbnails_are_what_the_template_browser_shows(name):
    assert " " not in name
    assert (FOLDER / f"{name}.jpg").read_bytes().startswith(b"\xff\xd8")


@pytest.mark.parametrize("name", NAMES)
def test_links_join_sockets_of_one_type(name):
    workflow = read(name)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for link, source, output, target, taken, kind in workflow["links"]:
        assert link in nodes[source]["outputs"][output]["links"]
        assert nodes[target]["inputs"][taken]["link"] == link
        assert nodes[source]["outputs"][output]["type"] == nodes[target]["inputs"][taken]["type"] == kind


@pytest.mark.parametrize("name", NAMES)
def test_every_example_loads_the_picture_that_comes_with_the_host(name):
    loaders = [node for node in read(name)["nodes"] if node["type"] == "LoadImage"]
    assert [node["widgets_values"][0] for node in loaders] == ["example.png"]
