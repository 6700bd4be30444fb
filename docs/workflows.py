"""Writes example_workflows/*.json and subgraphs/*.json, so that they follow the nodes when these change.

    COMFYUI_DIR=... COMFYUI_PYTHON=... python docs/workflows.py

starts that ComfyUI with the pack, reads from it which sockets and widgets every node has, ours and its own, and writes
the files in the form in which the front end saves them. Nodes stand in columns, from left to right.
"""

from __future__ import annotations

import json
import sys
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import comfyui_server  # noqa: E402

WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3")
ROW, WIDGET_ROW, TITLE, GAP = 20, 24, 30, 40  # px in the front end
WIDTH = 300
# What a node shows below its widgets once it ran, in px.
SHOWS = {"LoadImage": 300, "LoadVideo": 300, "SaveImage": 380, "SaveVideo": 380, "PreviewImage": 260}
SHOWS |= {
    "PoseFRPreviewFaces": 300,
    "PoseFRFaceReport": 100,
    "PoseFRRestoreFaces": 220,
    "PoseFRRestoreFacesInImage": 220,
    "PoseFRRestoreFacesInVideo": 220,
}
CHECKPOINT = "v1-5-pruned-emaonly-fp16.safetensors"
CHECKPOINT_URL = f"https://huggingface.co/Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/{CHECKPOINT}"


@dataclass
class Node:
    """One node of a graph under construction; `node["name"]` is its output of that name."""

    id: int
    type: str
    offer: dict[str, Any]
    values: dict[str, Any]
    title: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    at: tuple[float, float] = (0, 0)
    width: float = WIDTH

    def __getitem__(self, output: str) -> Output:
        index = self.offer["output_name"].index(output)
        return self, index, self.offer["output"][index]

    def inputs(self) -> list[tuple[str, str, bool, dict[str, Any]]]:
        """Name, type, whether it is optional and options of every input, in order."""
        found = []
        for part in ("required", "optional"):
            for name, (kind, *rest) in self.offer["input"].get(part, {}).items():
                kind = "COMBO" if isinstance(kind, list) else kind
                found.append((name, kind, part == "optional", rest[0] if rest else {}))
        return [entry for entry in found if not entry[3].get("socketless") and not entry[3].get("hidden")]

    @property
    def height(self) -> float:
        kinds = [kind in WIDGETS for _, kind, _, _ in self.inputs()]
        sockets = max(kinds.count(False), len(self.offer["output"]))
        said = 50 if self.type.startswith("PoseFR") else 0
        return sockets * ROW + kinds.count(True) * WIDGET_ROW + 10 + said + SHOWS.get(self.type, 0)


Output = tuple[Node, int, str]  # a node, the place of its output, and the output's type
Taken = Sequence[tuple[Node, str]]  # nodes and their inputs that an input of a subgraph goes to


