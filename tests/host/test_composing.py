"""Every node in a real ComfyUI, with its own nodes between ours and other packs' types on both sides."""

from __future__ import annotations

import json
from urllib.error import HTTPError

import numpy as np
import photos
import pytest
import torch
from PIL import Image
from workflows import ALL_FACES, DETECT, PASTE, composed, node, one_node, read

FIND, GUESS = "find with the detector", "mean face"
FROM_BOXES = {"landmarks": FIND, "bbox_layout": "x0 y0 x1 y1", "threshold": 0.5}
TO_BOXES = {"crop_factor": 3.0, "seg_mask": "hull", "bbox_layout": "x0 y0 x1 y1"}
SIDE = 320  # px, of the pictures here


@pytest.fixture(scope="session")
def pictures(server) -> dict[str, str]:
    """Pictures in the input folder: a face, the same face in a wide picture and moved to the right, and noise."""
    face = photos.astronaut().crop((64, 0, 384, 320))
    wide = Image.new("RGB", (400, 240), (90, 110, 130))
    wide.paste(face.resize((240, 240)), (100, 0))
    moved = Image.new("RGB", (SIDE, SIDE))
    moved.paste(face, (0, 0))
    moved.paste(face, (6, 2))
    noise = Image.effect_noise((SIDE, SIDE), 40).convert("RGB")
    made = {"face": face, "wide": wide, "moved": moved, "noise": noise}
    for name, picture in made.items():
        picture.save(server.base / "input" / f"composing_{name}.png")
    return {name: f"composing_{name}.png" for name in made}


def needs(server, *names: str) -> None:
    """Skip where this ComfyUI is older than some of its nodes."""
    absent = [name for name in names if name not in server.ask("/object_info")]
    if absent:
        pytest.skip(f"this ComfyUI has no node {', '.join(absent)}")


def report(entry: dict, name: str = "report") -> dict:
    return json.loads(entry["outputs"][name]["text"][0])


def from_boxes(picture: str, landmarks: str = FIND, **boxes) -> dict:
    return {
        "load": node("LoadImage", image=picture),
        "boxed": node("PoseFRFacesFromBoxes", image=["load", 0], **{**FROM_BOXES, "landmarks": landmarks}, **boxes),
        "report": node("PoseFRFaceReport", faces=["boxed", 0], order="area"),
    }


def detected(picture: str) -> dict:
    """Load -> detect -> report."""
    return {
        "load": node("LoadImage", image=picture),
        "detector": node("PoseFRLoadDetector", detector="bundled"),
        "detect": node("PoseFRDetectFaces", detector=["detector", 0], image=["load", 0], **DETECT),
        "report": node("PoseFRFaceReport", faces=["detect", 0], images=["load", 0], order="area"),
    }


# Boxes


def test_the_hosts_bounding_box_becomes_a_face(server, pictures):
    """A box that someone typed in, much larger than the face; the landmarks are those that Detect Faces finds."""
    needs(server, "PrimitiveBoundingBox")
    known = report(server.run(detected(pictures["face"])))["faces"][0]
    workflow = from_boxes(pictures["face"], bounding_boxes=["box", 0])
    workflow["box"] = node("PrimitiveBoundingBox", x=70, y=40, width=190, height=200)
    found = report(server.run(workflow))["faces"][0]
    assert np.abs(np.subtract(found["landmarks"], known["landmarks"])).max() < 4
    assert found["score"] == 1
    assert found["yaw"] is not None
    workflow = from_boxes(pictures["face"], GUESS, bounding_boxes=["box", 0])
    workflow["box"] = node("PrimitiveBoundingBox", x=70, y=40, width=190, height=200)
    guessed = report(server.run(workflow))["faces"][0]
    assert guessed["box"] == [70, 40, 260, 240]
    assert guessed["yaw"] is None


