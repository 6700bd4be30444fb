"""The nodes without a host: wiring, notes, memory, interruption and what happens when something is wrong.

Networks are replaced by small ones whose answers are known; real weights run in tests/host and in the tests of the
layers. The pack is loaded by path under a name that no import statement could reach, as ComfyUI does it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import importlib.util
import inspect
import json
import re
import subprocess
import sys
import weakref
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import photos
import pytest
import torch
from torch.nn import Linear

ROOT = Path(__file__).resolve().parents[1]
STAND_IN = Path(__file__).resolve().parent / "comfy_stand_in"
HOST_MODULES = ["comfy.model_management", "comfy.model_patcher", "comfy.utils", "comfy_api.latest", "folder_paths"]
EYES_NOSE_MOUTH = torch.tensor([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])


@pytest.fixture(scope="module")
def pack():
    """The pack as ComfyUI loads it, beside the stand-in; `import posefr` fails, as where the pack is not installed."""
    with pytest.MonkeyPatch.context() as patch:
        before = set(sys.modules)
        patch.syspath_prepend(str(STAND_IN))
        for name in [*HOST_MODULES, "server"]:
            importlib.import_module(name)
        patch.setitem(sys.modules, "posefr", None)
        name = f"{ROOT}/custom_nodes/PoseFR.pack".replace(".", "_x_")
        spec = importlib.util.spec_from_file_location(
            name, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
        )
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        yield module
        for added in set(sys.modules) - before:
            if added.startswith((name, "comfy", "folder_paths", "server")):
                del sys.modules[added]


@pytest.fixture
def nodes(pack):
    return pack.nodes


@pytest.fixture
def comfy(pack):
    """The stand-in's modules, with nothing recorded."""
    management, utils, server = (sys.modules[name] for name in ("comfy.model_management", "comfy.utils", "server"))
    management.loads.clear()
    management.interrupted, management.emptied = False, 0
    utils.bars.clear()
    server.notes.clear()
    return SimpleNamespace(
        management=management, bars=utils.bars, notes=server.notes, folders=sys.modules["folder_paths"]
    )


class Detector:
    """Finds the squares it was told: (image, x0, y0, side)."""

    def __init__(self, nodes, name, squares):
        self.name, self.network, self.squares, self.nodes = name, Linear(1, 1), squares, nodes
        self.calls = []

    def detect(self, images, *, threshold=0.5, size=640, angles=(0,), tile=0, batch=8, on_chunk=None):
        self.calls.append(SimpleNamespace(batch=batch, threshold=threshold, size=size, angles=angles, tile=tile))
        on_chunk(len(images), len(images))
        if not self.squares:
            return self.nodes.Faces.empty(tuple(images.shape[1:3]), len(images))
        frame, corner, side = (torch.tensor([s[i] for s in self.squares]) for i in (0, slice(1, 3), 3))
        return self.nodes.Faces.make(
            frame=frame,
            box=torch.cat([corner, corner + side[:, None]], 1),
            landmarks=corner[:, None] + EYES_NOSE_MOUTH * side[:, None, None],
            score=torch.linspace(0.9, 0.6, len(frame)),
            image_size=tuple(images.shape[1:3]),
            frames=len(images),
        )


class Restorer:
    """Turns every face white; fails with `fits` or more faces at a time, as if memory ran out."""

    size, frame, bytes_per_pixel = 256, "ffhq", 1000

    def __init__(self, name, fits=99, error=torch.cuda.OutOfMemoryError):
        self.name, self.network, self.fits, self.error = name, Linear(1, 1), fits, error
        self.batches = []

    def restore(self, crops, *, fidelity=0.7, seed=0, batch=8, on_chunk=None, on_faces=None):
        done = []
        for chunk in crops.split(batch):
            self.batches.append(len(chunk))
            if len(chunk) > self.fits:
                raise self.error("out of memory")
            done.append(torch.ones(len(chunk), self.size, self.size, 3))
            on_faces(done[-1])
            on_chunk(sum(map(len, done)), len(crops))
        return torch.cat(done)


def run(node, **inputs):
    """Execute a node as node "7", every widget not given at its default."""
    for widget in node.define_schema().inputs:
        options = getattr(widget, "options", None)
        default = getattr(widget, "default", None)
        inputs.setdefault(widget.id, default if default is not None or not options else options[0])
    clone = type(node.__name__, (node,), {"hidden": SimpleNamespace(unique_id="7")})
    return clone.execute(**inputs)


def hosted(nodes, model):
    return nodes.host.adopt(model)


SQUARES = [(0, 20.0, 24.0, 40.0), (0, 90.0, 30.0, 60.0), (1, 50.0, 50.0, 50.0)]


@pytest.fixture
def images():
    return torch.rand(2, 128, 160, 3, generator=torch.Generator().manual_seed(0)) * 0.5


@pytest.fixture
def faces(nodes, images):
    return run(nodes.DetectFaces, detector=hosted(nodes, Detector(nodes, "three", SQUARES)), image=images).args[0]


@pytest.fixture
def no_faces(nodes, images):
    return nodes.Faces.empty(tuple(images.shape[1:3]), len(images))


@pytest.fixture
def models(nodes, monkeypatch):
    """What the loaders load, by name; each is made once."""
    known = {"bundled": Detector(nodes, "bundled", SQUARES), "blind": Detector(nodes, "blind", [])}
    restorers = {"posefr-256": Restorer("posefr-256"), "tight": Restorer("tight", fits=1)}
    loaded = []

    def load(table):
        def loader(name, **options):
            loaded.append((name, options))
            return table[name]

        return loader

    monkeypatch.setattr(nodes, "load_detector", load(known))
    monkeypatch.setattr(nodes, "load_restorer", load(restorers))
    monkeypatch.setattr(nodes, "detector_names", lambda folders: list(known))
    monkeypatch.setattr(nodes, "restorer_names", lambda folders: list(restorers))
    nodes.host.forget()
    yield SimpleNamespace(detectors=known, restorers=restorers, loaded=loaded)
    nodes.host.forget()


def node_classes(pack):
    extension = asyncio.run(pack.comfy_entrypoint())
    return asyncio.run(extension.get_node_list())