class Graph:
    """A graph that grows column by column."""

    def __init__(self, offers: dict[str, Any]) -> None:
        self.offers = offers
        self.nodes: list[Node] = []
        self.notes: list[dict[str, Any]] = []
        self.groups: list[dict[str, Any]] = []
        self.x = self.y = 0.0

    def column(self, gap: float = 2 * GAP) -> None:
        """Begin a column to the right of everything so far."""
        right = [n.at[0] + n.width for n in self.nodes] + [n["pos"][0] + n["size"][0] for n in self.notes]
        self.x, self.y = max(right, default=-gap) + gap, 0.0

    def add(self, kind: str, *, title: str | None = None, wide: float = WIDTH, **values: Any) -> Node:
        """A node below the last one; a value is another node's output or what the widget of that name holds."""
        if kind not in self.offers:
            raise SystemExit(f"This ComfyUI has no node {kind}.")
        node = Node(len(self.nodes) + 1, kind, self.offers[kind], values, title, at=(self.x, self.y), width=wide)
        unknown = set(values) - {name for name, *_ in node.inputs()}
        if unknown:
            raise SystemExit(f"{kind} has no input {', '.join(sorted(unknown))}.")
        for name, kind, _, options in node.inputs():
            choices = _choices(node.offer, name, options) if kind == "COMBO" and "upload" not in str(options) else []
            if choices and isinstance(values.get(name), str) and values[name] not in choices:
                raise SystemExit(f"{node.type}: {name} cannot be {values[name]}, only {', '.join(choices)}.")
        self.nodes.append(node)
        self.y += node.height + TITLE + GAP
        return node

    def note(self, text: str, height: float = 150) -> None:
        self.notes.append({"pos": [self.x, self.y], "size": [WIDTH, height], "text": text})
        self.y += height + TITLE + GAP

    def group(self, title: str, *nodes: Node) -> None:
        left, top = min(n.at[0] for n in nodes), min(n.at[1] for n in nodes)
        right, bottom = max(n.at[0] + n.width for n in nodes), max(n.at[1] + n.height for n in nodes)
        box = [left - 20, top - TITLE - 50, right - left + 40, bottom - top + TITLE + 70]
        self.groups.append({"title": title, "bounding": box, "color": "#3f789e", "font_size": 24, "flags": {}})

    def parts(self, outer: Mapping[str, Taken] | None = None) -> tuple[list[dict], list[list]]:
        """The nodes as they are saved, and the links [id, source, output, target, input, type].

        `outer` names the inputs of the subgraph that this is and where each goes: they come from node -10.
        """
        saved: list[dict[str, Any]] = []
        links: list[list[Any]] = []
        given = {(node.id, name): place for place, to in enumerate((outer or {}).values()) for node, name in to}
        for order, node in enumerate(self.nodes):
            sockets, widgets = [], []
            for place, (name, kind, optional, options) in enumerate(node.inputs()):
                value = node.values.get(name)
                entry: dict[str, Any] = {"name": name, "type": kind, "link": None}
                if isinstance(value, tuple):
                    source, index, given_kind = value
                    entry["link"] = len(links) + 1
                    links.append([entry["link"], source.id, index, node.id, place, given_kind])
                elif (node.id, name) in given:
                    entry["link"] = len(links) + 1
                    links.append([entry["link"], -10, given[node.id, name], node.id, place, kind])
                if kind in WIDGETS and not options.get("forceInput"):
                    entry["widget"] = {"name": name}
                    widgets.append(
                        _default(kind, node.offer, name, options)
                        if value is None or isinstance(value, tuple)
                        else value
                    )
                    if options.get("control_after_generate"):
                        widgets.append("fixed")
                    if options.get("image_upload") or options.get("video_upload"):
                        widgets.append("image")
                elif optional:
                    entry["shape"] = 7
                sockets.append(entry)
            properties = {"Node name for S&R": node.type, **node.extra}
            if node.type.startswith("PoseFR"):
                properties = {"cnr_id": "posefr", **properties}
            entry = {
                "id": node.id,
                "type": node.type,
                "pos": [round(v) for v in node.at],
                "size": [node.width, round(node.height)],
                "flags": {},
                "order": order,
                "mode": 0,
                "inputs": sockets,
                "outputs": [
                    {"name": name, "type": kind, "links": None}
                    for name, kind in zip(node.offer["output_name"], node.offer["output"], strict=True)
                ],
                "properties": properties,
                "widgets_values": widgets,
            }
            if node.title:
                entry["title"] = node.title
            saved.append(entry)
        by_id = {entry["id"]: entry for entry in saved}
        for link, source, index, *_ in links:
            if source in by_id:
                output = by_id[source]["outputs"][index]
                output["links"] = [*(output["links"] or []), link]
        return saved, links

    def workflow(self, name: str) -> dict[str, Any]:
        nodes, links = self.parts()
        for note in self.notes:
            nodes.append(_note(len(nodes) + 1, note))
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"posefr/{name}")),
            "revision": 0,
            "last_node_id": len(nodes),
            "last_link_id": len(links),
            "nodes": nodes,
            "links": links,
            "groups": [{"id": i + 1, **group} for i, group in enumerate(self.groups)],
            "config": {},
            "extra": {},
            "version": 0.4,
        }

    def blueprint(
        self, name: str, description: str, inputs: Mapping[str, Taken], outputs: Mapping[str, Output]
    ) -> dict[str, Any]:
        """A file of subgraphs/: one node, `name`, whose inside is this graph.

        Args:
            inputs: its sockets and widgets by name, and the inputs inside that each one sets.
            outputs: its outputs by name.
        """
        nodes, links = self.parts(inputs)
        for place, (source, index, kind) in enumerate(outputs.values()):
            links.append([len(links) + 1, source.id, index, -20, place, kind])
            output = nodes[source.id - 1]["outputs"][index]
            output["links"] = [*(output["links"] or []), len(links)]
        identity = str(uuid.uuid5(uuid.NAMESPACE_URL, f"posefr/blueprint/{name}"))
        kinds = {(node.id, entry[0]): entry[1] for node in self.nodes for entry in node.inputs()}
        right = max(n.at[0] + n.width for n in self.nodes)
        taken, proxies = [], []
        for place, (label, to) in enumerate(inputs.items()):
            node, widget = to[0]
            kind = kinds[node.id, widget]
            socket: dict[str, Any] = {"name": label, "type": kind, "link": None}
            if kind in WIDGETS:
                socket["widget"] = {"name": label}
                proxies.append([str(node.id), widget])
            taken.append((socket, [link[0] for link in links if link[1] == -10 and link[2] == place]))
        made = []
        for place, (label, (_, _, kind)) in enumerate(outputs.items()):
            made.append((label, kind, [link[0] for link in links if link[3] == -20 and link[4] == place]))
        outer = {
            "id": 1,
            "type": identity,
            "pos": [0, 0],
            "size": [340, len(taken) * WIDGET_ROW + 80],
            "flags": {},
            "order": 0,
            "mode": 0,
            "inputs": [socket for socket, _ in taken],
            "outputs": [{"name": label, "type": kind, "links": []} for label, kind, _ in made],
            "title": name,
            "properties": {"proxyWidgets": proxies, "cnr_id": "posefr"},
            "widgets_values": [],
        }
        inside = {
            "id": identity,
            "version": 1,
            "state": {
                "lastGroupId": 0,
                "lastNodeId": len(nodes),
                "lastLinkId": len(links),
                "lastRerouteId": 0,
            },
            "revision": 0,
            "config": {},
            "name": name,
            "description": description,
            "inputNode": {"id": -10, "bounding": [-260, 0, 140, 40 + ROW * len(taken)]},
            "outputNode": {"id": -20, "bounding": [right + 120, 0, 120, 40 + ROW * len(made)]},
            "inputs": [
                {
                    "id": str(uuid.uuid5(uuid.UUID(identity), f"in/{socket['name']}")),
                    "name": socket["name"],
                    "type": socket["type"],
                    "linkIds": ids,
                    "pos": [-140, 20 + ROW * place],
                }
                for place, (socket, ids) in enumerate(taken)
            ],
            "outputs": [
                {
                    "id": str(uuid.uuid5(uuid.UUID(identity), f"out/{label}")),
                    "name": label,
                    "type": kind,
                    "linkIds": ids,
                    "pos": [right + 140, 20 + ROW * place],
                }
                for place, (label, kind, ids) in enumerate(made)
            ],
            "widgets": [],
            "nodes": nodes,
            "groups": [],
            "links": [
                dict(zip(("id", "origin_id", "origin_slot", "target_id", "target_slot", "type"), link, strict=True))
                for link in links
            ],
            "extra": {},
            "category": "PoseFR",
        }
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"posefr/blueprint/file/{name}")),
            "revision": 0,
            "last_node_id": 1,
            "last_link_id": 0,
            "nodes": [outer],
            "links": [],
            "version": 0.4,
            "definitions": {"subgraphs": [inside]},
            "extra": {},
        }