def test_boxes_go_through_the_hosts_nodes_and_come_back(server, pictures):
    """Ours -> BOUNDING_BOX -> core's Draw BBoxes and Crop By Bounding Boxes; and back to the same faces."""
    needs(server, "DrawBBoxes", "CropByBBoxes")
    workflow = detected(pictures["face"])
    workflow["boxes"] = node("PoseFRFacesToBoxes", faces=["detect", 0], image=["load", 0], **TO_BOXES)
    workflow["drawn"] = node("DrawBBoxes", image=["load", 0], bboxes=["boxes", 2])
    workflow["crop"] = node(
        "CropByBBoxes",
        image=["load", 0],
        bboxes=["boxes", 2],
        output_width=64,
        output_height=64,
        padding=0,
        keep_aspect="stretch",
    )
    workflow["show"] = node("PreviewImage", images=["drawn", 0])
    workflow["cut"] = node("PreviewImage", images=["crop", 0])
    for output, socket in enumerate(("segs", "bbox", "bounding_boxes")):
        boxes = {socket: ["boxes", output]}
        workflow[socket] = node(
            "PoseFRFacesFromBoxes", image=["load", 0], **{**FROM_BOXES, "landmarks": GUESS}, **boxes
        )
        workflow[f"report {socket}"] = node("PoseFRFaceReport", faces=[socket, 0], order="area")
    entry = server.run(workflow)
    drawn, before = read(server.pictures(entry, "show")[0]), read(server.base / "input" / pictures["face"])
    x0, y0, x1, y1 = report(entry)["faces"][0]["box"]
    columns = np.nonzero((drawn != before).any((0, 2)))[0]
    assert abs(columns.min() - x0) < 3
    assert abs(columns.max() - x1) < 3
    assert read(server.pictures(entry, "cut")[0]).shape == (64, 64, 3)
    for socket in ("bbox", "bounding_boxes"):
        (face,) = report(entry, f"report {socket}")["faces"]
        assert face["box"] == [x0, y0, x1, y1]
    (face,) = report(entry, "report segs")["faces"]
    assert np.abs(np.subtract(face["box"], [x0, y0, x1, y1])).max() <= 0.5, "SEGS have whole px"


def test_segs_as_another_pack_makes_and_reads_them(server, pictures):
    """A pack of the tests with the Impact Pack's structure: it finds boxes, and paints the regions that it is given."""
    workflow = from_boxes(pictures["face"], segs=["theirs", 0])
    workflow["theirs"] = node("TestSegs", image=["load", 0], x=80, y=50, side=150)
    workflow["boxes"] = node("PoseFRFacesToBoxes", faces=["boxed", 0], image=["load", 0], **TO_BOXES)
    workflow["painted"] = node("TestPaintSegs", image=["load", 0], segs=["boxes", 0])
    workflow["show"] = node("PreviewImage", images=["painted", 0])
    entry = server.run(workflow)
    (face,) = report(entry)["faces"]
    assert face["score"] == 0.75
    changed = (read(server.pictures(entry, "show")[0]) != read(server.base / "input" / pictures["face"])).any(2)
    for x, y in face["landmarks"]:
        assert changed[int(y), int(x)]
    assert 0.01 < changed.mean() < 0.3


# Masks


@pytest.fixture
def parser_weights(server) -> None:
    """A BiSeNet with random weights where the host looks for it: what it calls skin is arbitrary, but not constant."""
    from posefr.detection import ensure_torchvision

    ensure_torchvision()
    from facexlib.parsing.bisenet import BiSeNet

    torch.manual_seed(0)
    path = server.base / "models" / "facexlib" / "parsing_bisenet.pth"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(BiSeNet(num_class=19).state_dict(), path)


def parts(**chosen) -> dict:
    return {part: chosen.get(part, False) for part in ("skin", "glasses", "hair", "hat", "neck")}


def test_an_absent_parser_ends_in_one_sentence(server, pictures):
    workflow = composed(pictures["face"])
    absent = server.base / "models" / "facexlib" / "parsing_bisenet.pth"
    absent.unlink(missing_ok=True)
    workflow["parts"] = node("PoseFRFacePartsMask", crops=["crop", 0], parser="bisenet", **parts(skin=True))
    workflow["paste"]["inputs"]["crop_masks"] = ["parts", 0]
    entry = server.result(server.queue(workflow))
    (error,) = (data for kind, data in entry["status"]["messages"] if kind == "execution_error")
    assert error["exception_type"].endswith("PoseFRError")
    assert "parsing_bisenet.pth is not in" in error["exception_message"]
    assert str(absent.parent) in error["exception_message"]


