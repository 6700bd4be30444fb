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
    assert {"restore_faces_one_node", "restore_faces_step_by_step", "choose_faces_by_index"} <= set(NAMES)
    assert {"restore_small_faces_after_sampler", "sampler_on_face_crops", "restore_faces_in_video"} <= set(NAMES)


def test_every_node_is_in_one():
    used = {node["type"] for name in NAMES for node in read(name)["nodes"]}
    assert set(json.loads((FOLDER.parent / "node_list.json").read_text(encoding="utf-8"))) <= used


@pytest.mark.parametrize("name", NAMES)
def test_names_and_thumbnails_are_what_the_template_browser_shows(name):
    assert " " not in name
    assert (FOLDER / f"{name}.jpg").read_bytes().startswith(b"\xff\xd8")


@pytest.mark.parametrize("name", NAMES)
def test_links_join_sockets_that_fit(name):
    workflow = read(name)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for link, source, output, target, taken, kind in workflow["links"]:
        assert link in nodes[source]["outputs"][output]["links"]
        assert nodes[target]["inputs"][taken]["link"] == link
        assert nodes[source]["outputs"][output]["type"] == kind
        assert kind in nodes[target]["inputs"][taken]["type"].split(",")  # a socket may take several types


@pytest.mark.parametrize("name", NAMES)
def test_pictures_to_load_are_the_one_that_comes_with_the_host(name):
    loaders = [node for node in read(name)["nodes"] if node["type"] == "LoadImage"]
    assert [node["widgets_values"][0] for node in loaders] == ["example.png"] * len(loaders)


@pytest.mark.parametrize("name", NAMES)
def test_every_example_says_how_to_use_it(name):
    assert [node["title"] for node in read(name)["nodes"] if node["type"] == "MarkdownNote"] == ["How to use this"]


BLUEPRINTS = sorted((FOLDER.parent / "subgraphs").glob("*.json"))


@pytest.mark.parametrize("path", BLUEPRINTS, ids=lambda path: path.stem)
def test_a_blueprint_is_one_node_whose_inside_is_wired(path):
    saved = json.loads(path.read_text(encoding="utf-8"))
    (outer,), (inside,) = saved["nodes"], saved["definitions"]["subgraphs"]
    assert outer["type"] == inside["id"]
    assert outer["title"] == inside["name"] == path.stem
    assert [i["name"] for i in outer["inputs"]] == [i["name"] for i in inside["inputs"]]
    nodes = {node["id"]: node for node in inside["nodes"]}
    for link in inside["links"]:
        source, target = link["origin_id"], link["target_id"]
        if source == -10:
            assert link["id"] in inside["inputs"][link["origin_slot"]]["linkIds"]
        else:
            assert nodes[source]["outputs"][link["origin_slot"]]["type"] == link["type"]
            assert link["id"] in nodes[source]["outputs"][link["origin_slot"]]["links"]
        if target == -20:
            assert link["id"] in inside["outputs"][link["target_slot"]]["linkIds"]
        else:
            assert nodes[target]["inputs"][link["target_slot"]]["link"] == link["id"]
            assert link["type"] in nodes[target]["inputs"][link["target_slot"]]["type"].split(",")


def test_there_is_a_blueprint():
    assert BLUEPRINTS