def _choices(offer: dict[str, Any], name: str, options: dict[str, Any]) -> list[str]:
    """What a combo offers; old nodes write the list in place of the type."""
    first = (offer["input"].get("required", {}).get(name) or offer["input"]["optional"][name])[0]
    return first if isinstance(first, list) else options["options"]


def _default(kind: str, offer: dict[str, Any], name: str, options: dict[str, Any]) -> Any:
    """What a widget holds when it is new."""
    if "default" in options:
        return options["default"]
    if kind == "COMBO":
        return next(iter(_choices(offer, name, options)), "")
    if kind == "COMFY_DYNAMICCOMBO_V3":
        return options["options"][0]["key"]
    return {"INT": 0, "FLOAT": 0.0, "BOOLEAN": False}.get(kind, "")


def _note(number: int, note: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": number,
        "type": "MarkdownNote",
        "pos": [round(v) for v in note["pos"]],
        "size": note["size"],
        "flags": {},
        "order": number - 1,
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "properties": {},
        "widgets_values": [note["text"]],
        "color": "#432",
        "bgcolor": "#653",
        "title": "How to use this",
    }


# The workflows


def restore_faces_one_node(g: Graph) -> None:
    g.column()
    load = g.add("LoadImage", image="example.png")
    g.note(
        "**Pick your photo above, then press Run.**\n\nEvery face is found, restored and pasted back. *strength* "
        "blends, *fidelity* 1 keeps closest to the photo."
    )
    g.column()
    one = g.add("PoseFRRestoreFacesInImage", wide=340, image=load["IMAGE"])
    g.column()
    g.add("SaveImage", wide=420, images=one["image"], filename_prefix="PoseFR")