def test_parts_of_faces_go_through_the_hosts_mask_nodes_to_paste(server, pictures, parser_weights):
    """Skin and everything else make the whole crop; between them and Paste Faces stand nodes of the core."""
    offers = server.ask("/object_info/PoseFRFacePartsMask")["PoseFRFacePartsMask"]["input"]["required"]
    assert offers["parser"][1]["options"][0] == "bisenet", "what is there comes first"
    workflow = composed(pictures["face"])
    workflow["restore"] = node("ImageInvert", image=["crop", 1])  # any node for images
    workflow["parts"] = node(
        "PoseFRFacePartsMask", crops=["crop", 0], parser="bisenet", **parts(skin=True, hair=True, neck=True)
    )
    workflow["grown"] = node("GrowMask", mask=["parts", 0], expand=2, tapered_corners=True)
    workflow["others"] = node("InvertMask", mask=["grown", 0])
    workflow["paste"]["inputs"] |= {"crop_masks": ["grown", 0], "feather": 0.0, "mask": "box"}
    workflow["again"] = node(
        "PoseFRPasteFaces",
        image=["load", 0],
        crops=["crop", 0],
        restored=["restore", 0],
        crop_masks=["others", 0],
        **{**PASTE, "feather": 0.0},
    )
    for name, mask in (("first", ["paste", 1]), ("second", ["again", 1])):
        workflow[name] = node("MaskPreview", mask=mask)
    entry = server.run(workflow)
    first, second = (read(server.pictures(entry, name)[0])[..., 0] / 255 for name in ("first", "second"))
    assert min(first.max(), second.max()) > 0.1
    assert 0.95 < (first + second).max() < 1.02, "they share out the crop"


def test_a_painted_mask_limits_what_is_pasted(server, pictures):
    """A mask of half the picture's size, as one of the picture before upscaling is, from nodes of the core."""
    workflow = composed(pictures["face"])
    half = SIDE // 2
    workflow["none"] = node("SolidMask", value=0.0, width=half, height=half)
    workflow["upper"] = node("SolidMask", value=1.0, width=half, height=55)
    workflow["mask"] = node("MaskComposite", destination=["none", 0], source=["upper", 0], x=0, y=0, operation="add")
    workflow["paste"]["inputs"]["custom_mask"] = ["mask", 0]
    after = read(server.pictures(server.run(workflow), "save")[0])
    changed = (after != read(server.base / "input" / pictures["face"])).any(2)
    assert changed[:105].any()
    assert not changed[112:].any()


# Batches, lists, and nothing at all


def test_crops_go_through_any_image_node_and_come_back(server, pictures):
    """Scaled to another size, blurred and inverted twice on the way: the picture changes in the face alone."""
    workflow = composed(pictures["face"])
    workflow["larger"] = node(
        "ImageScale", image=["crop", 1], upscale_method="lanczos", width=384, height=384, crop="disabled"
    )
    workflow["blur"] = node("ImageBlur", image=["larger", 0], blur_radius=5, sigma=2.0)
    workflow["restore"] = node("ImageInvert", image=["blur", 0])
    workflow["back"] = node("ImageInvert", image=["restore", 0])
    workflow["faces"]["inputs"]["images"] = workflow["paste"]["inputs"]["restored"] = ["back", 0]
    after = read(server.pictures(server.run(workflow), "save")[0])
    before = read(server.base / "input" / pictures["face"])
    changed = (after != before).any(2)
    assert 0.02 < changed.mean() < 0.4
    assert np.abs(after - before)[changed].mean() < 20


def test_a_list_of_images_of_different_sizes_runs_through_every_node(server, pictures, parser_weights):
    """The host runs each node once for each image of the list; the one without a face passes through."""
    needs(server, "CreateList")
    workflow = composed(pictures["face"])
    names = ("face", "wide", "noise")
    for name in names:
        workflow[f"load {name}"] = node("LoadImage", image=pictures[name])
    workflow["load"] = node("CreateList", **{f"inputs.input{i}": [f"load {name}", 0] for i, name in enumerate(names)})
    every = every_node(workflow)
    entry = server.run(every)
    saved = server.pictures(entry, "save")
    assert len(saved) == 3
    for path, name in zip(saved, names, strict=True):
        before, after = read(server.base / "input" / pictures[name]), read(path)
        assert after.shape == before.shape
        assert (after != before).any() == (name != "noise")
    found = [json.loads(text)["count"] for text in entry["outputs"]["report"]["text"]]
    assert found == [1, 1, 0]
    again = [json.loads(text) for text in entry["outputs"]["report again"]["text"]]
    assert [(r["width"], r["height"], r["count"]) for r in again] == [(SIDE, SIDE, 1), (400, 240, 1), (SIDE, SIDE, 0)]