IMPORT = """
import importlib, importlib.util, socket, sys

def refuse(*args, **kwargs):
    raise AssertionError("a connection was tried")

socket.socket.connect = socket.socket.connect_ex = socket.create_connection = socket.getaddrinfo = refuse
root, stand_in, *modules = sys.argv[1:]
sys.path.insert(0, stand_in)
for name in modules:
    importlib.import_module(name)
spec = importlib.util.spec_from_file_location("pack", root + "/__init__.py", submodule_search_locations=[root])
sys.modules["pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["pack"])
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_importing_the_pack_opens_no_connection_and_loads_no_network_library():
    arguments = [str(ROOT), str(STAND_IN), *HOST_MODULES, "server"]
    done = subprocess.run([sys.executable, "-c", IMPORT, *arguments], cwd=STAND_IN, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    heavy = {"cv2", "facexlib", "numba", "PIL", "skimage", "spandrel", "torchvision"}
    assert not heavy & set(done.stdout.split())
    assert "posefr" not in done.stdout.split()  # the pack's own copy of the library, not an installed one


# What the host is told about the nodes


def test_every_node_says_what_it_is_and_every_socket_has_a_tooltip(pack):
    for node in node_classes(pack):
        schema = node.define_schema()
        assert schema.node_id.startswith("PoseFR")
        assert schema.description
        assert schema.category == "PoseFR"
        assert schema.search_aliases
        for socket in [*schema.inputs, *schema.outputs]:
            assert socket.tooltip, f"{schema.node_id}: {socket}"
            assert socket.tooltip.endswith(".")


def test_inputs_are_what_execute_takes_and_defaults_are_allowed(pack):
    for node in node_classes(pack):
        taken = inspect.signature(node.execute).parameters
        inputs = node.define_schema().inputs
        assert set(taken) == {i.id for i in inputs}
        for widget in inputs:
            optional = getattr(widget, "optional", False) or bool(getattr(widget, "lazy", None))
            assert optional == (taken[widget.id].default is not inspect.Parameter.empty), widget.id
            if getattr(widget, "min", None) is not None:
                assert widget.min <= widget.default <= widget.max, widget.id
            if getattr(widget, "options", None) and widget.default is not None:
                assert widget.default in widget.options, widget.id


def test_the_scanners_list_names_every_node(pack):
    listed = json.loads((ROOT / "node_list.json").read_text())
    assert list(listed) == [node.define_schema().node_id for node in node_classes(pack)]


def test_the_list_in_the_source_names_every_node_as_its_schema_does(nodes):
    ids = {name: node.define_schema().node_id for name, node in nodes.NODE_CLASS_MAPPINGS.items()}
    assert all(name == node_id for name, node_id in ids.items())


def test_every_node_has_a_help_page_that_names_every_socket(pack):
    for node in node_classes(pack):
        schema = node.define_schema()
        page = (ROOT / "web" / "docs" / f"{schema.node_id}.md").read_text()
        assert page.startswith(f"# {schema.display_name}\n")
        for name in [*(i.id for i in schema.inputs), *(o.display_name for o in schema.outputs)]:
            assert f"\n- `{name}`" in page
        for socket in schema.inputs:
            assert re.search(rf"\n- `{socket.id}`( \(optional\))?: {re.escape(socket.tooltip)}", page), socket.id


@pytest.mark.parametrize("language", ["zh", "ja"])
def test_every_name_and_tooltip_is_translated(pack, language):
    translated = json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))
    assert list(translated) == [node.define_schema().node_id for node in node_classes(pack)]
    for node in node_classes(pack):
        schema = node.define_schema()
        said = translated[schema.node_id]
        assert list(said["inputs"]) == [i.id for i in schema.inputs]
        assert list(said["outputs"]) == [str(i) for i in range(len(schema.outputs))]
        sockets = [*said["inputs"].values(), *said["outputs"].values()]
        texts = [
            said["display_name"],
            said["description"],
            *(s["name"] for s in sockets),
            *(s["tooltip"] for s in sockets),
        ]
        assert all(not text.isascii() for text in texts)


SAVED = [*sorted((ROOT / "example_workflows").glob("*.json")), *sorted((ROOT / "subgraphs").glob("*.json"))]


@pytest.mark.parametrize("path", SAVED, ids=lambda path: path.stem)
def test_example_workflows_and_blueprints_fit_the_nodes(pack, path):
    """`python docs/workflows.py` writes them anew after a node has changed."""
    schemas = {schema.node_id: schema for schema in (node.define_schema() for node in node_classes(pack))}
    saved = json.loads(path.read_text())
    inside = [node for graph in saved.get("definitions", {}).get("subgraphs", []) for node in graph["nodes"]]
    ours = [node for node in [*saved["nodes"], *inside] if node["type"].startswith("PoseFR")]
    assert ours
    for node in ours:
        schema = schemas[node["type"]]
        assert sorted(i["name"] for i in node["inputs"]) == sorted(i.id for i in schema.inputs)
        assert [o["name"] for o in node["outputs"]] == [o.display_name for o in schema.outputs]
        widgets = [i for i in schema.inputs if hasattr(i, "default")]
        for widget, value in zip(widgets, node["widgets_values"], strict=True):
            if getattr(widget, "options", None):
                assert value in widget.options, widget.id
            elif getattr(widget, "min", None) is not None:
                assert widget.min <= value <= widget.max, widget.id
            else:
                assert isinstance(value, type(widget.default)), widget.id


# The main job


def test_composed_nodes_and_the_one_node_agree(nodes, comfy, models, images):
    one = run(nodes.RestoreFacesInImage, image=images)
    restorer = run(nodes.LoadRestorer, restorer="posefr-256").args[0]
    detector = run(nodes.LoadDetector, detector="bundled").args[0]
    found, count = run(nodes.DetectFaces, detector=detector, image=images).args
    found, _, _ = run(nodes.SelectFaces, faces=found).args
    crops, cut, _ = run(nodes.CropFaces, image=images, faces=found, restorer=restorer).args
    restored = run(nodes.RestoreFaces, restorer=restorer, images=cut, crops=crops).args[0]
    out, mask = run(nodes.PasteFaces, image=images, crops=crops, restored=restored, color_match="mean_std").args

    assert count == 3
    assert cut.shape == (3, 256, 256, 3)
    assert torch.equal(one.args[0], out)
    assert torch.equal(one.args[1], mask)
    assert len(one.args[2]) == 3
    assert torch.equal(out[mask == 0], images[mask == 0])
    assert (out[mask > 0.5] != images[mask > 0.5]).any()
    assert mask[0, 60, 120] == 1  # the middle of the second face
    assert "3 faces restored in 2 images" in comfy.notes["7"] or "3 faces pasted" in comfy.notes["7"]


def test_widgets_reach_the_detector(nodes, images):
    detector = Detector(nodes, "three", SQUARES)
    run(
        nodes.DetectFaces,
        detector=hosted(nodes, detector),
        image=images,
        threshold=0.3,
        working_size=96,
        angles="upright and sideways",
        tile_size=256,
    )
    call = detector.calls[0]
    assert (call.threshold, call.size, call.angles, call.tile, call.batch) == (0.3, 96, (0, 90, 270), 256, 2)


def test_limit_restores_the_largest_faces_of_each_image(nodes, models, images):
    _, mask, kept = run(nodes.RestoreFacesInImage, image=images, limit=1).args
    assert kept.frame.tolist() == [0, 1]
    assert mask[0, :, :60].max() == 0  # the smaller face on the left


def test_alpha_comes_back_as_it_was(nodes, models, images):
    alpha = torch.rand(2, 128, 160, 1)
    out = run(nodes.RestoreFacesInImage, image=torch.cat([images, alpha], -1)).args[0]
    assert torch.equal(out[..., 3:], alpha)
    assert torch.equal(out[..., :3], run(nodes.RestoreFacesInImage, image=images).args[0])


def test_inputs_are_never_written_into(nodes, models, images):
    before = images.clone()
    run(nodes.RestoreFacesInImage, image=images)
    assert torch.equal(images, before)


def test_half_precision_images_are_taken(nodes, models, images):
    out = run(nodes.RestoreFacesInImage, image=images.half()).args[0]
    assert out.dtype == torch.float32
    assert out.isfinite().all()


def test_selection_counts_as_the_preview_draws(nodes, comfy, images, faces):
    kept, count, rest = run(nodes.SelectFaces, faces=faces, order="left_to_right", indices="1").args
    assert count == 1
    assert rest.box[:, 0].tolist() == [20, 50]
    assert kept.box[0, 0] == 90
    shown = run(nodes.PreviewFaces, image=images, faces=faces, order="left_to_right")
    assert len(shown.ui["images"]) == 2
    drawn = shown.args[0]
    assert not torch.equal(drawn[0], images[0])
    # the label is the only difference that the order makes: 0 and 1 trade places in the first image
    by_area = run(nodes.PreviewFaces, image=images, faces=faces, order="area").args[0]
    assert not torch.equal(drawn[0], by_area[0])
    assert torch.equal(drawn[1], by_area[1])


def test_of_a_long_batch_some_images_are_shown_and_all_are_handed_on(nodes, comfy):
    frame = torch.arange(60)
    corner = torch.full((60, 2), 20.0)
    points = corner[:, None] + EYES_NOSE_MOUTH * 40
    images, box = torch.zeros(60, 96, 96, 3), torch.cat([corner, corner + 40], 1)
    faces = nodes.Faces.make(frame, box, points, torch.ones(60), (96, 96), 60)
    late = dataclasses.replace(faces, track=torch.where(frame < 51, 0, 7))
    shown = run(nodes.PreviewFaces, image=images, faces=late)
    assert len(shown.args[0]) == 60
    assert len(shown.ui["images"]) == nodes.SHOWN
    assert comfy.notes["7"].endswith(f"faces; {nodes.SHOWN} of 60 images shown here, all of them handed on")
    for first in range(1, 60):
        late = dataclasses.replace(faces, track=torch.where(frame < first, 0, 7))
        chosen = nodes._worth_showing(late)
        assert len(chosen) == nodes.SHOWN
        assert {0, first} <= set(chosen), "the first image of each track"
        assert max(b - a for a, b in pairwise(chosen)) <= 4, "and the rest evenly between"
    many = dataclasses.replace(faces, track=frame)
    assert nodes._worth_showing(many) == list(range(nodes.SHOWN))


def test_selection_passes_its_limits_on(nodes, faces):
    kept, _, _ = run(nodes.SelectFaces, faces=faces, min_size=45, max_size=55).args
    assert kept.box[:, 0].tolist() == [50]


def test_the_previews_numbers_select_whatever_else_is_set(nodes, images, faces):
    """What Face Report and Preview Faces call face 1 is what indices "1" picks, with limits set too."""
    for order in nodes.ORDERS:
        report = json.loads(run(nodes.FaceReport, faces=faces, order=order).args[0])
        for face in report["faces"]:
            frame = str(face["frame"])
            picked, *_ = run(
                nodes.SelectFaces, faces=faces, order=order, indices=str(face["index"]), frames=frame, min_size=30
            ).args
            assert picked.box.tolist() == [face["box"]], (order, face)


def test_blurred_faces_are_selected_by_their_sharpness(nodes, faces):
    """In the first image the left face is sharp, the right one flat; in the second the only one is flat."""
    images = torch.full((2, 128, 160, 3), 0.5)
    images[0, :, :75] = torch.rand(128, 75, 3, generator=torch.Generator().manual_seed(3))
    kept, count, rest = run(nodes.SelectFaces, faces=faces, images=images, max_sharpness=20.0).args
    assert (count, sorted(kept.box[:, 0].tolist())) == (2, [50, 90])
    assert rest.box[:, 0].tolist() == [20]
    kept, _, _ = run(nodes.SelectFaces, faces=faces, images=images, min_sharpness=20.0).args
    assert kept.box[:, 0].tolist() == [20]
    report = json.loads(run(nodes.FaceReport, faces=faces, images=images, order="left_to_right").args[0])
    assert [face["sharpness"] > 20 for face in report["faces"]] == [True, False, False]
    with pytest.raises(nodes.PoseFRError, match="need the picture: connect the image"):
        run(nodes.SelectFaces, faces=faces, max_sharpness=20.0)
    with pytest.raises(nodes.PoseFRError, match="found in 2 images"):
        run(nodes.SelectFaces, faces=faces, images=images[:1], max_sharpness=20.0)


# Video


def video_faces(nodes, missing=()):
    """Twelve frames of a face that moves right and another that stands still, trembling; some frames miss the first."""
    noise = torch.rand(12, 2, 2, generator=torch.Generator().manual_seed(2)) * 2 - 1
    squares = []
    for i in range(12):
        if i not in missing:
            squares.append((i, 10 + 4.0 * i + float(noise[i, 0, 0]), 20 + float(noise[i, 0, 1]), 30.0))
        squares.append((i, 100 + float(noise[i, 1, 0]), 80 + float(noise[i, 1, 1]), 40.0))
    images = torch.rand(12, 128, 160, 3, generator=torch.Generator().manual_seed(1))
    detector = Detector(nodes, "video", squares)
    return images, run(nodes.DetectFaces, detector=hosted(nodes, detector), image=images).args[0], detector


def test_faces_are_tracked_filled_in_and_steadied(nodes, comfy):
    images, faces, _ = video_faces(nodes, missing=(4, 5))
    tracked, count = run(nodes.TrackFaces, faces=faces).args
    assert count == 2
    assert comfy.notes["7"] == "2 tracks over 12 images, 2 faces filled in"
    assert len(tracked) == 24
    before, after = ((f.box[f.box[:, 0] > 90][:, 0]).diff().abs().mean() for f in (faces, tracked))
    assert after < before / 2
    kept, count, _ = run(nodes.SelectFaces, faces=tracked, tracks="1").args
    assert count == 12
    assert len(kept.track.unique()) == 1
    still, _, _ = run(nodes.SelectFaces, faces=tracked, tracks="1", frames="0,10-20").args
    assert still.frame.tolist() == [0, 10, 11]
    records = json.loads(run(nodes.FaceReport, faces=tracked).args[0])
    assert records["tracks"] == [0, 1]
    drawn = [run(nodes.PreviewFaces, image=images, faces=f).args[0] for f in (tracked, replace_track(tracked, -1))]
    assert not torch.equal(*drawn), "the label tells the track"


def replace_track(faces, track):
    return dataclasses.replace(faces, track=torch.full_like(faces.track, track))


def test_widgets_reach_the_tracker(nodes):
    _, faces, _ = video_faces(nodes, missing=(4, 5))
    assert run(nodes.TrackFaces, faces=faces, gap=1).args[1] == 3
    assert run(nodes.TrackFaces, faces=faces, reach=0.0).args[1] > 3
    untouched, _ = run(nodes.TrackFaces, faces=faces, gap=0, smoothing=0.0).args
    assert torch.equal(untouched.box, faces.box)


def test_tracks_end_where_the_pictures_show_a_cut(nodes, comfy):
    images, faces, _ = video_faces(nodes, missing=(5, 6))
    cut_at_6 = torch.cat([images[:1].expand(6, -1, -1, -1), images[1:2].expand(6, -1, -1, -1)])
    tracked, count = run(nodes.TrackFaces, faces=faces, images=cut_at_6).args
    assert count == 4
    assert comfy.notes["7"] == "4 tracks over 12 images, 1 cut"
    assert len(tracked) == len(faces), "nothing is filled in over the cut"
    assert set(tracked.track[tracked.frame < 6].tolist()) == {0, 1}
    _, count = run(nodes.TrackFaces, faces=faces, images=images[:1].expand(12, -1, -1, -1)).args
    assert count == 2
    with pytest.raises(nodes.PoseFRError, match="were found in"):
        run(nodes.TrackFaces, faces=faces, images=images[:5])


def test_the_one_node_steadies_a_video(nodes, models):
    images, _, models.detectors["blind"] = video_faces(nodes, missing=(4,))
    alone = run(nodes.RestoreFacesInImage, image=images, detector="blind").args[2]
    steady = run(nodes.RestoreFacesInImage, image=images, detector="blind", video=True).args[2]
    assert (len(alone), len(steady)) == (23, 24)
    right = [f.box[f.box[:, 0] > 90][:, 0].diff().abs().mean() for f in (alone, steady)]
    assert right[1] < right[0] / 2


# What is known of the faces


def test_the_report_counts_and_lists(nodes, faces):
    result = run(nodes.FaceReport, faces=faces, order="left_to_right")
    text, count, frames, per_frame = result.args
    assert (count, frames, per_frame) == (3, 2, [2, 1])
    report = json.loads(text)
    assert (report["width"], report["height"], report["count"], report["per_frame"]) == (160, 128, 3, [2, 1])
    assert [(f["frame"], f["index"], f["box"][0]) for f in report["faces"]] == [(0, 0, 20), (0, 1, 90), (1, 0, 50)]
    assert "sharpness" not in report["faces"][0]
    assert result.ui["text"] == (text,)


# Boxes of other nodes


def boxes_to_faces(nodes, detector=None, whole=False, **inputs):
    """Faces From Boxes as the host calls it: every input is a list. Returns its outputs, or the `whole` result."""
    default = {
        i.id: [i.options[0] if i.default is None else i.default]
        for i in nodes.FacesFromBoxes.define_schema().inputs
        if hasattr(i, "default")
    }
    if detector is not None:
        inputs["detector"] = [hosted(nodes, detector)]
    clone = type("FacesFromBoxes", (nodes.FacesFromBoxes,), {"hidden": SimpleNamespace(unique_id="7")})
    result = clone.execute(**{**default, **inputs})
    return result if whole else result.args


def test_faces_go_to_every_kind_of_boxes_and_back(nodes, comfy, images, faces):
    segs, bbox, bounding_boxes = run(nodes.FacesToBoxes, faces=faces, image=images).args
    assert [len(found) for _, found in segs] == [2, 1]
    assert segs[0][1][0].cropped_image.shape[3] == 3
    for socket, values in (("segs", segs), ("bbox", bbox), ("bounding_boxes", [bounding_boxes])):
        (back,), (count,) = boxes_to_faces(nodes, image=[images], landmarks=[nodes.GUESS], **{socket: values})
        assert count == 3
        assert torch.equal(back.box, faces.box)
        assert torch.equal(back.frame, faces.frame)
        crops, cut, _ = run(nodes.CropFaces, image=images, faces=back, size=32).args
        assert run(nodes.PasteFaces, image=images, crops=crops, restored=cut).args[0].shape == images.shape
    assert comfy.notes["7"] == "3 faces pasted"


def test_boxes_of_several_sockets_are_put_together(nodes, images):
    core = {"x": 60, "y": 60, "width": 20, "height": 20, "score": 0.5}
    (made,), _ = boxes_to_faces(
        nodes, image=[images], bbox=[[[10, 10, 30, 30]]], bounding_boxes=[core], landmarks=[nodes.GUESS]
    )
    assert made.frame.tolist() == [0, 0, 1, 1]
    assert made.box[:, 0].tolist() == [10, 60, 10, 60]
    assert made.score.tolist() == [1, 0.5, 1, 0.5]


def test_landmarks_are_looked_for_in_the_boxes(nodes, comfy, models, images):
    """The bundled detector where none is connected; here it sees a face of 80 px in the middle of every view."""
    models.detectors["bundled"].squares = [(0, 120.0, 120.0, 80.0)]
    (made,), _ = boxes_to_faces(nodes, image=[images], bbox=[[[40, 40, 72, 72]]])
    assert comfy.notes["7"] == "2 faces of 2 boxes, 1 found by the detector"
    assert made.box[0].tolist() == pytest.approx([48, 48, 64, 64])  # a view of 320 px shows 64 px
    assert made.box[1].tolist() == [40, 40, 72, 72]
    (made,), counts = boxes_to_faces(nodes, image=[images], bbox=[[[40, 40, 72, 72]]], landmarks=[nodes.FIND_OR_DROP])
    assert (made.frame.tolist(), counts) == ([0], [1])
    assert comfy.notes["7"] == "1 face of 2 boxes, 1 found by the detector"
    other = Detector(nodes, "blind", [])
    boxes_to_faces(nodes, detector=other, image=[images], bbox=[[[40, 40, 72, 72]]], threshold=[0.3])
    assert [call.threshold for call in other.calls] == [0.3]


def test_memory_that_ran_out_in_any_part_of_the_boxes_is_told(nodes, images):
    class Tight(Detector):
        def detect(self, images, **options):
            if options["batch"] > 4 and len(images) > 4:
                raise torch.cuda.OutOfMemoryError
            return super().detect(images, **options)

    result = boxes_to_faces(
        nodes, Tight(nodes, "tight", []), whole=True, image=[images[:1]], bbox=[[[40, 40, 72, 72]] * 33]
    )
    assert result.args[1] == [33]
    assert result.ui["text"][0].startswith("Memory ran out with ")


def test_images_of_several_sizes_go_with_their_boxes(nodes, images):
    small = torch.zeros(1, 40, 50, 3)
    bbox = [[[10, 10, 30, 30]], []]
    (first, second), counts = boxes_to_faces(nodes, image=[images, small], bbox=bbox, landmarks=[nodes.GUESS])
    assert (counts, first.image_size, second.image_size) == ([2, 0], (128, 160), (40, 50))
    made, _ = boxes_to_faces(nodes, image=[images, small], bbox=bbox[:1], landmarks=[nodes.GUESS])
    assert [len(faces) for faces in made] == [2, 1], "the last boxes stand for the images that follow"
    bbox = [[[x, 10, x + 20, 30]] for x in (1, 2, 3)]
    made, _ = boxes_to_faces(nodes, image=[images, small], bbox=bbox, landmarks=[nodes.GUESS])
    assert [faces.box[:, 0].tolist() for faces in made] == [[1, 2], [3]], "one for each image, batch after batch"
    with pytest.raises(nodes.PoseFRError, match="boxes are those of 4 images, but there are 3"):
        boxes_to_faces(nodes, image=[images, small], bbox=[[]] * 4)
    with pytest.raises(nodes.PoseFRError, match="boxes are those of 3 images, but there are 2"):
        boxes_to_faces(nodes, image=[images], bbox=[[], [], []])


def test_no_boxes_are_no_faces_and_no_socket_is_a_mistake(nodes, comfy, images):
    for empty in ({"segs": [((128, 160), [])]}, {"bbox": [[]]}, {"bounding_boxes": [[[], []]]}, {"bbox": []}):
        (made,), (count,) = boxes_to_faces(nodes, image=[images], **empty)
        assert count == len(made) == 0
        assert made.frames == 2
    assert comfy.notes["7"] == "0 faces of 0 boxes"
    with pytest.raises(nodes.PoseFRError, match="No boxes are connected"):
        boxes_to_faces(nodes, image=[images])


# Parts of a face


class Parser:
    """White in the upper half for skin, in the lower half for hair; fails with more crops at a time than fit."""

    def __init__(self, fits=99):
        self.name, self.network, self.fits, self.batches = "parser", Linear(1, 1), fits, []

    def parse(self, crops, parts, *, batch=4, on_chunk=None):
        self.batches.append(batch)
        if batch > self.fits:
            raise torch.cuda.OutOfMemoryError("out of memory")
        masks = torch.zeros(len(crops), 64, 64)
        masks[:, :32] += "skin" in parts
        masks[:, 32:] += "hair" in parts
        on_chunk(len(crops), len(crops))
        return masks


@pytest.fixture
def parser(nodes, monkeypatch):
    made = Parser()
    monkeypatch.setattr(nodes, "load_parser", lambda name, **options: made)
    nodes.host.forget()
    yield made
    nodes.host.forget()


def test_the_parts_chosen_are_pasted_and_no_others(nodes, comfy, parser, images, faces):
    crops, cut, _ = run(nodes.CropFaces, image=images, faces=faces, size=32).args
    masks = run(nodes.FacePartsMask, crops=crops).args[0]
    assert masks.shape == (3, 64, 64)
    assert comfy.notes["7"] == "skin of 3 faces"
    _, upper = run(nodes.PasteFaces, image=images, crops=crops, restored=cut, crop_masks=masks).args
    masks = run(nodes.FacePartsMask, crops=crops, skin=False, hair=True).args[0]
    _, lower = run(nodes.PasteFaces, image=images, crops=crops, restored=cut, crop_masks=masks).args
    assert upper.any()
    assert lower.any()
    assert torch.minimum(upper, lower).max() < 0.5, "they meet in the middle and do not overlap"
    with pytest.raises(nodes.PoseFRError, match="No part of the face is chosen"):
        run(nodes.FacePartsMask, crops=crops, skin=False)
    with pytest.raises(nodes.PoseFRError, match="3 faces came from Crop Faces, but images brings 2 images"):
        run(nodes.FacePartsMask, crops=crops, images=cut[:2])


def test_parsing_halves_its_batch_where_memory_runs_out(nodes, comfy, parser, images, faces):
    parser.fits = 2
    crops, _, _ = run(nodes.CropFaces, image=images, faces=faces, size=32).args
    result = run(nodes.FacePartsMask, crops=crops)
    assert parser.batches == [3, 1]
    assert result.ui["text"] == ("Memory ran out with 3 faces at a time; done with 1 at a time.",)


def test_an_absent_parser_says_which_file_goes_where(nodes, images, faces):
    crops, _, _ = run(nodes.CropFaces, image=images, faces=faces, size=32).args
    with pytest.raises(nodes.PoseFRError, match=r"parsing_bisenet.pth is not in .*facexlib.*; fetch https://.*put it"):
        run(nodes.FacePartsMask, crops=crops, parser="bisenet")


# Masks from outside


def test_a_mask_over_the_image_limits_what_changes(nodes, images, faces):
    crops, _, _ = run(nodes.CropFaces, image=images, faces=faces, size=32).args
    left = torch.zeros(1, 128, 160)
    left[..., :70] = 1
    white = torch.ones(3, 32, 32, 3)
    out, mask = run(nodes.PasteFaces, image=images, crops=crops, restored=white, custom_mask=left, feather=0.0).args
    assert torch.equal(out[..., 71:, :], images[..., 71:, :])
    assert mask[0, 44, 40] == 1


def test_a_mask_per_crop_is_taken(nodes, images, faces):
    crops, _, _ = run(nodes.CropFaces, image=images, faces=faces, size=32).args
    per_crop = torch.zeros(3, 32, 32)
    per_crop[1, 8:24, 8:24] = 1
    white = torch.ones(3, 32, 32, 3)
    out, _ = run(nodes.PasteFaces, image=images, crops=crops, restored=white, crop_masks=per_crop).args
    assert torch.equal(out[1], images[1])
    assert not torch.equal(out[0, :, 90:], images[0, :, 90:])
    assert torch.equal(out[0, :, :60], images[0, :, :60])


def test_one_mask_for_every_crop_is_taken(nodes, images, faces):
    crops, _, _ = run(nodes.CropFaces, image=images, faces=faces, size=32).args
    centre = torch.zeros(1, 48, 48)
    centre[:, 20:28, 20:28] = 1
    white = torch.ones(3, 32, 32, 3)
    _, mask = run(nodes.PasteFaces, image=images, crops=crops, restored=white, crop_masks=centre).args
    _, whole = run(nodes.PasteFaces, image=images, crops=crops, restored=white).args
    assert all(0 < mask[i].sum() < whole[i].sum() / 4 for i in (0, 1))


def test_masks_per_crop_are_told_from_one_over_an_image_of_the_same_size(nodes):
    """A picture of 64 px with one face, and a mask of 64 px: which of the two it covers is said by its socket."""
    images = torch.zeros(1, 64, 64, 3)
    face = run(nodes.DetectFaces, detector=hosted(nodes, Detector(nodes, "one", [(0, 4.0, 4.0, 20.0)])), image=images)
    crops, _, _ = run(nodes.CropFaces, image=images, faces=face.args[0], size=64).args
    lower = torch.zeros(1, 64, 64)
    lower[:, 40:] = 1
    white = torch.ones(1, 64, 64, 3)
    settings = {"image": images, "crops": crops, "restored": white, "mask": "box", "feather": 0.0}
    over_image = run(nodes.PasteFaces, custom_mask=lower, **settings).args[1]
    per_crop = run(nodes.PasteFaces, crop_masks=lower, **settings).args[1]
    assert not over_image[:, :40].any()
    assert per_crop[:, :40].any()


def test_a_mask_over_the_image_and_masks_per_crop_work_together(nodes, images, faces):
    crops, _, _ = run(nodes.CropFaces, image=images, faces=faces, size=32).args
    left = torch.zeros(1, 128, 160)
    left[..., :70] = 1
    centre = torch.zeros(1, 48, 48)
    centre[:, 16:32, 16:32] = 1
    settings = {"image": images, "crops": crops, "restored": torch.ones(3, 32, 32, 3)}
    out, both = run(nodes.PasteFaces, custom_mask=left, crop_masks=centre, **settings).args
    _, alone = run(nodes.PasteFaces, crop_masks=centre, **settings).args
    assert torch.equal(both[..., :70], alone[..., :70])
    assert alone[..., 70:].any()
    assert not both[..., 70:].any()
    assert torch.equal(out[both == 0], images[both == 0])


def test_a_mask_of_the_picture_before_upscaling_is_scaled(nodes, images, faces):
    crops, _, _ = run(nodes.CropFaces, image=images, faces=faces, size=64).args
    larger = images.repeat_interleave(2, 1).repeat_interleave(2, 2)
    left = torch.zeros(1, 128, 160)
    left[..., :70] = 1
    white = torch.ones(3, 64, 64, 3)
    _, mask = run(nodes.PasteFaces, image=larger, crops=crops, restored=white, custom_mask=left).args
    assert mask[0, 88, 80] == 1
    assert not mask[..., 142:].any()


def test_masks_of_crops_that_are_not_square_are_refused(nodes, images, faces):
    crops, cut, _ = run(nodes.CropFaces, image=images, faces=faces, size=32).args
    with pytest.raises(nodes.PoseFRError, match=r"32x64 px; a mask of a crop is square\. .* custom_mask"):
        run(nodes.PasteFaces, image=images, crops=crops, restored=cut, crop_masks=torch.ones(1, 64, 32))


def test_masks_for_another_number_of_crops_are_refused(nodes, images, faces):
    crops, cut, _ = run(nodes.CropFaces, image=images, faces=faces, size=32).args
    with pytest.raises(nodes.PoseFRError, match="3 faces came from Crop Faces, but crop_masks brings 2 images"):
        run(nodes.PasteFaces, image=images, crops=crops, restored=cut, crop_masks=torch.ones(2, 32, 32))


def test_a_grown_mask_covers_more(nodes, images, faces):
    crops, cut, _ = run(nodes.CropFaces, image=images, faces=faces, size=32).args
    areas = [
        run(nodes.PasteFaces, image=images, crops=crops, restored=cut, grow=grow).args[1].sum() for grow in (-10, 0, 10)
    ]
    assert areas[0] < areas[1] < areas[2]


def test_faces_are_pasted_onto_an_upscaled_image(nodes, images, faces):
    crops, _, _ = run(nodes.CropFaces, image=images, faces=faces, size=64).args
    larger = images.repeat_interleave(2, 1).repeat_interleave(2, 2)
    white = torch.ones(3, 64, 64, 3)
    out, mask = run(nodes.PasteFaces, image=larger, crops=crops, restored=white).args
    assert out.shape == (2, 256, 320, 3)
    assert mask[0, 120, 240] == 1  # the middle of the second face
    assert torch.equal(out[mask == 0], larger[mask == 0])


def test_a_black_mask_pastes_nothing_and_says_so(nodes, comfy, images, faces):
    crops, cut, _ = run(nodes.CropFaces, image=images, faces=faces, size=32).args
    empty = torch.zeros(1, 64, 64)  # what Load Image gives for a picture without alpha
    out, _ = run(nodes.PasteFaces, image=images, crops=crops, restored=1 - cut, custom_mask=empty).args
    assert torch.equal(out, images)
    assert comfy.notes["7"] == "The custom mask is black everywhere: nothing was pasted."
    run(nodes.PasteFaces, image=images, crops=crops, restored=1 - cut, crop_masks=torch.zeros(3, 32, 32))
    assert comfy.notes["7"] == "The crop masks are black everywhere: nothing was pasted."


def test_the_nodes_before_paste_run_only_if_something_is_pasted(nodes, images, faces, no_faces):
    lazy = [i.id for i in nodes.PasteFaces.define_schema().inputs if getattr(i, "lazy", None)]
    assert lazy == ["restored"]
    crops, cut, _ = run(nodes.CropFaces, image=images, faces=faces, size=32).args
    none, _, _ = run(nodes.CropFaces, image=images, faces=no_faces, size=32).args

    def asked(**given):
        return nodes.PasteFaces.check_lazy_status(**{"image": images, "crops": crops, "strength": 1.0, **given})

    assert asked() == ["restored"]
    assert asked(restored=cut) == asked(crops=none) == asked(strength=0.0) == []
    assert asked(custom_mask=torch.zeros(1, 64, 64)) == asked(crop_masks=torch.zeros(3, 32, 32)) == []
    assert torch.equal(run(nodes.PasteFaces, image=images, crops=none, restored=None).args[0], images)
    _, usual = run(nodes.PasteFaces, image=images, crops=crops, restored=1 - cut).args
    out, mask = run(nodes.PasteFaces, image=images, crops=crops, restored=None, strength=0.0).args
    assert torch.equal(out, images)
    assert torch.equal(mask, usual)


def test_a_sampler_gets_context_and_a_mask_of_the_head(nodes, images, faces):
    images = torch.full_like(images, 0.2)
    crops, cut, heads = run(nodes.CropFaces, image=images, faces=faces, size=64, context=2.0).args
    assert cut.shape == (3, 64, 64, 3)
    assert heads.shape == (3, 64, 64)
    assert heads[0, 32, 32] == 1
    assert not heads[:, :17].any()
    assert not heads[:, :, :17].any()
    assert torch.equal(heads[0], heads[2])
    redrawn = torch.where(heads[..., None] > 0, 1.0, cut)
    out, mask = run(nodes.PasteFaces, image=images, crops=crops, restored=redrawn, color_match="none").args
    assert out[mask == 1].min() > 0.9, "no more is pasted than was redrawn"
    with pytest.raises(nodes.PoseFRError, match=r"crops are 2 times as wide .* set context of Crop Faces to 1"):
        run(nodes.RestoreFaces, restorer=hosted(nodes, Restorer("r")), images=cut, crops=crops)
    restorer = hosted(nodes, Restorer("r"))
    crops, cut, _ = run(nodes.CropFaces, image=images, faces=faces, context=2.0, restorer=restorer).args
    assert crops.context == 1
    run(nodes.RestoreFaces, restorer=restorer, images=cut, crops=crops)


def test_a_mask_of_another_size_is_refused_in_one_sentence(nodes, images, faces):
    crops, cut, _ = run(nodes.CropFaces, image=images, faces=faces, size=32).args
    with pytest.raises(nodes.PoseFRError, match=r"The mask has the shape \[1, 48, 64\]; expected \[2, 128, 160\]"):
        run(nodes.PasteFaces, image=images, crops=crops, restored=cut, custom_mask=torch.ones(1, 48, 64))


# No face


def test_without_a_face_the_image_passes_with_a_note(nodes, comfy, models, images):
    out, mask, found = (result := run(nodes.RestoreFacesInImage, image=images, detector="blind")).args
    assert torch.equal(out, images)
    assert mask.shape == (2, 128, 160)
    assert not mask.any()
    assert len(found) == 0
    assert comfy.notes["7"] == "No face found in 2 images: passed through unchanged."
    assert result.ui["text"] == (comfy.notes["7"],)


def test_the_note_tells_that_the_search_was_at_a_smaller_size(nodes, comfy, models, images):
    run(nodes.DetectFaces, image=images, detector=hosted(nodes, models.detectors["blind"]), working_size=64)
    said = "No face found in 2 images of 160 px, searched at a working_size of 64: passed through unchanged."
    assert comfy.notes["7"] == said


@pytest.mark.parametrize("node", ["RestoreFacesInImage", "DetectFaces"])
def test_without_a_face_the_switch_raises(nodes, models, images, node):
    detector = "blind" if node == "RestoreFacesInImage" else hosted(nodes, models.detectors["blind"])
    with pytest.raises(nodes.PoseFRError, match="No face found in 2 images: lower the threshold"):
        run(getattr(nodes, node), image=images, detector=detector, if_no_face=nodes.RAISE)


def test_an_empty_set_of_faces_runs_through_every_node(nodes, comfy, images, no_faces):
    restorer = Restorer("never asked")
    kept, count, _ = run(nodes.SelectFaces, faces=no_faces, indices="0").args
    assert count == 0
    drawn = run(nodes.PreviewFaces, image=images, faces=kept).args[0]
    assert torch.equal(drawn, images)
    kept, tracks = run(nodes.TrackFaces, faces=kept).args
    assert tracks == 0
    kept, _, _ = run(nodes.SelectFaces, faces=kept, images=images, max_sharpness=20.0, tracks="0", frames="0").args
    assert run(nodes.FaceReport, faces=kept, images=images).args[1:] == (0, 2, [0, 0])
    segs, bbox, bounding_boxes = run(nodes.FacesToBoxes, faces=kept, image=images).args
    assert (segs, bbox, bounding_boxes) == ([((128, 160), [])] * 2, [[], []], [[], []])
    crops, cut, _ = run(nodes.CropFaces, image=images, faces=kept, restorer=hosted(nodes, restorer)).args
    assert cut.shape == (1, 256, 256, 3)
    assert not cut.any()
    restored = run(nodes.RestoreFaces, restorer=hosted(nodes, restorer), images=cut, crops=crops).args[0]
    assert restored.shape == (1, 256, 256, 3)
    assert restorer.batches == []
    masks = run(nodes.FacePartsMask, crops=crops).args[0]
    assert masks.ndim == 3
    assert not masks.any()
    out, mask = run(nodes.PasteFaces, image=images, crops=crops, restored=restored, crop_masks=masks).args
    assert torch.equal(out, images)
    assert not mask.any()
    assert comfy.notes["7"] == "No face to paste: passed through unchanged."


# Memory, progress, interruption


def test_networks_are_loaded_through_the_host_with_room_for_a_batch(nodes, comfy, images):
    detector = hosted(nodes, Detector(nodes, "three", SQUARES))
    run(nodes.DetectFaces, detector=detector, image=images)
    run(nodes.DetectFaces, detector=detector, image=images, working_size=80)
    (first, room, full), (_, less_room, _) = comfy.management.loads
    assert first == [detector.patcher]
    assert detector.patcher.model is detector.model.network
    assert full
    assert room == 2 * 128 * 160 * nodes.DETECTOR_BYTES_PER_PIXEL
    assert less_room == room / 4


def test_a_square_larger_than_the_batch_has_room_too(nodes, comfy, images):
    detector = hosted(nodes, Detector(nodes, "three", SQUARES))
    run(nodes.DetectFaces, detector=detector, image=images, working_size=40, tile_size=150)
    run(nodes.DetectFaces, detector=detector, image=images, working_size=160, tile_size=150)
    rooms = [room / nodes.DETECTOR_BYTES_PER_PIXEL for _, room, _ in comfy.management.loads]
    assert rooms == [150 * 128, 2 * 160 * 128], "an image that is not scaled down is not looked at in squares"


def test_a_restorer_tells_how_much_room_its_faces_take(nodes, comfy):
    restorer = Restorer("hungry")
    restorer.bytes_per_pixel = 5000
    run(nodes.RestoreFaces, restorer=hosted(nodes, restorer), images=torch.zeros(3, 8, 8, 3))
    ((_, room, _),) = comfy.management.loads
    assert room == 3 * 256 * 256 * 5000


def test_batches_shrink_as_the_pictures_grow(nodes, comfy):
    detector, restorer = Detector(nodes, "blind", []), Restorer("large")
    restorer.size = 512
    run(nodes.DetectFaces, detector=hosted(nodes, detector), image=torch.zeros(3, 1280, 1280, 3), working_size=0)
    run(nodes.RestoreFaces, restorer=hosted(nodes, restorer), images=torch.zeros(5, 8, 8, 3))
    assert detector.calls[0].batch == 2
    assert restorer.batches == [2, 2, 1]


@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError, MemoryError, RuntimeError])
def test_out_of_memory_halves_the_batch_and_says_so(nodes, comfy, error):
    restorer = Restorer("tight", fits=2, error=error)
    result = run(nodes.RestoreFaces, restorer=hosted(nodes, restorer), images=torch.rand(9, 32, 32, 3))
    assert result.args[0].shape == (9, 256, 256, 3)
    assert restorer.batches == [8, 4, 2, 2, 2, 2, 1]
    assert comfy.management.emptied == 2
    assert result.ui["text"] == ("Memory ran out with 8 faces at a time; done with 2 at a time.",)
    assert "9 faces restored" in comfy.notes["7"]
    rooms = [memory for _, memory, _ in comfy.management.loads]
    assert rooms[0] == 2 * rooms[1] == 4 * rooms[2]


def test_out_of_memory_with_one_face_goes_on_to_the_host(nodes, comfy):
    restorer = Restorer("too tight", fits=0)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        run(nodes.RestoreFaces, restorer=hosted(nodes, restorer), images=torch.rand(3, 32, 32, 3))
    assert restorer.batches == [3, 1]


def test_other_errors_are_not_retried(nodes):
    restorer = Restorer("broken", fits=0, error=KeyError)
    with pytest.raises(KeyError):
        run(nodes.RestoreFaces, restorer=hosted(nodes, restorer), images=torch.rand(3, 32, 32, 3))
    assert restorer.batches == [3]


def test_an_interruption_stops_after_one_chunk(nodes, comfy):
    restorer = Restorer("slow")
    comfy.management.interrupted = True
    with pytest.raises(comfy.management.InterruptProcessingException):
        run(nodes.RestoreFaces, restorer=hosted(nodes, restorer), images=torch.rand(40, 32, 32, 3))
    assert restorer.batches == [8]


@pytest.mark.parametrize("node", ["CropFaces", "PasteFaces"])
def test_cropping_and_pasting_stop_between_faces_too(nodes, comfy, images, faces, node):
    crops, cut, _ = run(nodes.CropFaces, image=images, faces=faces, size=32).args
    given = {"faces": faces, "size": 32} if node == "CropFaces" else {"crops": crops, "restored": cut}
    comfy.bars.clear()
    run(getattr(nodes, node), image=images, **given)
    values = comfy.bars[-1].values
    assert values == sorted(values)
    assert len({*values} - {0}) == len(faces) > 1, "0 while colours are matched"
    assert values[-1] == comfy.bars[-1].total
    comfy.management.interrupted = True
    with pytest.raises(comfy.management.InterruptProcessingException):
        run(getattr(nodes, node), image=images, **given)
    assert comfy.bars[-1].values == []


@pytest.mark.parametrize(
    ("node", "given"),
    [
        ("PreviewFaces", {"order": "area"}),
        ("FacesToBoxes", {}),
        ("FaceReport", {}),
        ("SelectFaces", {"min_sharpness": 1.0}),
        ("TrackFaces", {}),
    ],
)
def test_what_looks_at_every_face_stops_between_two(nodes, comfy, images, faces, node, given):
    name = "image" if node in ("PreviewFaces", "FacesToBoxes") else "images"
    comfy.management.interrupted = True
    with pytest.raises(comfy.management.InterruptProcessingException):
        run(getattr(nodes, node), faces=faces, **{name: images}, **given)


def test_one_bar_fills_over_both_stages(nodes, comfy, models, images):
    models.restorers["posefr-256"].batches.clear()
    run(nodes.RestoreFacesInImage, image=images)
    bar = comfy.bars[-1]
    assert bar.values == [bar.total / 2, bar.total]


def test_steadying_and_many_boxes_move_the_bar_too(nodes, comfy, images):
    pictures, faces, _ = video_faces(nodes)
    faces, _ = run(nodes.TrackFaces, faces=faces).args
    crops, cut, _ = run(nodes.CropFaces, image=pictures, faces=faces, size=32).args
    run(nodes.RestoreFaces, restorer=hosted(nodes, Restorer("white")), images=cut, crops=crops)
    bar = comfy.bars[-1]
    assert bar.values == sorted(bar.values)
    assert sum(value > bar.total / 2 for value in bar.values) == len(faces)
    assert bar.values[-1] == bar.total

    boxes = [[float(10 + i), 20.0, float(60 + i), 70.0] for i in range(40)]  # looked at 32 at a time
    boxes_to_faces(nodes, Detector(nodes, "three", SQUARES), image=[images[:1]], bbox=[boxes])
    assert comfy.bars[-1].values == [round(0.8 * bar.total), bar.total]


def test_faces_are_shown_as_they_come_out(nodes, comfy, models, images):
    run(nodes.RestoreFaces, restorer=hosted(nodes, Restorer("slow")), images=torch.rand(19, 32, 32, 3))
    pictures = [image for kind, image, limit in comfy.bars[-1].previews if (kind, limit) == ("JPEG", 512)]
    assert [picture.size for picture in pictures] == [(510, 510), (510, 510), (512, 512)]  # 8, 8 and 3 faces
    assert pictures[0].getpixel((10, 10)) == (255, 255, 255)
    assert pictures[0].getpixel((500, 500)) == (0, 0, 0)  # the ninth place of nine is empty
    run(nodes.RestoreFacesInImage, image=images)
    assert [preview is not None for preview in comfy.bars[-1].previews] == [False, True]


# Videos in parts


class EveryFrame(Detector):
    """Finds a face at one place of each image."""

    def detect(self, images, **options):
        self.squares = [(frame, 20.0, 24.0, 40.0) for frame in range(len(images))]
        return super().detect(images, **options)


@pytest.fixture
def clip(nodes, comfy, models, tmp_path, monkeypatch):
    """A grey VIDEO of 30 frames, read in parts of seven; `seer` finds a face in each frame."""
    pytest.importorskip("av")
    monkeypatch.setattr(comfy.folders, "temporary", str(tmp_path / "temporary"))
    monkeypatch.setattr(sys.modules[nodes.VideoClip.__module__], "_LONGEST_PART", 7)
    models.detectors["seer"] = EveryFrame(nodes, "seer", [])
    path = tmp_path / "clip.mp4"
    levels = torch.arange(60, 90, dtype=torch.uint8)[:, None, None, None]
    photos.write_clip(path, levels.expand(-1, 128, 160, 3).numpy(), rate=25)
    return sys.modules["comfy_api.latest"].InputImpl.VideoFromFile(str(path))


def temporary_files(comfy):
    folder = Path(comfy.folders.temporary)
    return sorted(folder.iterdir()) if folder.exists() else []


def test_a_video_is_restored_with_few_frames_in_memory(nodes, comfy, models, clip):
    result = run(nodes.RestoreFacesInVideo, video=clip, detector="seer", color_match="none")
    video, faces = result.args
    assert len(models.detectors["seer"].calls) == 5  # 7, 7, 7, 7 and 2 frames
    assert models.restorers["posefr-256"].batches == [7, 7, 7, 7, 2]
    assert (len(faces), faces.frames, faces.track.unique().tolist()) == (30, 30, [0])
    assert [Path(video.get_stream_source())] == temporary_files(comfy)
    images = torch.cat(list(nodes.VideoClip(video.get_stream_source()).parts()))
    assert images.shape == (30, 128, 160, 3)
    assert (images[:, 44, 40] > 0.9).all(), "the restorer's white"
    assert (images[:, 110, 140].diff(dim=0) >= 0).all(), "frames in their order"
    assert (images[-1, 110, 140] - images[0, 110, 140] > 0.1).all()
    bar = comfy.bars[-1]
    assert bar.values == sorted(bar.values)
    assert bar.values[-1] == bar.total
    assert [preview is not None for preview in bar.previews].count(True) == 5
    assert comfy.notes == {"7": "1 face restored in 30 frames"}
    assert result.ui is None


def test_what_was_cut_off_a_video_stays_away(nodes, comfy, models, clip):
    trimmed = type(clip)(clip.get_stream_source(), start_time=0.4, duration=0.4)
    video, faces = run(nodes.RestoreFacesInVideo, video=trimmed, detector="seer").args
    assert (len(faces), faces.frames) == (10, 10)
    frames = nodes.VideoClip(video.get_stream_source())
    assert frames.frames == 10
    older = SimpleNamespace(save_to=clip.save_to)
    assert run(nodes.RestoreFacesInVideo, video=older, detector="seer").args[1].frames == 30


@pytest.mark.parametrize("settings", [{"detector": "blind"}, {"detector": "seer", "strength": 0.0}])
def test_a_video_in_which_nothing_changes_is_handed_on(nodes, comfy, models, clip, settings):
    result = run(nodes.RestoreFacesInVideo, video=clip, **settings)
    assert result.args[0] is clip
    assert not models.restorers["posefr-256"].batches
    assert not temporary_files(comfy)
    (said,) = result.ui["text"]
    assert "passed through unchanged" in said
    if settings["detector"] == "blind":
        assert said.startswith("No face found in 30 frames")
        with pytest.raises(nodes.PoseFRError, match="No face found in 30 frames"):
            run(nodes.RestoreFacesInVideo, video=clip, detector="blind", if_no_face=nodes.RAISE)


def test_stopping_leaves_no_half_video(nodes, comfy, models, clip, monkeypatch):
    restorer = models.restorers["posefr-256"]
    restore = type(restorer).restore

    def stopped(self, crops, **options):
        comfy.management.interrupted = len(self.batches) == 2
        return restore(self, crops, **options)

    monkeypatch.setattr(type(restorer), "restore", stopped)
    with pytest.raises(comfy.management.InterruptProcessingException):
        run(nodes.RestoreFacesInVideo, video=clip, detector="seer")
    assert not temporary_files(comfy)


def test_a_smaller_batch_in_a_video_is_told_once(nodes, comfy, models, clip):
    result = run(nodes.RestoreFacesInVideo, video=clip, detector="seer", restorer="tight")
    assert result.ui["text"] == ("Memory ran out with 7 faces at a time; done with 1 at a time.",)
    assert models.restorers["tight"].batches == [7, 3] + [1] * 30, "it is not tried again with more"


# Loading what was picked


def test_what_is_picked_is_loaded_once_and_another_pick_is_another_network(nodes, models, images):
    for detector, restorer in [("bundled", "posefr-256"), ("bundled", "tight"), ("blind", "tight")]:
        run(nodes.RestoreFacesInImage, image=images, detector=detector, restorer=restorer)
    assert [name for name, _ in models.loaded] == ["bundled", "posefr-256", "tight", "blind"]
    assert [len(models.detectors[name].calls) for name in ("bundled", "blind")] == [2, 1]
    assert models.restorers["tight"].batches
    first, again = (run(nodes.LoadDetector, detector="blind").args[0] for _ in range(2))
    assert first is again


def test_how_it_is_pasted_may_change_without_restoring_again(nodes, models, images):
    """In the node that does it all."""
    looked, restored = models.detectors["bundled"].calls, models.restorers["posefr-256"].batches

    def passes(image, **settings):
        before = len(looked), len(restored)
        outputs = run(nodes.RestoreFacesInImage, image=image, **settings).args
        return (len(looked) - before[0], len(restored) - before[1]), outputs

    assert passes(images)[0] == (1, 1)
    again, (out, *_) = passes(images, strength=0.0, mask="box", feather=1.0)
    assert again == (0, 0)
    assert torch.equal(out, images)
    for changed in ({"fidelity": 0.1}, {"limit": 1}, {"threshold": 0.3}, {"video": True}, {"seed": 1}):
        assert passes(images, **changed)[0] == (1, 1), changed
    other = images.clone()
    assert passes(other, seed=1)[0] == (1, 1), "other images, though of the same pixels"
    assert nodes.host._latest is not None
    del other
    assert nodes.host._latest is None, "what was made of them goes with them"
    restorer = models.restorers["posefr-256"]
    outcome = weakref.ref(nodes.host.same_again(images, [restorer], (1,), lambda: images + 1))
    assert outcome() is not None
    nodes.host.same_again(images, [restorer], (2,), lambda: [outcome() is None])
    assert nodes.host.same_again(images, [restorer], (2,), lambda: None) == [True], (
        "the old goes before the new is made"
    )


def test_networks_are_kept_as_long_as_the_host_keeps_a_node(nodes, models, images):
    in_host = [nodes.RestoreFacesInImage(), nodes.LoadDetector()]
    for _ in range(2):
        run(nodes.RestoreFacesInImage, image=images)
    assert len(models.loaded) == 2
    del in_host[0]
    run(nodes.RestoreFacesInImage, image=images)
    assert len(models.loaded) == 2
    in_host.clear()  # as when its memory is to be freed
    run(nodes.RestoreFacesInImage, image=images)
    assert len(models.loaded) == 4


def test_a_network_that_the_host_still_holds_is_not_loaded_beside_it(nodes, models):
    result = run(nodes.LoadRestorer, restorer="posefr-256").args[0]  # as the host's cache of outputs holds it
    nodes.host.forget()
    assert run(nodes.LoadRestorer, restorer="posefr-256").args[0] is result
    del result
    nodes.host.forget()
    run(nodes.LoadRestorer, restorer="posefr-256")
    assert len(models.loaded) == 2


def test_a_network_that_the_host_leaves_where_it_is_goes_to_the_device(nodes, comfy, monkeypatch):
    """As the host does with --novram."""
    monkeypatch.setattr(comfy.management, "get_torch_device", lambda: torch.device("meta"))
    restorer = hosted(nodes, Restorer("left"))
    nodes.host.load(restorer, 1000)
    assert restorer.model.network.weight.device == restorer.device == torch.device("meta")
    streamed = hosted(nodes, Restorer("streamed"))
    streamed.patcher.is_dynamic = lambda: True
    nodes.host.load(streamed, 1000)
    assert streamed.model.network.weight.device.type == "cpu"


@pytest.mark.parametrize("choice", ["/etc/passwd", "../../posefr-256.safetensors", "no such network"])
def test_a_linked_choice_is_one_of_the_list(nodes, images, faces, choice):
    crops, _, _ = run(nodes.CropFaces, image=images, faces=faces, size=32).args
    for node, given in (
        (nodes.LoadDetector, {"detector": choice}),
        (nodes.LoadRestorer, {"restorer": choice}),
        (nodes.FacePartsMask, {"parser": choice, "crops": crops}),
    ):
        with pytest.raises(nodes.PoseFRError, match=r"is none of the choices here, which are [a-z]"):
            run(node, **given)


def test_what_cannot_be_read_is_told_before_anything_runs(nodes):
    check = nodes.SelectFaces.validate_inputs
    assert check(indices="0,2-4", tracks="", frames=None) is True
    assert check(indices="0;2", tracks="", frames="").startswith("The face indices '0;2' cannot be read")
    assert check(indices="", tracks="x", frames="").startswith("The tracks 'x' cannot be read")
    assert check() is nodes.FacePartsMask.validate_inputs() is True, "the host tells what lacks"
    parts = dict.fromkeys(nodes.PARTS, False)
    assert nodes.FacePartsMask.validate_inputs(**parts) == nodes.NO_PART
    assert nodes.FacePartsMask.validate_inputs(**{**parts, "hair": None}) is True


@pytest.mark.parametrize(
    ("node", "choice", "folder", "file"),
    [
        ("LoadRestorer", "restorer", "posefr", "mine.safetensors"),
        ("LoadDetector", "detector", "facedetection", "my_retinaface.safetensors"),
    ],
)
def test_a_file_that_changed_is_loaded_again(nodes, models, comfy, tmp_path, monkeypatch, node, choice, folder, file):
    monkeypatch.setitem(comfy.folders.folder_names_and_paths, folder, ([str(tmp_path)], set()))
    path, load = tmp_path / file, getattr(nodes, node)
    models.restorers[file], models.detectors[file] = Restorer("mine"), Detector(nodes, "mine", [])
    marks = []
    for content in (b"first", b"first", b"second one"):
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)
        marks.append(load.fingerprint_inputs(**{choice: file}))
        run(load, **{choice: file})
    assert [name for name, _ in models.loaded] == [file] * 2
    assert marks[0] == marks[1] != marks[2]


def test_what_a_link_brings_instead_of_a_choice_is_no_reason_to_run_again(nodes):
    for _ in range(2):
        assert nodes.LoadRestorer.fingerprint_inputs(restorer=None) is None
        assert nodes.LoadDetector.fingerprint_inputs(detector=None) is None
        assert nodes.FacePartsMask.fingerprint_inputs(parser=None, crops=None) is None
        marks = nodes.RestoreFacesInImage.fingerprint_inputs(restorer=None, detector=None, image=None)
        assert marks == (None, None)


# Models that other packs have loaded


@pytest.fixture
def upscaler(pack):
    """A spandrel descriptor as the core's Load Upscale Model gives it, but for the patcher."""
    sys.modules[f"{pack.__name__}.posefr.detection"].ensure_torchvision()
    from foreign_networks import build
    from spandrel import ModelLoader

    return ModelLoader("cpu").load_from_state_dict(build("Compact").state_dict())