def _detect(g: Graph, image: Output, **values: Any) -> Node:
    detector = g.add("PoseFRLoadDetector")
    return g.add("PoseFRDetectFaces", detector=detector["detector"], image=image, **values)


def restore_faces_step_by_step(g: Graph) -> None:
    g.column()
    load = g.add("LoadImage", image="example.png")
    g.note(
        "**Pick your photo above, then press Run.**\n\nThe one-node example, taken apart. Any node for images can sit "
        "between Crop Faces and Paste Faces: an upscaler, a sampler, colour.",
        170,
    )
    g.column()
    faces = _detect(g, load["IMAGE"])
    g.add("PoseFRPreviewFaces", image=load["IMAGE"], faces=faces["faces"])
    g.column()
    select = g.add("PoseFRSelectFaces", faces=faces["faces"])
    g.column()
    restorer = g.add("PoseFRLoadRestorer")
    crop = g.add("PoseFRCropFaces", image=load["IMAGE"], faces=select["faces"], restorer=restorer["restorer"])
    g.add("PreviewImage", title="Faces as they were", images=crop["images"])
    g.column()
    restore = g.add("PoseFRRestoreFaces", restorer=restorer["restorer"], images=crop["images"], crops=crop["crops"])
    g.add("PreviewImage", title="Faces restored", images=restore["restored"])
    g.column()
    paste = g.add("PoseFRPasteFaces", image=load["IMAGE"], crops=crop["crops"], restored=restore["restored"])
    g.column()
    g.add("SaveImage", wide=420, images=paste["image"], filename_prefix="PoseFR")


def _restore(g: Graph, image: Output, faces: Output, **paste: Any) -> Node:
    """Crop, restore and paste in one column; returns Paste Faces."""
    restorer = g.add("PoseFRLoadRestorer")
    crop = g.add("PoseFRCropFaces", image=image, faces=faces, restorer=restorer["restorer"])
    restore = g.add("PoseFRRestoreFaces", restorer=restorer["restorer"], images=crop["images"], crops=crop["crops"])
    return g.add("PoseFRPasteFaces", image=image, crops=crop["crops"], restored=restore["restored"], **paste)