def every_node(workflow: dict) -> dict:
    """The composed workflow with all other nodes in it or at its side."""
    workflow["track"] = node("PoseFRTrackFaces", faces=["detect", 0], gap=5, smoothing=4.0, reach=0.8)
    workflow["report"] = node("PoseFRFaceReport", faces=["track", 0], images=["load", 0], order="area")
    workflow["select"] = node(
        "PoseFRSelectFaces", faces=["track", 0], images=["load", 0], **{**ALL_FACES, "max_sharpness": 200.0}
    )
    workflow["boxes"] = node("PoseFRFacesToBoxes", faces=["select", 0], image=["load", 0], **TO_BOXES)
    workflow["boxed"] = node(
        "PoseFRFacesFromBoxes",
        image=["load", 0],
        segs=["boxes", 0],
        detector=["detector", 0],
        **FROM_BOXES,
    )
    workflow["report again"] = node("PoseFRFaceReport", faces=["boxed", 0], order="area")
    workflow["crop"]["inputs"]["faces"] = ["boxed", 0]
    workflow["parts"] = node(
        "PoseFRFacePartsMask",
        crops=["crop", 0],
        images=["restore", 0],
        parser="bisenet",
        **parts(skin=True, glasses=True, hair=True, hat=True, neck=True),
    )
    workflow["paste"]["inputs"]["crop_masks"] = ["parts", 0]
    return workflow


def test_a_picture_without_a_face_runs_through_every_node(server, pictures):
    entry = server.run(every_node(composed(pictures["noise"])))
    assert np.array_equal(read(server.pictures(entry, "save")[0]), read(server.base / "input" / pictures["noise"]))
    assert report(entry)["per_frame"] == [0]


@pytest.mark.parametrize(
    ("picture", "strength", "runs"), [("noise", 1.0, False), ("face", 0.0, False), ("face", 1.0, True)]
)
def test_a_sampler_between_crop_and_paste_runs_only_for_faces_that_are_pasted(
    server, pictures, picture, strength, runs
):
    passes = server.base / "output" / "passes.txt"
    passes.unlink(missing_ok=True)
    workflow = composed(pictures[picture])
    for absent in ("restorer", "restore", "faces"):
        del workflow[absent]
    del workflow["crop"]["inputs"]["restorer"]
    workflow["crop"]["inputs"]["context"] = 1.5
    workflow["sampler"] = node("TestSlowImages", images=["crop", 1])
    workflow["paste"]["inputs"] |= {"restored": ["sampler", 0], "strength": strength, "color_match": "none"}
    entry = server.run(workflow)
    assert passes.exists() == runs
    before, after = read(server.base / "input" / pictures[picture]), read(server.pictures(entry, "save")[0])
    assert np.array_equal(before, after) != runs


def test_what_cannot_be_read_is_told_before_anything_runs(server, pictures):
    workflow = composed(pictures["face"])
    workflow["select"]["inputs"]["indices"] = "0;2"
    del workflow["preview"]  # it would run all the same
    with pytest.raises(HTTPError) as refused:
        server.queue(workflow)
    assert "The face indices '0;2' cannot be read" in refused.value.read().decode()


def test_a_batch_in_which_one_picture_has_no_face(server, pictures, parser_weights):
    workflow = composed(pictures["face"])
    workflow["with"], workflow["without"] = workflow["load"], node("LoadImage", image=pictures["noise"])
    workflow["load"] = node("ImageBatch", image1=["without", 0], image2=["with", 0])
    entry = server.run(every_node(workflow))
    assert report(entry)["per_frame"] == report(entry, "report again")["per_frame"] == [0, 1]
    first, second = (read(path) for path in server.pictures(entry, "save"))
    assert np.array_equal(first, read(server.base / "input" / pictures["noise"]))
    assert (second != read(server.base / "input" / pictures["face"])).any()


def test_the_numbers_on_the_preview_select(server, pictures):
    """Two faces side by side: the one that Face Report numbers 1 from the left is the one that changes."""
    both = Image.new("RGB", (2 * SIDE, SIDE))
    face = Image.open(server.base / "input" / pictures["face"])
    both.paste(face, (0, 0))
    both.paste(face, (SIDE, 0))
    both.save(server.base / "input" / "composing_both.png")
    workflow = composed("composing_both.png")
    workflow["preview"]["inputs"]["order"] = "left_to_right"
    workflow["select"]["inputs"] |= {"order": "left_to_right", "indices": "1", "min_size": 10}
    entry = server.run(workflow)
    changed = (read(server.pictures(entry, "save")[0]) != read(server.base / "input" / "composing_both.png")).any(2)
    assert changed[:, SIDE:].any()
    assert not changed[:, :SIDE].any()


# Video