def test_a_model_of_another_pack_restores_and_stays_its_owners(nodes, comfy, upscaler, models, images, faces):
    crops, cut, _ = run(nodes.CropFaces, image=images, faces=faces, restorer=upscaler, size=64).args
    assert cut.shape == (3, 512, 512, 3)
    restored = run(nodes.RestoreFaces, restorer=upscaler, images=cut, crops=crops).args[0]
    assert restored.shape == (3, 512, 512, 3)
    (patcher, *_), _, _ = comfy.management.loads[-1]
    assert patcher.model is upscaler.model
    run(nodes.RestoreFaces, restorer=upscaler, images=cut, crops=crops)
    assert comfy.management.loads[-1][0] == [patcher], "one patcher for as long as the model lives"
    upscaler.patcher = SimpleNamespace(load_device=torch.device("cpu"))
    models.restorers.clear()  # nothing else may be asked for
    out, _, found = run(nodes.RestoreFacesInImage, image=images, restorer_model=upscaler).args
    assert comfy.management.loads[-1][0] == [upscaler.patcher]
    assert len(found) == 3
    assert not torch.equal(out, images)


def test_sockets_take_the_types_of_other_packs(nodes):
    for node, name in (
        ("CropFaces", "restorer"),
        ("RestoreFaces", "restorer"),
        ("RestoreFacesInImage", "restorer_model"),
    ):
        (socket,) = (i for i in getattr(nodes, node).define_schema().inputs if i.id == name)
        assert [kind.io_type for kind in socket.types] == ["POSEFR_RESTORER", "FACERESTORE_MODEL", "UPSCALE_MODEL"]