def choose_faces_by_index(g: Graph) -> None:
    g.column()
    load = g.add("LoadImage", image="example.png")
    g.note(
        "**Pick a photo of several people, then press Run.**\n\nPreview Faces writes a number on every face, counted "
        "from the left. Type the numbers to restore into *indices* of Select Faces: `0` for the first, `0,2-4` for "
        "some, nothing for all. Keep *order* the same on both nodes.",
        200,
    )
    g.column()
    faces = _detect(g, load["IMAGE"])
    g.column()
    g.add("PoseFRPreviewFaces", wide=420, image=load["IMAGE"], faces=faces["faces"], order="left_to_right")
    g.column()
    select = g.add("PoseFRSelectFaces", faces=faces["faces"], order="left_to_right", indices="0")
    g.add("PoseFRFaceReport", faces=faces["faces"], images=load["IMAGE"], order="left_to_right")
    g.column()
    paste = _restore(g, load["IMAGE"], select["faces"])
    g.column()
    g.add("SaveImage", wide=420, images=paste["image"], filename_prefix="PoseFR")


def _checkpoint(g: Graph) -> Node:
    node = g.add("CheckpointLoaderSimple", ckpt_name=CHECKPOINT)
    node.extra["models"] = [{"name": CHECKPOINT, "url": CHECKPOINT_URL, "directory": "checkpoints"}]
    return node


def restore_small_faces_after_sampler(g: Graph) -> None:
    g.column()
    g.note(
        "**Pick a checkpoint, then press Run.**\n\nDiffusion models draw faces badly when they are small. Only faces "
        "below *max_size* px of Select Faces are restored; larger ones stay as the sampler made them.\n\nThe blue "
        "group stands for your own workflow: connect any IMAGE in place of VAE Decode.",
        220,
    )
    g.column(3 * GAP)
    checkpoint = _checkpoint(g)
    g.column()
    positive = g.add(
        "CLIPTextEncode",
        title="Prompt",
        clip=checkpoint["CLIP"],
        text="photo of a group of friends standing in a park, full body, smiling, afternoon light",
    )
    negative = g.add("CLIPTextEncode", title="Negative prompt", clip=checkpoint["CLIP"], text="blurry, text, watermark")
    empty = g.add("EmptyLatentImage", width=768, height=512)
    g.column()
    sampler = g.add(
        "KSampler",
        model=checkpoint["MODEL"],
        positive=positive["CONDITIONING"],
        negative=negative["CONDITIONING"],
        latent_image=empty["LATENT"],
        seed=1,
        cfg=7.0,
    )
    decode = g.add("VAEDecode", samples=sampler["LATENT"], vae=checkpoint["VAE"])
    g.group("Your sampler", checkpoint, positive, negative, empty, sampler, decode)
    g.column(3 * GAP)
    faces = _detect(g, decode["IMAGE"], working_size=1280)
    select = g.add("PoseFRSelectFaces", faces=faces["faces"], max_size=160)
    g.column()
    paste = _restore(g, decode["IMAGE"], select["faces"])
    g.column()
    g.add("SaveImage", wide=420, images=paste["image"], filename_prefix="PoseFR")