def test_a_face_keeps_its_track_over_a_video(server, pictures):
    """Four frames, the third without the face: it is filled in and restored as the others are."""
    workflow = composed(pictures["face"])
    workflow["a"], workflow["b"] = workflow["load"], node("LoadImage", image=pictures["moved"])
    workflow["noise"] = node("LoadImage", image=pictures["noise"])
    workflow["two"] = node("ImageBatch", image1=["a", 0], image2=["b", 0])
    workflow["three"] = node("ImageBatch", image1=["two", 0], image2=["noise", 0])
    workflow["load"] = node("ImageBatch", image1=["three", 0], image2=["b", 0])
    workflow["track"] = node("PoseFRTrackFaces", faces=["detect", 0], gap=5, smoothing=4.0, reach=0.8)
    workflow["select"]["inputs"] |= {"faces": ["track", 0], "tracks": "0", "frames": "0-2"}
    workflow["report"] = node("PoseFRFaceReport", faces=["select", 0], order="area")
    entry = server.run(workflow)
    told = report(entry)
    assert (told["per_frame"], told["tracks"]) == ([1, 1, 1, 0], [0])
    assert [face["score"] == 0 for face in told["faces"]] == [False, False, True]
    assert len(server.pictures(entry, "save")) == 4

    one = one_node(pictures["face"], video=True)
    one["batch"] = node("ImageBatch", image1=["three", 0], image2=["b", 0])
    one |= {name: workflow[name] for name in ("a", "b", "noise", "two", "three")}
    one["report"] = node("PoseFRFaceReport", faces=["one", 2], order="area")
    assert report(server.run(one))["per_frame"] == [1, 1, 1, 1]


def test_a_video_file_goes_through_with_its_sound_and_as_the_batch_of_its_frames_would(server):
    """Load Video, cut to a second and a half, in the one node for videos; beside it the nodes for a batch."""
    av = pytest.importorskip("av")
    needs(server, "LoadVideo", "Video Slice", "GetVideoComponents", "CreateVideo", "SaveVideo")
    path = server.base / "input" / "talking.mp4"
    frames = photos.pan()
    with av.open(str(path), "w") as file:
        stream, tone = file.add_stream("libx264", rate=8), file.add_stream("aac", rate=48000, layout="mono")
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.options = {"crf": "8"}
        for frame in np.concatenate([frames, frames[::-1]]):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode(None))
        for start in range(0, 96000, 960):
            wave = (np.sin(np.arange(start, start + 960) / 20) / 3).astype(np.float32)
            heard = av.AudioFrame.from_ndarray(wave[None], format="fltp", layout="mono")
            heard.sample_rate, heard.pts = 48000, start
            file.mux(tone.encode(heard))
        file.mux(tone.encode(None))
    one = one_node("")["one"]["inputs"] | {"video": True, "fidelity": 1.0}
    del one["image"]
    workflow = {
        "load": node("LoadVideo", file="talking.mp4"),
        "cut": node("Video Slice", video=["load", 0], start_time=0.5, duration=1.5, strict_duration=False),
        "restored": node("PoseFRRestoreFacesInVideo", **{**one, "video": ["cut", 0]}, quality=1),
        "report": node("PoseFRFaceReport", faces=["restored", 1], order="area"),
        "save": node("SaveVideo", video=["restored", 0], filename_prefix="long", format="auto", codec="auto"),
        "parts": node("GetVideoComponents", video=["cut", 0]),
        "batch": node("PoseFRRestoreFacesInImage", image=["parts", 0], **one),
        "frames": node("SaveImage", images=["batch", 0], filename_prefix="frames"),
    }
    entry = server.run(workflow)
    assert report(entry)["per_frame"] == [1] * 12
    (saved,) = server.pictures(entry, "save")
    made = photos.read_frames(saved)
    expected = np.concatenate([photos.read_frames(path) for path in server.pictures(entry, "frames")])
    assert made.shape == expected.shape == (12, 384, 384, 3)
    assert np.abs(made - expected).mean() < 2
    before = photos.read_frames(path)[4:]
    assert np.abs(made - before)[:, 60:160, 60:160].mean() > 1.5 * np.abs(made - expected)[:, 60:160, 60:160].mean()
    with av.open(str(saved)) as file:
        heard = list(file.decode(audio=0))
    assert heard[-1].time + heard[-1].samples / 48000 == pytest.approx(1.5, abs=0.06)
    assert max(np.abs(frame.to_ndarray()).max() for frame in heard) > 0.25