def test_a_model_that_restores_nothing_is_refused(nodes, images):
    with pytest.raises(nodes.PoseFRError, match="the connected model is a Linear, which is no image network"):
        run(nodes.RestoreFaces, restorer=Linear(1, 1), images=images)


def test_the_folders_of_the_host_are_searched_as_they_are_now(nodes, comfy, models, monkeypatch):
    monkeypatch.setitem(comfy.folders.folder_names_and_paths, "facedetection", (["/elsewhere/faces"], set()))
    run(nodes.LoadDetector, detector="bundled")
    expected = ["/elsewhere/faces", "models/facedetection", "models/facexlib", "models/posefr"]
    assert models.loaded[0][1]["folders"] == tuple(map(Path, expected))
    monkeypatch.setitem(comfy.folders.folder_names_and_paths, "facedetection", (["/moved"], set()))
    run(nodes.LoadDetector, detector="bundled")
    assert models.loaded[1][1]["folders"][0] == Path("/moved")


def test_our_folder_extends_what_the_user_configured(nodes, comfy, monkeypatch):
    monkeypatch.setattr(comfy.folders, "folder_names_and_paths", {"posefr": (["/mine"], set())})
    nodes.host.register_folders()
    nodes.host.register_folders()
    paths, extensions = comfy.folders.folder_names_and_paths["posefr"]
    assert paths == ["/mine", str(Path("models/posefr"))]
    assert extensions == comfy.folders.supported_pt_extensions