def sampler_on_face_crops(g: Graph) -> None:
    g.column()
    load = g.add("LoadImage", image="example.png")
    g.note(
        "**Pick your photo and a checkpoint, then press Run.**\n\nEvery face is cut out upright at 512 px with some of "
        "what is around it (*context* of Crop Faces), redrawn by the sampler and pasted back. *denoise* of "
        "KSampler says how much is redrawn: 0.2 to 0.5 keeps the person. *color_match* keeps the photo's colours.",
        210,
    )
    g.column()
    faces = _detect(g, load["IMAGE"])
    crop = g.add("PoseFRCropFaces", image=load["IMAGE"], faces=faces["faces"], size=512, context=1.5)
    g.column(3 * GAP)
    checkpoint = _checkpoint(g)
    positive = g.add(
        "CLIPTextEncode", title="Prompt", clip=checkpoint["CLIP"], text="close-up photo of a face, sharp, natural skin"
    )
    negative = g.add("CLIPTextEncode", title="Negative prompt", clip=checkpoint["CLIP"], text="blurry, painting, text")
    g.column()
    encode = g.add("VAEEncode", pixels=crop["images"], vae=checkpoint["VAE"])
    sampler = g.add(
        "KSampler",
        model=checkpoint["MODEL"],
        positive=positive["CONDITIONING"],
        negative=negative["CONDITIONING"],
        latent_image=encode["LATENT"],
        seed=1,
        cfg=5.0,
        denoise=0.35,
    )
    decode = g.add("VAEDecode", samples=sampler["LATENT"], vae=checkpoint["VAE"])
    g.group("Any image to image workflow", checkpoint, positive, negative, encode, sampler, decode)
    g.column(3 * GAP)
    paste = g.add(
        "PoseFRPasteFaces",
        image=load["IMAGE"],
        crops=crop["crops"],
        restored=decode["IMAGE"],
        color_match="wavelet",
    )
    g.column()
    g.add("SaveImage", wide=420, images=paste["image"], filename_prefix="PoseFR")


def restore_faces_in_video(g: Graph) -> None:
    g.column()
    load = g.add("LoadVideo", file="example.mp4")
    g.note(
        "**Pick your video, then press Run.**\n\nTrack Faces steadies the faces over the frames, so that restored "
        "faces do not tremble, and numbers them as tracks; after a cut new tracks begin. To restore one person alone, "
        "look up that person's tracks with Preview Faces, put Select Faces behind Track Faces and type them into "
        "*tracks*, such as `0,3`.\n\nAll frames are in memory at once. For a long video there is the example with "
        "Restore Faces In Video.",
        230,
    )
    g.column()
    parts = g.add("GetVideoComponents", video=load["VIDEO"])
    faces = _detect(g, parts["images"])
    track = g.add("PoseFRTrackFaces", faces=faces["faces"], images=parts["images"])
    g.column()
    paste = _restore(g, parts["images"], track["faces"])
    g.column()
    video = g.add("CreateVideo", images=paste["image"], audio=parts["audio"], fps=parts["fps"])
    g.add("SaveVideo", wide=420, video=video["VIDEO"], filename_prefix="video/PoseFR")


def restore_faces_in_long_video(g: Graph) -> None:
    g.column()
    load = g.add("LoadVideo", file="example.mp4")
    g.note(
        "**Pick your video, then press Run.**\n\nIt may be of any length: only a few frames are in memory at a time. "
        "The sound is kept. Leave *format* and *codec* of Save Video on auto, so that the video is not compressed "
        "twice; *quality* tells how strongly it is."
    )
    g.column()
    one = g.add("PoseFRRestoreFacesInVideo", wide=340, video=load["VIDEO"])
    g.column()
    g.add("SaveVideo", wide=420, video=one["video"], filename_prefix="video/PoseFR")


def keep_hair_and_glasses(g: Graph) -> None:
    g.column()
    load = g.add("LoadImage", image="example.png")
    g.note(
        "**Pick your photo, then press Run.**\n\nFace Parts Mask tells skin, glasses, hair, hat and neck apart. Only "
        "what is switched on is pasted; the rest stays as it is in the photo.\n\nIts network is fetched when it is "
        "first used (parsenet, 85 MB). The help page of the node tells where a file goes that you have already.",
        230,
    )
    g.column()
    faces = _detect(g, load["IMAGE"])
    restorer = g.add("PoseFRLoadRestorer")
    g.column()
    crop = g.add("PoseFRCropFaces", image=load["IMAGE"], faces=faces["faces"], restorer=restorer["restorer"])
    restore = g.add("PoseFRRestoreFaces", restorer=restorer["restorer"], images=crop["images"], crops=crop["crops"])
    g.column()
    parts = g.add("PoseFRFacePartsMask", crops=crop["crops"], parser="parsenet")
    paste = g.add(
        "PoseFRPasteFaces",
        image=load["IMAGE"],
        crops=crop["crops"],
        restored=restore["restored"],
        crop_masks=parts["masks"],
        feather=3.0,
    )
    g.column()
    g.add("SaveImage", wide=420, images=paste["image"], filename_prefix="PoseFR")