# Wrong connections, one sentence each


def test_faces_of_another_image_are_refused(nodes, images, faces):
    with pytest.raises(nodes.PoseFRError, match="found in 2 images of 160x128 px, but this image is 1 of 160x128 px"):
        run(nodes.CropFaces, image=images[:1], faces=faces)


def test_too_few_restored_faces_are_refused(nodes, images, faces):
    crops, cut, _ = run(nodes.CropFaces, image=images, faces=faces).args
    with pytest.raises(nodes.PoseFRError, match="3 faces came from Crop Faces, but restored brings 2 images"):
        run(nodes.PasteFaces, image=images, crops=crops, restored=cut[:2])


def test_crops_in_the_wrong_alignment_are_refused(nodes, images, faces):
    crops, cut, _ = run(nodes.CropFaces, image=images, faces=faces, alignment="template5").args
    with pytest.raises(nodes.PoseFRError, match='aligned as "template5", but own was trained on "ffhq"'):
        run(nodes.RestoreFaces, restorer=hosted(nodes, Restorer("own")), images=cut, crops=crops)


@pytest.mark.parametrize("shape", [(1, 8, 8, 1), (1, 8, 8, 2), (8, 8, 3), (0, 8, 8, 3), (1, 0, 8, 3)])
def test_images_of_another_shape_are_refused(nodes, models, shape):
    with pytest.raises(nodes.PoseFRError, match="shape"):
        run(nodes.RestoreFacesInImage, image=torch.zeros(shape))