def boxes_from_other_nodes(g: Graph) -> None:
    g.column()
    load = g.add("LoadImage", image="example.png")
    g.note(
        "**Pick your photo, then press Run.**\n\nFaces From Boxes takes the boxes of any other node: SEGS or BBOX of "
        "the Impact Pack, or BOUNDING_BOX of ComfyUI's own nodes, and finds eyes, nose and mouth in them.\n\nThe blue "
        "group stands for that other node: connect yours instead.",
        220,
    )
    g.column()
    faces = _detect(g, load["IMAGE"])
    boxes = g.add("PoseFRFacesToBoxes", faces=faces["faces"], image=load["IMAGE"])
    g.group("Boxes from any node", *g.nodes[-3:])
    g.column(3 * GAP)
    back = g.add("PoseFRFacesFromBoxes", image=load["IMAGE"], segs=boxes["segs"])
    g.column()
    paste = _restore(g, load["IMAGE"], back["faces"])
    g.column()
    g.add("SaveImage", wide=420, images=paste["image"], filename_prefix="PoseFR")


WORKFLOWS = [
    restore_faces_one_node,
    restore_faces_step_by_step,
    choose_faces_by_index,
    restore_small_faces_after_sampler,
    sampler_on_face_crops,
    restore_faces_in_video,
    restore_faces_in_long_video,
    keep_hair_and_glasses,
    boxes_from_other_nodes,
]


def restore_chosen_faces(g: Graph) -> dict[str, Any]:
    """The steps in one node, with the widgets that matter on it: a start for a node of one's own."""
    g.column()
    detector = g.add("PoseFRLoadDetector")
    faces = g.add("PoseFRDetectFaces", detector=detector["detector"])
    select = g.add("PoseFRSelectFaces", faces=faces["faces"])
    g.column()
    restorer = g.add("PoseFRLoadRestorer")
    crop = g.add("PoseFRCropFaces", faces=select["faces"], restorer=restorer["restorer"])
    restore = g.add("PoseFRRestoreFaces", restorer=restorer["restorer"], images=crop["images"], crops=crop["crops"])
    g.column()
    paste = g.add("PoseFRPasteFaces", crops=crop["crops"], restored=restore["restored"])
    return g.blueprint(
        "Restore Chosen Faces (PoseFR)",
        "Finds faces, restores those that are chosen by number or size, and pastes them back. Open it to put other "
        "nodes between the steps.",
        {
            "image": [(faces, "image"), (crop, "image"), (paste, "image")],
            "order": [(select, "order")],
            "indices": [(select, "indices")],
            "max_size": [(select, "max_size")],
            "fidelity": [(restore, "fidelity")],
            "strength": [(paste, "strength")],
            "detector": [(detector, "detector")],
            "restorer": [(restorer, "restorer")],
        },
        {"image": paste["image"], "mask": paste["mask"], "faces": select["faces"]},
    )


BLUEPRINTS = [restore_chosen_faces]


def write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(path.relative_to(ROOT))


def main() -> None:
    comfyui = comfyui_server.from_environment()
    if comfyui is None:
        raise SystemExit(f"docs/workflows.py {comfyui_server.NEEDED}.")
    with tempfile.TemporaryDirectory() as base, comfyui_server.running(comfyui, Path(base)) as server:
        offers = server.ask("/object_info")
    for make in WORKFLOWS:
        graph = Graph(offers)
        make(graph)
        write(ROOT / "example_workflows" / f"{make.__name__}.json", graph.workflow(make.__name__))
    for make in BLUEPRINTS:
        blueprint = make(Graph(offers))
        write(ROOT / "subgraphs" / f"{blueprint['nodes'][0]['title']}.json", blueprint)


if __name__ == "__main__":
    main()
