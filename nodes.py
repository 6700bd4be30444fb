"""The nodes: thin adapters between ComfyUI's sockets and the library. Images in and out, no algorithm here."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import torch
from comfy_api.latest import ComfyExtension, io, ui

from .posefr import host
from .posefr.color import COLOR_MATCHES
from .posefr.compositing import paste_faces
from .posefr.conversion import (
    BOX_LAYOUTS,
    SEG_MASKS,
    Box,
    faces_in_boxes,
    find_landmarks,
    read_boxes,
    read_segs,
    to_bounding_boxes,
    to_boxes,
    to_segs,
)
from .posefr.cuts import find_cuts
from .posefr.detection import detector_names, detector_stamp, load_detector
from .posefr.drawing import draw_faces
from .posefr.errors import PoseFRError
from .posefr.faces import Faces
from .posefr.geometry import FRAMES, Crops, crop_faces
from .posefr.masks import MASK_SHAPES, head_mask
from .posefr.parsing import PARTS, load_parser, parser_names, parser_stamp
from .posefr.report import faces_report, plural
from .posefr.restoration import load_restorer, restorer_from, restorer_names, restorer_stamp
from .posefr.selection import ORDERS, select_faces, split_faces
from .posefr.sharpness import face_sharpness
from .posefr.steadying import steady_restored
from .posefr.streaming import counted, find_faces_in_parts, restore_in_parts
from .posefr.tracking import smooth_faces, track_faces
from .posefr.videofiles import VideoClip, write_video

Detector = io.Custom("POSEFR_DETECTOR")
Restorer = io.Custom("POSEFR_RESTORER")
FacesSocket = io.Custom("POSEFR_FACES")
CropsSocket = io.Custom("POSEFR_CROPS")
Segs = io.Custom("SEGS")
BBox = io.Custom("BBOX")
BoundingBox = io.Custom("BOUNDING_BOX")
# Ours, and what other packs (facerestore_cf) and the core's Load Upscale Model hand on.
RESTORERS = [Restorer, io.Custom("FACERESTORE_MODEL"), io.UpscaleModel]

CATEGORY = "PoseFR"
PASS, RAISE = "pass the image through", "stop with an error"
FIND, FIND_OR_DROP, GUESS = "find with the detector", "find, or leave out", "mean face"
NO_PART = "No part of the face is chosen; switch on skin, glasses, hair, hat or neck."
ANGLES = {"upright": (0,), "upright and sideways": (0, 90, 270), "any": (0, 90, 180, 270)}
# The most images that Preview Faces shows: the host writes each as a PNG, which takes longer than to restore it.
SHOWN = 24
# What goes through a network at once: eight images at the default working size, eight faces of 256 px or two of 512 px.
DETECTOR_PIXELS = 8 * 640**2
RESTORER_PIXELS = 8 * 256**2
# Peak of float32 activations per pixel of a network's input, measured on one image: RetinaFace resnet50 208 bytes; with
# a margin for the convolutions' own scratch memory. Restorers bring their own figure.
DETECTOR_BYTES_PER_PIXEL = 400
# facexlib's parsing networks work at 512 px; activations of one crop peak at 110 MB (bisenet) and 530 MB (parsenet).
PARSER_CROPS = 4
PARSER_BYTES_PER_CROP = 800 * 2**20

# Hosts before 0.9.2 know no `advanced`, before 0.10.0 no `search_aliases`; there the widgets are simply always shown.
RARE = {"advanced": True} if "advanced" in inspect.signature(io.Float.Input).parameters else {}


def _aliases(*words: str) -> dict[str, list[str]]:
    return {"search_aliases": list(words)} if "search_aliases" in inspect.signature(io.Schema).parameters else {}


def _check_choice(name: str, names: list[str]) -> None:
    """A linked choice is not checked by the host, and must not name files outside its folders."""
    if name not in names:
        raise PoseFRError(f"{name!r} is none of the choices here, which are {', '.join(names)}.")


def _pick_detector(name: str) -> host.Hosted:
    folders = tuple(host.folders(host.DETECTOR_FOLDERS))
    _check_choice(name, detector_names(folders))

    def make() -> host.Hosted:
        (on_bytes,) = host.progress()
        detector = load_detector(name, device=host.loading_device(), folders=folders, download=True, progress=on_bytes)
        return host.adopt(detector)

    return host.keep("detector", lambda: (name, folders, detector_stamp(name, folders)), make)


def _pick_restorer(name: str) -> host.Hosted:
    folders = tuple(host.folders(host.RESTORER_FOLDERS))
    _check_choice(name, restorer_names(folders))
    return host.keep(
        "restorer",
        lambda: (name, folders, restorer_stamp(name, folders)),
        lambda: host.adopt(load_restorer(name, device=host.loading_device(), folders=folders)),
    )


def _pick_parser(name: str) -> host.Hosted:
    folders = tuple(host.folders(host.PARSER_FOLDERS))
    _check_choice(name, parser_names(folders))

    def make() -> host.Hosted:
        (on_bytes,) = host.progress()
        parser = load_parser(name, device=host.loading_device(), folders=folders, download=True, progress=on_bytes)
        return host.adopt(parser)

    return host.keep("parser", lambda: (name, folders, parser_stamp(name, folders)), make)


def _stamp(stamp: Callable[..., Any], name: str | None, folders: Sequence[str]) -> Any:
    """What changes when the file behind a widget's choice does; the host asks with None where a link replaces it."""
    return None if name is None else stamp(name, host.folders(folders))


def _connected(restorer: Any) -> host.Hosted:
    """A restorer that came through a socket: ours, or a model that another pack loaded."""
    return restorer if isinstance(restorer, host.Hosted) else host.adopt(restorer_from(restorer), owner=restorer)


def _split(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """An IMAGE as float32 colours [B, H, W, 3] and, where it has one, its alpha [B, H, W, 1]."""
    if image.ndim != 4 or image.shape[-1] not in (3, 4):
        raise PoseFRError(f"The image has the shape {list(image.shape)}; expected [batch, height, width, 3 or 4].")
    if image.numel() == 0:
        raise PoseFRError(f"The image is empty, its shape is {list(image.shape)}; connect one with at least one pixel.")
    return image[..., :3].float(), image[..., 3:] if image.shape[-1] == 4 else None


def _join(colours: torch.Tensor, alpha: torch.Tensor | None) -> torch.Tensor:
    colours = host.hand_over(colours)
    return colours if alpha is None else torch.cat([colours, alpha.to(colours)], -1)


def _check_same_images(images: torch.Tensor, faces: Faces) -> None:
    found = (images.shape[0], *images.shape[1:3])
    expected = (faces.frames, *faces.image_size)
    if found != expected:
        raise PoseFRError(
            "The faces were found in {} of {}x{} px, but this image is {} of {}x{} px; "
            "connect the image that went into Detect Faces.".format(
                plural(expected[0], "image"), expected[2], expected[1], found[0], found[2], found[1]
            )
        )


class _Batches:
    """How many images or faces go through a network at once: fewer from when memory ran out, of which `said` tells."""

    def __init__(self, noun: str) -> None:
        self._noun, self._most, self.said = noun, math.inf, ""

    def fit(self, run: Callable[[int], Any], count: int, fitting: float) -> Any:
        """What `run(batch)` gives for so many of which `fitting` go at once."""
        batch = max(1, int(min(count, fitting, self._most)))
        result, fitted = host.with_smaller_batches(run, batch)
        if fitted < batch:
            self._most = fitted
            self.said = f"Memory ran out with {plural(batch, self._noun)} at a time; done with {fitted} at a time."
        return result


def _detect(
    hosted: host.Hosted,
    images: torch.Tensor,
    threshold: float,
    size: int,
    angles: str,
    on_chunk: Callable[[int, int], None],
    tile: int = 0,
    batches: _Batches | None = None,
) -> tuple[Faces, str]:
    """Detect within the host's memory: the faces, and a sentence where the batch had to shrink."""
    height, width = images.shape[1:3]
    scale = min(1.0, size / max(height, width)) if size else 1.0
    pixels = height * width * scale**2
    square = min(tile, height) * min(tile, width) if scale < 1 else 0
    batches = batches or _Batches("image")

    def run(batch: int) -> Faces:
        detector = host.load(hosted, max(batch * pixels, square) * DETECTOR_BYTES_PER_PIXEL)
        return detector.detect(
            images, threshold=threshold, size=size, angles=ANGLES[angles], tile=tile, batch=batch, on_chunk=on_chunk
        ).to(images.device)

    return batches.fit(run, len(images), DETECTOR_PIXELS / pixels), batches.said


def _restore(
    hosted: host.Hosted,
    images: torch.Tensor,
    fidelity: float,
    seed: int,
    stage: host.Stage,
    batches: _Batches | None = None,
) -> tuple[torch.Tensor, str]:
    """Restore within the host's memory: [N, S, S, 3], and a sentence where the batch had to shrink."""
    pixels = hosted.model.size**2
    batches = batches or _Batches("face")

    def run(batch: int) -> torch.Tensor:
        restorer = host.load(hosted, batch * pixels * hosted.model.bytes_per_pixel)
        return restorer.restore(images, fidelity=fidelity, seed=seed, batch=batch, on_chunk=stage, on_faces=stage.show)

    return batches.fit(run, len(images), RESTORER_PIXELS / pixels), batches.said


def _parse(
    hosted: host.Hosted, crops: torch.Tensor, parts: list[str], on_chunk: Callable[[int, int], None]
) -> tuple[torch.Tensor, str]:
    """Masks of parts of the faces within the host's memory: [N, 512, 512], and a sentence as for `_restore`."""
    batches = _Batches("face")

    def run(batch: int) -> torch.Tensor:
        parser = host.load(hosted, batch * PARSER_BYTES_PER_CROP)
        return parser.parse(crops, parts, batch=batch, on_chunk=on_chunk)

    return batches.fit(run, len(crops), PARSER_CROPS), batches.said


def _no_face(searched: Faces, noun: str, if_no_face: str, size: int) -> str:
    said, longer = f"No face found in {plural(searched.frames, noun)}", max(searched.image_size)
    if 0 < size < longer:
        said += f" of {longer} px, searched at a working_size of {size}"
    if if_no_face == RAISE:
        raise PoseFRError(
            f'{said}: lower the threshold, raise the working size or allow more angles, or set if_no_face to "{PASS}".'
        )
    return f"{said}: passed through unchanged."


class _Node(io.ComfyNode):
    """What all nodes share: the note that each shows after it ran, and networks kept while the host keeps the node."""

    def __init__(self) -> None:
        super().__init__()
        host.keep_while(self)

    @classmethod
    def done(cls, *outputs: Any, said: str = "", warnings: tuple[str, ...] = (), shown: Any = None) -> io.NodeOutput:
        """Hand on the outputs; show `said` and the warnings on the node, and keep the warnings in the history."""
        warnings = tuple(filter(None, warnings))
        if said or warnings:
            host.note(cls.hidden.unique_id, "\n".join(filter(None, (said, *warnings))))
        shown = {} if shown is None else shown.as_dict()
        return io.NodeOutput(*outputs, ui={**shown, "text": warnings} if warnings else shown or None)


def _threshold(
    tooltip: str = "How sure the detector must be. Lower it if faces are missed, raise it if it finds faces where "
    "there are none.",
) -> Any:
    return io.Float.Input("threshold", default=0.5, min=0.05, max=0.99, step=0.01, tooltip=tooltip)


def _working_size() -> Any:
    return io.Int.Input(
        "working_size",
        default=640,
        min=0,
        max=8192,
        step=32,
        tooltip="Larger images are scaled down to this many pixels on their longer side for the search only. Raise it "
        "for small faces in large pictures; 0 searches at full size.",
        **RARE,
    )


def _angles() -> Any:
    return io.Combo.Input(
        "angles",
        options=list(ANGLES),
        default="upright",
        tooltip="Search the image turned as well, for people lying down or upside down. Each angle takes as long "
        "again.",
        **RARE,
    )


def _tile_size() -> Any:
    return io.Int.Input(
        "tile_size",
        default=0,
        min=0,
        max=4096,
        step=128,
        tooltip="Search images larger than the working size also in overlapping squares of this many pixels at full "
        "size, for crowds of small faces; 640 is a good start, 128 the least, 0 does not. Takes longer.",
        **RARE,
    )


def _if_no_face(handed_on: str, of: str = "image of the batch") -> Any:
    return io.Combo.Input(
        "if_no_face",
        options=[PASS, RAISE],
        default=PASS,
        tooltip=f"What to do when no {of} has a face: hand on {handed_on}, with a note on the node, or "
        "stop the run with an error.",
    )


def _fidelity() -> Any:
    return io.Float.Input(
        "fidelity",
        default=0.5,
        min=0.0,
        max=1.0,
        step=0.05,
        display_mode=io.NumberDisplay.slider,
        tooltip="1 keeps closest to the face in the picture; lower values let the network invent more. GFPGAN, "
        "RestoreFormer and upscalers have no such choice.",
    )


def _seed() -> Any:
    return io.Int.Input(
        "seed",
        default=0,
        min=0,
        max=2**32 - 1,
        control_after_generate=False,
        tooltip="Seed of the network's noise. The same seed gives the same result.",
        **RARE,
    )


def _paste_inputs() -> list[Any]:
    return [
        io.Float.Input(
            "strength",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.05,
            display_mode=io.NumberDisplay.slider,
            tooltip="How much of the restored face is blended in; 0 returns the image untouched.",
        ),
        io.Combo.Input(
            "mask",
            options=list(MASK_SHAPES),
            default="ellipse",
            tooltip="Which part of each face is replaced. ellipse: the head; box: the whole square crop; hull: close "
            "around the features, from forehead to chin.",
        ),
        io.Float.Input(
            "feather",
            default=8.0,
            min=0.0,
            max=50.0,
            step=0.5,
            tooltip="Width of the soft border, in per cent of the crop's side.",
        ),
        io.Combo.Input(
            "color_match",
            options=list(COLOR_MATCHES),
            default="mean_std",
            tooltip="Keep the picture's colours: mean_std matches mean and spread, wavelet takes all coarse colour "
            "from the picture, detail takes all but the finest detail from it, none pastes the colours as restored.",
            **RARE,
        ),
        io.Float.Input(
            "grow",
            default=0.0,
            min=-50.0,
            max=50.0,
            step=0.5,
            tooltip="Moves the border of the mask outwards, or inwards below 0, in per cent of the crop's side.",
            **RARE,
        ),
    ]


class LoadDetector(_Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PoseFRLoadDetector",
            display_name="Load Face Detector (PoseFR)",
            category=CATEGORY,
            description="Loads the network that finds faces. The bundled one works offline; others are read from "
            "models/facedetection, models/facexlib or models/posefr.",
            inputs=[
                io.Combo.Input(
                    "detector",
                    options=detector_names(host.folders(host.DETECTOR_FOLDERS)),
                    tooltip="bundled needs no download. mobile0.25 and resnet50 are public networks: when first "
                    "used, they are fetched into models/facedetection unless the file is there already.",
                )
            ],
            outputs=[Detector.Output(display_name="detector", tooltip="For Detect Faces.")],
            hidden=[io.Hidden.unique_id],
            **_aliases("retinaface", "face detection model", "facexlib"),
        )

    @classmethod
    def fingerprint_inputs(cls, detector: str | None) -> Any:
        return _stamp(detector_stamp, detector, host.DETECTOR_FOLDERS)

    @classmethod
    def execute(cls, detector: str) -> io.NodeOutput:
        return cls.done(_pick_detector(detector))


class LoadRestorer(_Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PoseFRLoadRestorer",
            display_name="Load Face Restorer (PoseFR)",
            category=CATEGORY,
            description="Loads the network that restores faces. The bundled one works offline; others are read from "
            "models/posefr and models/facerestore_models.",
            inputs=[
                io.Combo.Input(
                    "restorer",
                    options=restorer_names(host.folders(host.RESTORER_FOLDERS)),
                    tooltip="posefr-256 is bundled. Files of GFPGAN, RestoreFormer and CodeFormer in "
                    "models/facerestore_models are listed too; CodeFormer needs the Python package "
                    "spandrel_extra_arches.",
                )
            ],
            outputs=[Restorer.Output(display_name="restorer", tooltip="For Crop Faces and Restore Faces.")],
            hidden=[io.Hidden.unique_id],
            **_aliases("face restore model", "gfpgan", "codeformer", "restoreformer"),
        )

    @classmethod
    def fingerprint_inputs(cls, restorer: str | None) -> Any:
        return _stamp(restorer_stamp, restorer, host.RESTORER_FOLDERS)

    @classmethod
    def execute(cls, restorer: str) -> io.NodeOutput:
        return cls.done(_pick_restorer(restorer))


class DetectFaces(_Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PoseFRDetectFaces",
            display_name="Detect Faces (PoseFR)",
            category=CATEGORY,
            description="Finds every face in every image of the batch: boxes, five landmarks, confidence and pose.",
            inputs=[
                Detector.Input("detector", tooltip="From Load Face Detector."),
                io.Image.Input("image", tooltip="One image or a batch; RGBA is accepted."),
                _threshold(),
                _if_no_face("an empty set of faces"),
                _working_size(),
                _angles(),
                _tile_size(),
            ],
            outputs=[
                FacesSocket.Output(display_name="faces", tooltip="All faces, for Select Faces and Crop Faces."),
                io.Int.Output(display_name="count", tooltip="The number of faces in the whole batch."),
            ],
            hidden=[io.Hidden.unique_id],
            **_aliases("face detection", "find faces", "retinaface", "face bbox", "face landmarks"),
        )

    @classmethod
    def execute(
        cls,
        detector: host.Hosted,
        image: torch.Tensor,
        threshold: float,
        if_no_face: str,
        working_size: int,
        angles: str,
        tile_size: int,
    ) -> io.NodeOutput:
        images, _ = _split(image)
        (on_chunk,) = host.progress()
        faces, halved = _detect(detector, images, threshold, working_size, angles, on_chunk, tile_size)
        if not len(faces):
            return cls.done(faces, 0, warnings=(_no_face(faces, "image", if_no_face, working_size), halved))
        said = f"{plural(len(faces), 'face')} in {plural(len(images), 'image')}"
        return cls.done(faces, len(faces), said=said, warnings=(halved,))


class SelectFaces(_Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        def turn(name: str, default: int, meaning: str) -> Any:
            return io.Int.Input(
                name, default=default, min=-180, max=180, tooltip=f"{meaning}; 0 faces the camera.", **RARE
            )

        def sharpness(name: str, meaning: str) -> Any:
            return io.Float.Input(
                name,
                default=0.0,
                min=0.0,
                max=200.0,
                step=1.0,
                tooltip=f"{meaning}; needs images. A sharp portrait has 40 to 90, a blurred one 5 to 20; Face Report "
                "tells each face's. 0 sets no limit.",
            )

        def pixels(name: str, which: str) -> Any:
            return io.Int.Input(
                name,
                default=0,
                min=0,
                max=16384,
                tooltip=f"Drop faces {which} than this many px (square root of the box's area); 0 sets no limit.",
            )

        return io.Schema(
            node_id="PoseFRSelectFaces",
            display_name="Select Faces (PoseFR)",
            category=CATEGORY,
            description="Keeps some of the faces: by number, track, frame, size, sharpness, confidence or pose. Works "
            "on each image of the batch by itself. A face is kept if it meets all that is set.",
            inputs=[
                FacesSocket.Input("faces", tooltip="From Detect Faces or Track Faces."),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="The image that went into Detect Faces; for min_sharpness and max_sharpness alone.",
                ),
                io.Combo.Input(
                    "order",
                    options=list(ORDERS),
                    default="area",
                    tooltip="How the faces of an image are counted: largest first (tracked faces by their mean "
                    "size), from the left, from the top, from the centre outwards, or surest first. Preview Faces "
                    "shows the numbers.",
                ),
                io.String.Input(
                    "indices",
                    default="",
                    tooltip="Which faces to keep in each image: the numbers that Preview Faces shows in this order, "
                    'for example "0" or "0,2-4"; empty keeps all.',
                ),
                io.String.Input(
                    "tracks",
                    default="",
                    tooltip="Which faces to keep over the frames of a video: the tracks of Track Faces, which "
                    'Preview Faces shows, for example "0" or "0,2-4"; after a cut a person has a new track. Empty '
                    "keeps all.",
                ),
                io.String.Input(
                    "frames",
                    default="",
                    tooltip="In which images of the batch to keep faces, counted from 0, for example "
                    '"0" or "0,10-20"; empty takes all.',
                ),
                io.Int.Input(
                    "limit",
                    default=0,
                    min=0,
                    max=1000,
                    tooltip="Keep at most this many faces of each image, the first ones in this order that are left; "
                    "0 sets no limit.",
                ),
                pixels("min_size", "smaller"),
                pixels("max_size", "larger"),
                sharpness("min_sharpness", "Drop faces that are blurrier than this"),
                sharpness("max_sharpness", "Keep only faces that are blurrier than this"),
                io.Float.Input(
                    "min_confidence",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Drop faces that the detector was less sure of than this.",
                    **RARE,
                ),
                turn(
                    "min_yaw",
                    -180,
                    "Least yaw in degrees: below 0 the nose points to the right of the picture, above 0 to the left",
                ),
                turn("max_yaw", 180, "Greatest yaw in degrees; -30 to 30 leaves out profiles"),
                turn("min_pitch", -180, "Least pitch in degrees: below 0 the nose points down, above 0 up"),
                turn("max_pitch", 180, "Greatest pitch in degrees"),
            ],
            outputs=[
                FacesSocket.Output(display_name="faces", tooltip="The faces kept, in the chosen order."),
                io.Int.Output(display_name="count", tooltip="The number of faces kept in the whole batch."),
                FacesSocket.Output(display_name="rest", tooltip="The faces left out, for a branch of their own."),
            ],
            hidden=[io.Hidden.unique_id],
            **_aliases("filter faces", "pick face", "face index", "largest face", "blurry faces"),
        )

    @classmethod
    def validate_inputs(
        cls, indices: str | None = None, tracks: str | None = None, frames: str | None = None
    ) -> bool | str:
        """Tell before anything runs what cannot be read; a linked text is not there yet."""
        try:
            select_faces(Faces.empty((1, 1), 1), indices=indices or "", tracks=tracks or "", frames=frames or "")
        except PoseFRError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        faces: Faces,
        order: str,
        indices: str,
        tracks: str,
        frames: str,
        limit: int,
        min_size: int,
        max_size: int,
        min_sharpness: float,
        max_sharpness: float,
        min_confidence: float,
        min_yaw: int,
        max_yaw: int,
        min_pitch: int,
        max_pitch: int,
        images: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        among = None
        if min_sharpness or max_sharpness:
            if images is None:
                raise PoseFRError(
                    "min_sharpness and max_sharpness need the picture: connect the image that went into Detect Faces "
                    "to images, or set both to 0."
                )
            pictures, _ = _split(images)
            _check_same_images(pictures, faces)
            sharpness = face_sharpness(pictures, faces, on_face=_stop_if_asked)
            among = (sharpness >= min_sharpness) & (sharpness <= (max_sharpness or float("inf")))
        kept, rest = split_faces(
            faces,
            order=order,
            indices=indices,
            limit=limit,
            size=(float(min_size), float(max_size) if max_size else float("inf")),
            confidence=min_confidence,
            yaw=(float(min_yaw), float(max_yaw)),
            pitch=(float(min_pitch), float(max_pitch)),
            tracks=tracks,
            frames=frames,
            among=among,
        )
        return cls.done(kept, len(kept), rest, said=f"{len(kept)} of {plural(len(faces), 'face')} kept")


class PreviewFaces(_Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PoseFRPreviewFaces",
            display_name="Preview Faces (PoseFR)",
            category=CATEGORY,
            description="Draws each face's box, landmarks, number, confidence, yaw and track on the image. The numbers "
            "are those to type into Select Faces, if that gets the same faces and has the same order.",
            inputs=[
                io.Image.Input("image", tooltip="The image that went into Detect Faces."),
                FacesSocket.Input("faces", tooltip="The faces that go into Select Faces, or any others."),
                io.Combo.Input(
                    "order",
                    options=list(ORDERS),
                    default="area",
                    tooltip="How the faces of each image are numbered; take the same as in Select Faces.",
                ),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The image with the faces drawn on it.")],
            is_output_node=True,
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            **_aliases("show faces", "draw face boxes", "face index", "face number"),
        )

    @classmethod
    def execute(cls, image: torch.Tensor, faces: Faces, order: str) -> io.NodeOutput:
        images, _ = _split(image)
        _check_same_images(images, faces)
        (on_image,) = host.progress()
        drawn = host.hand_over(draw_faces(images, select_faces(faces, order=order), on_image=on_image))
        said, chosen = plural(len(faces), "face"), _worth_showing(faces)
        if len(chosen) < len(drawn):
            said += f"; {len(chosen)} of {len(drawn)} images shown here, all of them handed on"
        return cls.done(drawn, said=said, shown=ui.PreviewImage(drawn[chosen], cls=cls))


def _worth_showing(faces: Faces) -> list[int]:
    """The images of a batch that a node shows: all, or of many the first one of each track and some evenly between."""
    if faces.frames <= SHOWN:
        return list(range(faces.frames))
    first = {int(faces.frame[faces.track == track].min()) for track in faces.track.unique().tolist() if track >= 0}
    chosen = sorted(first)[:SHOWN]
    others = [frame for frame in range(faces.frames) if frame not in chosen]
    evenly = torch.linspace(0, len(others) - 1, SHOWN - len(chosen)).long().tolist()
    return sorted(chosen + [others[i] for i in evenly])


class TrackFaces(_Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PoseFRTrackFaces",
            display_name="Track Faces (PoseFR)",
            category=CATEGORY,
            description="For video, where the images of the batch are the frames: tells which faces are the same one "
            "over the frames, fills in where one was missed, and steadies boxes and landmarks, so that restored faces "
            "do not tremble.",
            inputs=[
                FacesSocket.Input("faces", tooltip="From Detect Faces, for all frames."),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="The frames that went into Detect Faces: with them cuts are found, and after a cut new "
                    "tracks begin.",
                ),
                io.Int.Input(
                    "gap",
                    default=5,
                    min=0,
                    max=60,
                    tooltip="The most frames in a row in which a face may be missed; there it is filled in, with a "
                    "confidence of 0.",
                ),
                io.Float.Input(
                    "smoothing",
                    default=4.0,
                    min=0.0,
                    max=30.0,
                    step=0.5,
                    tooltip="How many frames to either side steady a face. More is calmer, less follows quick motion "
                    "closer; 0 leaves the faces where they were found.",
                ),
                io.Float.Input(
                    "reach",
                    default=0.8,
                    min=0.0,
                    max=5.0,
                    step=0.1,
                    tooltip="How far from where it is expected a face may be in the next frame, in sizes of the face. "
                    "Raise it where quick faces lose their track.",
                    **RARE,
                ),
            ],
            outputs=[
                FacesSocket.Output(
                    display_name="faces",
                    tooltip="The faces, steadied and with their tracks, for Select and Crop Faces.",
                ),
                io.Int.Output(display_name="track_count", tooltip="The number of tracks over the whole video."),
            ],
            hidden=[io.Hidden.unique_id],
            **_aliases("video faces", "track face", "stabilize faces", "smooth landmarks", "face identity", "flicker"),
        )

    @classmethod
    def execute(
        cls, faces: Faces, gap: int, smoothing: float, reach: float, images: torch.Tensor | None = None
    ) -> io.NodeOutput:
        cuts: list[int] = []
        if images is not None:
            pictures, _ = _split(images)
            _check_same_images(pictures, faces)
            cuts = find_cuts(pictures)
        tracked = smooth_faces(
            track_faces(faces, gap=gap, reach=reach, cuts=cuts, on_face=_stop_if_asked), sigma=smoothing
        )
        count = len(tracked.track.unique())
        said = f"{plural(count, 'track')} over {plural(faces.frames, 'image')}"
        if cuts:
            said += f", {plural(len(cuts), 'cut')}"
        filled = len(tracked) - len(faces)
        return cls.done(tracked, count, said=f"{said}, {plural(filled, 'face')} filled in" if filled else said)


class FaceReport(_Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PoseFRFaceReport",
            display_name="Face Report (PoseFR)",
            category=CATEGORY,
            description="Tells about the faces as JSON text (number, box, landmarks, size, confidence, pose, track, "
            "sharpness) and as counts.",
            inputs=[
                FacesSocket.Input("faces", tooltip="From any node that gives faces."),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="The image that went into Detect Faces: with it the report tells each face's sharpness.",
                ),
                io.Combo.Input(
                    "order",
                    options=list(ORDERS),
                    default="area",
                    tooltip="How the faces of each image are numbered; take the same as in Select Faces.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="report", tooltip="The report as JSON text."),
                io.Int.Output(display_name="count", tooltip="The number of faces in the whole batch."),
                io.Int.Output(display_name="frames", tooltip="The number of images in the batch."),
                io.Int.Output(
                    display_name="per_frame", tooltip="A list: the number of faces of each image.", is_output_list=True
                ),
            ],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            **_aliases("count faces", "face json", "face info", "face boxes text", "face sharpness"),
        )

    @classmethod
    def execute(cls, faces: Faces, order: str, images: torch.Tensor | None = None) -> io.NodeOutput:
        faces = select_faces(faces, order=order)
        sharpness = None
        if images is not None:
            pictures, _ = _split(images)
            _check_same_images(pictures, faces)
            sharpness = face_sharpness(pictures, faces, on_face=_stop_if_asked)
        report = faces_report(faces, sharpness)
        text = json.dumps(report, indent=1)
        said = f"{plural(len(faces), 'face')} in {plural(faces.frames, 'image')}"
        return cls.done(text, len(faces), faces.frames, report["per_frame"], said=said, shown=ui.PreviewText(text))


class FacesFromBoxes(_Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PoseFRFacesFromBoxes",
            display_name="Faces From Boxes (PoseFR)",
            category=CATEGORY,
            description="Makes faces of boxes that other nodes found: SEGS of the Impact Pack, BBOX, or ComfyUI's own "
            "BOUNDING_BOX. Looks for the face inside each box; where it finds none, or is told not to look, it "
            "assumes an upright frontal face that fills the box.",
            inputs=[
                io.Image.Input("image", tooltip="The image that the boxes were found in, or a batch of them."),
                Segs.Input(
                    "segs",
                    optional=True,
                    tooltip="SEGS of the Impact Pack: for all images, or a list with one for each.",
                ),
                BBox.Input(
                    "bbox", optional=True, tooltip="Boxes as lists of four numbers: for all images, or a list for each."
                ),
                BoundingBox.Input(
                    "bounding_boxes",
                    optional=True,
                    tooltip="Boxes of ComfyUI's own nodes: for all images, or a list for each.",
                    extra_dict={"forceInput": True},  # otherwise the front end shows a widget that sends a box
                ),
                Detector.Input(
                    "detector",
                    optional=True,
                    tooltip="From Load Face Detector, to find the landmarks; the bundled one without it.",
                ),
                io.Combo.Input(
                    "landmarks",
                    options=[FIND, FIND_OR_DROP, GUESS],
                    default=FIND,
                    tooltip="Look for the face in each box and take its box and landmarks; a box without one counts "
                    "as an upright frontal face, or is left out (for boxes of persons, say). Or do not look: leave all "
                    "boxes as they are, as upright frontal faces.",
                ),
                io.Combo.Input(
                    "bbox_layout",
                    options=list(BOX_LAYOUTS),
                    default=BOX_LAYOUTS[0],
                    tooltip="What the four numbers of bbox are: two corners, or a corner and the size.",
                    **RARE,
                ),
                _threshold(
                    "How sure the detector must be of the face that it finds in a box. Lower it if landmarks of "
                    "a box are missed."
                ),
            ],
            outputs=[
                FacesSocket.Output(
                    display_name="faces",
                    tooltip="A face for each box that is not left out, for Select Faces, Crop Faces and the others.",
                    is_output_list=True,
                ),
                io.Int.Output(
                    display_name="count", tooltip="The number of faces in the whole batch.", is_output_list=True
                ),
            ],
            hidden=[io.Hidden.unique_id],
            is_input_list=True,
            **_aliases("SEGS to faces", "BBOX to faces", "bounding box to faces", "impact pack", "yolo face"),
        )

    @classmethod
    def execute(
        cls,
        image: list[torch.Tensor],
        landmarks: list[str],
        bbox_layout: list[str],
        threshold: list[float],
        segs: list[Any] | None = None,
        bbox: list[Any] | None = None,
        bounding_boxes: list[Any] | None = None,
        detector: list[host.Hosted] | None = None,
    ) -> io.NodeOutput:
        if segs is None and bbox is None and bounding_boxes is None:
            raise PoseFRError("No boxes are connected; connect segs, bbox or bounding_boxes.")
        batches = [_split(one)[0] for one in image]
        sizes = [(tuple(images.shape[1:3]), len(images)) for images in batches]
        readers = (
            (segs, lambda value, size, count: [read_segs(value, size)] * count),
            (bbox, lambda value, size, count: read_boxes(value, count, bbox_layout[0])),
            (bounding_boxes, lambda value, size, count: read_boxes(value, count)),
        )
        sources = [_for_each_batch(values, sizes, read) for values, read in readers if values is not None]
        boxes = [
            [[*chain(*same_image)] for same_image in zip(*batch, strict=True)] for batch in zip(*sources, strict=True)
        ]
        made = [faces_in_boxes(found, size) for found, (size, _) in zip(boxes, sizes, strict=True)]
        boxed = sum(len(found) for batch in boxes for found in batch)
        halved = by_detector = ""
        if landmarks[0] != GUESS and any(map(len, made)):
            finder = detector[0] if detector else _pick_detector("bundled")
            (stage,) = host.progress()
            total, done, seen = sum(map(len, made)), 0, 0

            def detect(views: torch.Tensor) -> Faces:
                nonlocal halved, done
                found, note = _detect(
                    finder, views, threshold[0], 0, "upright", lambda looked_at, _: stage(done + looked_at, total)
                )
                done += len(views)
                halved = note or halved
                return found

            for i, images in enumerate(batches):
                faces, found = find_landmarks(images, made[i], detect)
                made[i] = faces[found] if landmarks[0] == FIND_OR_DROP else faces
                seen += int(found.sum())
            by_detector = f", {seen} found by the detector"
        counts = [len(faces) for faces in made]
        said = f"{plural(sum(counts), 'face')} of {plural(boxed, 'box', 'boxes')}{by_detector}"
        return cls.done(made, counts, said=said, warnings=(halved,))


def _for_each_batch(values: list[Any], sizes: list[tuple], read: Callable[..., list[list[Box]]]) -> list:
    """The boxes of each image of each batch, from what a socket brought for them.

    Of more values than batches there has to be one for each image, batch after batch; otherwise values go with batches
    as the host pairs lists: the last one stands for those that follow it.
    """
    if not values:
        return [[[] for _ in range(count)] for _, count in sizes]
    if len(values) > len(sizes):
        images = sum(count for _, count in sizes)
        if len(values) != images:
            raise PoseFRError(
                f"The boxes are those of {len(values)} images, but there {'is' if images == 1 else 'are'} {images}; "
                "connect boxes of these images."
            )
        one_each = iter(values)
        return [[read(next(one_each), size, 1)[0] for _ in range(count)] for size, count in sizes]
    return [read(values[min(i, len(values) - 1)], *which) for i, which in enumerate(sizes)]


class FacesToBoxes(_Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PoseFRFacesToBoxes",
            display_name="Faces To Boxes (PoseFR)",
            category=CATEGORY,
            description="Gives the faces' boxes to other nodes: as SEGS of the Impact Pack, as BBOX, and as ComfyUI's "
            "own BOUNDING_BOX.",
            inputs=[
                FacesSocket.Input("faces", tooltip="From any node that gives faces."),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The image that the faces were found in; its regions go into the SEGS.",
                ),
                io.Float.Input(
                    "crop_factor",
                    default=3.0,
                    min=1.0,
                    max=20.0,
                    step=0.1,
                    tooltip="SEGS only: how many times wider and higher than the face's box its region is.",
                ),
                io.Combo.Input(
                    "seg_mask",
                    options=list(SEG_MASKS),
                    default=SEG_MASKS[0],
                    tooltip="SEGS only: what their masks cover. box: the face's box; ellipse: the head, turned as "
                    "the face is; hull: close around the features, from forehead to chin.",
                ),
                io.Combo.Input(
                    "bbox_layout",
                    options=list(BOX_LAYOUTS),
                    default=BOX_LAYOUTS[0],
                    tooltip="BBOX only: what the four numbers are: two corners, or a corner and the size.",
                    **RARE,
                ),
            ],
            outputs=[
                Segs.Output(display_name="segs", tooltip="A list: SEGS for each image.", is_output_list=True),
                BBox.Output(
                    display_name="bbox",
                    tooltip="A list: for each image its boxes, four numbers each.",
                    is_output_list=True,
                ),
                BoundingBox.Output(
                    display_name="bounding_boxes",
                    tooltip="For Draw BBoxes, Crop By Bounding Boxes, SAM3 Detect and the like; all images in one.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            **_aliases("faces to SEGS", "faces to BBOX", "face bounding box", "impact pack", "FaceDetailer"),
        )

    @classmethod
    def execute(
        cls, faces: Faces, crop_factor: float, seg_mask: str, bbox_layout: str, image: torch.Tensor | None = None
    ) -> io.NodeOutput:
        images = None
        if image is not None:
            images, _ = _split(image)
            _check_same_images(images, faces)
        (on_face,) = host.progress()
        segs = to_segs(faces, factor=crop_factor, mask=seg_mask, images=images, on_face=on_face)
        said = f"{plural(len(faces), 'box', 'boxes')} in {plural(faces.frames, 'image')}"
        return cls.done(segs, to_boxes(faces, bbox_layout), to_bounding_boxes(faces), said=said)


class CropFaces(_Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PoseFRCropFaces",
            display_name="Crop Faces (PoseFR)",
            category=CATEGORY,
            description="Cuts out every face, turned upright and scaled to one size. Any node for images can work on "
            "the crops before Paste Faces puts them back. Without a face it gives one black image, which Paste Faces "
            "leaves out.",
            inputs=[
                io.Image.Input("image", tooltip="The image that went into Detect Faces."),
                FacesSocket.Input("faces", tooltip="From Detect Faces or Select Faces."),
                io.MultiType.Input(
                    "restorer",
                    types=RESTORERS,
                    optional=True,
                    tooltip="What Restore Faces gets: crops in the size and alignment that it was trained with, "
                    "instead of those chosen below.",
                ),
                io.Int.Input(
                    "size", default=256, min=32, max=2048, step=8, tooltip="Width and height of the crops in px."
                ),
                io.Combo.Input(
                    "alignment",
                    options=list(FRAMES),
                    default="ffhq",
                    tooltip="Where the face sits in the crop: ffhq for PoseFR's networks, with some room around the "
                    "head; template5 for GFPGAN and its like.",
                    **RARE,
                ),
                io.Float.Input(
                    "context",
                    optional=True,  # prompts of before there was one run as they did
                    default=1.0,
                    min=1.0,
                    max=4.0,
                    step=0.1,
                    tooltip="For samplers: how many times wider to cut, so that they see hair, neck and light around "
                    "the face; 1.5 is a good start. Paste Faces leaves out what is around it, unless crop_masks or "
                    "custom_mask are connected. Without effect where a restorer is connected.",
                ),
            ],
            outputs=[
                CropsSocket.Output(
                    display_name="crops", tooltip="Where each crop came from, for Restore Faces and Paste Faces."
                ),
                io.Image.Output(display_name="images", tooltip="The crops, one image per face."),
                io.Mask.Output(
                    display_name="masks",
                    tooltip="The head in each crop, for Set Latent Noise Mask and other nodes that redraw a part.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            **_aliases("face crop", "align faces", "extract faces"),
        )

    @classmethod
    def execute(
        cls,
        image: torch.Tensor,
        faces: Faces,
        size: int,
        alignment: str,
        context: float = 1.0,
        restorer: Any = None,
    ) -> io.NodeOutput:
        images, _ = _split(image)
        _check_same_images(images, faces)
        if restorer is not None:
            model = _connected(restorer).model
            size, alignment, context = model.size, model.frame, 1.0
        (on_face,) = host.progress()
        crops = crop_faces(images, faces, size=size, frame=alignment, context=context, on_face=on_face)
        heads = host.hand_over(head_mask(size, images.device, context).expand(max(1, len(faces)), -1, -1))
        if not len(faces):
            blank = _blank(images, size)
            return cls.done(crops, blank, torch.zeros_like(heads), warnings=("No face to crop.",))
        return cls.done(crops, host.hand_over(crops.images), heads, said=f"{plural(len(faces), 'face')}, {size} px")


def _blank(images: torch.Tensor, size: int) -> torch.Tensor:
    """What stands for no crop: many nodes fail on a batch of zero images, so one black image."""
    return host.hand_over(images.new_zeros(1, size, size, 3))


class RestoreFaces(_Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PoseFRRestoreFaces",
            display_name="Restore Faces (PoseFR)",
            category=CATEGORY,
            description="Restores cropped faces.",
            inputs=[
                io.MultiType.Input(
                    "restorer",
                    types=RESTORERS,
                    tooltip="From Load Face Restorer, from another pack's face restore model loader, or from Load "
                    "Upscale Model.",
                ),
                io.Image.Input("images", tooltip="The images of Crop Faces, as they are or after other nodes."),
                CropsSocket.Input(
                    "crops",
                    optional=True,
                    tooltip="From Crop Faces. With it the node checks that the alignment suits the restorer, has "
                    "nothing to do where there is no face, and steadies each face over the frames where Track Faces "
                    "has told which belong together.",
                ),
                _fidelity(),
                _seed(),
            ],
            outputs=[io.Image.Output(display_name="restored", tooltip="The restored faces, for Paste Faces.")],
            hidden=[io.Hidden.unique_id],
            **_aliases("restore face", "fix face", "gfpgan", "codeformer", "face enhance"),
        )

    @classmethod
    def execute(
        cls,
        restorer: Any,
        images: torch.Tensor,
        fidelity: float,
        seed: int,
        crops: Crops | None = None,
    ) -> io.NodeOutput:
        images, _ = _split(images)
        restorer = _connected(restorer)
        if crops is not None and not len(crops.faces):
            return cls.done(_blank(images, restorer.model.size), warnings=("No face to restore.",))
        if crops is not None and crops.frame != restorer.model.frame:
            raise PoseFRError(
                f'These crops are aligned as "{crops.frame}", but {restorer.model.name} was trained on '
                f'"{restorer.model.frame}"; connect the restorer to Crop Faces as well.'
            )
        if crops is not None and crops.context != 1:
            raise PoseFRError(
                f"These crops are {crops.context:g} times as wide as those that the restorer was trained on; set "
                "context of Crop Faces to 1, or connect the restorer to it."
            )
        # Where Track Faces has told which belong together.
        tracked = crops is not None and len(crops) == len(images) and bool((crops.faces.track >= 0).any())
        restoring, *steadying = host.progress(stages=1 + tracked)
        restored, halved = _restore(restorer, images, fidelity, seed, restoring)
        if crops is not None and steadying:
            restored = steady_restored(restored, crops.faces, device=restorer.device, on_face=steadying[0])
        said = f"{plural(len(images), 'face')} restored"
        return cls.done(host.hand_over(restored), said=said, warnings=(halved,))


class FacePartsMask(_Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        meaning = {
            "skin": "the skin with brows, eyes, nose, mouth and ears",
            "glasses": "glasses",
            "hair": "the hair",
            "hat": "a hat or another head cover",
            "neck": "the neck and what is worn around it",
        }
        return io.Schema(
            node_id="PoseFRFacePartsMask",
            display_name="Face Parts Mask (PoseFR)",
            category=CATEGORY,
            description="A mask for each crop, of the parts of the face that you choose, for Paste Faces: the skin "
            "alone keeps hair, glasses and hands in front of the face as they are in the picture. Works with "
            "facexlib's parsing networks.",
            inputs=[
                CropsSocket.Input("crops", tooltip="From Crop Faces."),
                io.Image.Input(
                    "images",
                    optional=True,
                    tooltip="What to look at instead of the crops themselves, for example the restored faces.",
                ),
                io.Combo.Input(
                    "parser",
                    options=parser_names(host.folders(host.PARSER_FOLDERS)),
                    tooltip="The network that tells the parts apart. bisenet is quick; its file has to be put into "
                    "models/facexlib. parsenet is slow on a CPU; it is fetched into models/facexlib when first used, "
                    "unless the file is there already.",
                ),
                *(io.Boolean.Input(part, default=part == "skin", tooltip=f"Paste {meaning[part]}.") for part in PARTS),
            ],
            outputs=[
                io.Mask.Output(
                    display_name="masks", tooltip="One mask per crop, 512 px, for crop_masks of Paste Faces."
                )
            ],
            hidden=[io.Hidden.unique_id],
            **_aliases("face parsing", "bisenet", "skin mask", "hair mask", "occlusion", "glasses"),
        )

    @classmethod
    def validate_inputs(
        cls,
        skin: bool | None = None,
        glasses: bool | None = None,
        hair: bool | None = None,
        hat: bool | None = None,
        neck: bool | None = None,
    ) -> bool | str:
        """Tell before anything runs that nothing would be masked; a linked switch is not known yet."""
        return True if any(part is not False for part in (skin, glasses, hair, hat, neck)) else NO_PART

    @classmethod
    def fingerprint_inputs(cls, parser: str | None, **_: Any) -> Any:
        return _stamp(parser_stamp, parser, host.PARSER_FOLDERS)

    @classmethod
    def execute(
        cls,
        crops: Crops,
        parser: str,
        skin: bool,
        glasses: bool,
        hair: bool,
        hat: bool,
        neck: bool,
        images: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        chosen = {"skin": skin, "glasses": glasses, "hair": hair, "hat": hat, "neck": neck}
        looked_at = crops.images if images is None else _split(images)[0]
        if not len(crops.faces):
            return cls.done(host.hand_over(looked_at.new_zeros(1, 64, 64)), warnings=("No face to mask.",))
        if len(looked_at) != len(crops.faces):
            raise _not_one_for_each(crops, "images", len(looked_at))
        parts = [part for part in PARTS if chosen[part]]
        if not parts:
            raise PoseFRError(NO_PART)
        network = _pick_parser(parser)
        (on_chunk,) = host.progress()
        masks, halved = _parse(network, looked_at, parts, on_chunk)
        said = f"{', '.join(parts)} of {plural(len(masks), 'face')}"
        return cls.done(host.hand_over(masks), said=said, warnings=(halved,))


def _not_one_for_each(crops: Crops, socket: str, found: int) -> PoseFRError:
    return PoseFRError(
        f"{plural(len(crops.faces), 'face')} came from Crop Faces, but {socket} brings {plural(found, 'image')}; "
        "connect exactly one image per face."
    )


def _image_mask(mask: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """A MASK over the image as [1 or B, H, W]; one of its proportions but another size, as before upscaling, fits."""
    mask = mask.reshape(-1, *mask.shape[-2:]).to(images)
    (count, height, width), (masks, rows, columns) = images.shape[:3], mask.shape
    if masks not in (1, count) or abs(rows * width - columns * height) > max(height, width):
        raise PoseFRError(
            f"The mask has the shape {list(mask.shape)}; expected {[count, height, width]} or one for all images, of "
            "the image's proportions. A mask for each crop goes to crop_masks."
        )
    if (rows, columns) == (height, width):
        return mask
    return torch.nn.functional.interpolate(mask[:, None], (height, width), mode="bilinear", antialias=True)[:, 0]


def _crop_masks(masks: torch.Tensor, crops: Crops) -> torch.Tensor:
    """A MASK for each crop; one stands for all."""
    masks = masks.reshape(-1, *masks.shape[-2:])
    if len(masks) not in (1, len(crops.faces)):
        raise _not_one_for_each(crops, "crop_masks", len(masks))
    height, width = masks.shape[1:]
    if height != width:
        raise PoseFRError(
            f"The crop_masks have {width}x{height} px; a mask of a crop is square. Connect a mask of the whole image "
            "to custom_mask."
        )
    return masks.expand(len(crops.faces), -1, -1)


def _limited(
    images: torch.Tensor, out: torch.Tensor, covered: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """What was pasted, where a MASK over the image is white."""
    mask = mask.clamp(0, 1)
    inside = mask[..., None] > 0
    return torch.where(inside, torch.lerp(images, out, mask[..., None].expand_as(out)), images), covered * mask


def _nothing_to_paste(crops: Crops, custom_mask: torch.Tensor | None, crop_masks: torch.Tensor | None) -> str:
    """Why nothing will be pasted, or an empty text."""
    if not len(crops.faces):
        return "No face to paste: passed through unchanged."
    for given, name in ((custom_mask, "custom mask is"), (crop_masks, "crop masks are")):
        if given is not None and not given.any():
            return f"The {name} black everywhere: nothing was pasted."
    return ""


class PasteFaces(_Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PoseFRPasteFaces",
            display_name="Paste Faces (PoseFR)",
            category=CATEGORY,
            description="Puts faces back where Crop Faces took them. Everything outside the mask stays as it was, to "
            "the bit.",
            inputs=[
                io.Image.Input(
                    "image", tooltip="The image that went into Crop Faces, or an enlargement of it from an upscaler."
                ),
                CropsSocket.Input("crops", tooltip="From Crop Faces."),
                io.Image.Input(
                    "restored",
                    lazy=True,
                    tooltip="From Restore Faces or any other node: one square image per face, of any size. Where "
                    "nothing is to be pasted, the nodes before it do not run.",
                ),
                *_paste_inputs(),
                io.Mask.Input(
                    "custom_mask",
                    optional=True,
                    tooltip="A mask over the image, or one for each image: faces are pasted where it is white. Takes "
                    "the place of mask.",
                ),
                io.Mask.Input(
                    "crop_masks",
                    optional=True,
                    tooltip="A mask for each crop, or one for all, from Face Parts Mask or any other node: the white "
                    "part of the crop is pasted. Takes the place of mask.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The image with its faces replaced."),
                io.Mask.Output(display_name="mask", tooltip="Where faces were pasted, and how much at full strength."),
            ],
            hidden=[io.Hidden.unique_id],
            **_aliases("paste back", "face composite", "uncrop faces"),
        )

    @classmethod
    def check_lazy_status(
        cls,
        crops: Crops,
        strength: float,
        restored: torch.Tensor | None = None,
        custom_mask: torch.Tensor | None = None,
        crop_masks: torch.Tensor | None = None,
        **_: Any,
    ) -> list[str]:
        """What has to be computed still: the restored faces, if any of them is going to be seen."""
        idle = restored is not None or strength == 0 or _nothing_to_paste(crops, custom_mask, crop_masks)
        return [] if idle else ["restored"]

    @classmethod
    def execute(
        cls,
        image: torch.Tensor,
        crops: Crops,
        strength: float,
        mask: str,
        feather: float,
        color_match: str,
        grow: float,
        restored: torch.Tensor | None = None,
        custom_mask: torch.Tensor | None = None,
        crop_masks: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        images, alpha = _split(image)
        if reason := _nothing_to_paste(crops, custom_mask, crop_masks):
            nothing = host.hand_over(images.new_zeros(images.shape[:3]))
            return cls.done(image, nothing, warnings=(reason,))
        # At strength 0 they were not asked for, and any crops do: only the mask is made.
        faces, _ = _split(crops.images if restored is None else restored)
        if len(faces) != len(crops.faces):
            raise _not_one_for_each(crops, "restored", len(faces))
        shape: Any = mask
        if custom_mask is not None:
            shape = over_image = _image_mask(custom_mask, images)
        if crop_masks is not None:
            shape = _crop_masks(crop_masks, crops)
        (on_face,) = host.progress()
        out, covered = paste_faces(
            images,
            crops,
            faces.to(images.device),
            mask=shape,
            mask_space="crop" if crop_masks is not None else "image" if custom_mask is not None else None,
            feather=feather,
            grow=grow,
            color_match=color_match,
            strength=strength,
            on_face=on_face,
        )
        if custom_mask is not None and crop_masks is not None:
            out, covered = _limited(images, out, covered, over_image)
        return cls.done(_join(out, alpha), host.hand_over(covered), said=f"{plural(len(faces), 'face')} pasted")


def _stop_if_asked(done: int, total: int) -> None:
    """Between two faces of what is quick for one and is not for a thousand."""
    host.stop_if_interrupted()


def _model_inputs() -> list[Any]:
    return [
        io.Combo.Input(
            "restorer",
            options=restorer_names(host.folders(host.RESTORER_FOLDERS)),
            tooltip="The network that restores: posefr-256 is bundled; others are files in models/posefr or "
            "models/facerestore_models.",
        ),
        io.Combo.Input(
            "detector",
            options=detector_names(host.folders(host.DETECTOR_FOLDERS)),
            tooltip="The network that finds faces. bundled needs no download.",
        ),
    ]


def _limit(of: str) -> Any:
    return io.Int.Input(
        "limit",
        default=0,
        min=0,
        max=1000,
        tooltip=f"Restore only the largest faces of each {of}, at most this many; 0 restores all.",
    )


def _restorer_model() -> Any:
    return io.MultiType.Input(
        "restorer_model",
        types=RESTORERS,
        optional=True,
        tooltip="Takes the place of restorer: from Load Face Restorer, from another pack's face "
        "restore model loader, or from Load Upscale Model.",
    )


def _model_stamps(restorer: str | None, detector: str | None) -> Any:
    return (
        _stamp(restorer_stamp, restorer, host.RESTORER_FOLDERS),
        _stamp(detector_stamp, detector, host.DETECTOR_FOLDERS),
    )


class RestoreFacesInImage(_Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PoseFRRestoreFacesInImage",
            display_name="Restore Faces In Image (PoseFR)",
            category=CATEGORY,
            description="Finds every face, restores it and pastes it back, all in one node, for one image or a batch.",
            inputs=[
                io.Image.Input("image", tooltip="One image or a batch; RGBA keeps its alpha."),
                *_model_inputs(),
                _fidelity(),
                *_paste_inputs(),
                _threshold(),
                _limit("image"),
                io.Boolean.Input(
                    "video",
                    default=False,
                    tooltip="The images of the batch are the frames of a video: follow each face over them "
                    "from cut to cut, fill in where one was missed for up to 5 frames, and steady the faces.",
                ),
                _if_no_face("the image unchanged"),
                _working_size(),
                _angles(),
                _seed(),
                _restorer_model(),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The image with its faces restored."),
                io.Mask.Output(display_name="mask", tooltip="Where faces were pasted, and how much at full strength."),
                FacesSocket.Output(display_name="faces", tooltip="The faces that were restored."),
            ],
            hidden=[io.Hidden.unique_id],
            **_aliases("restore face", "fix face", "face detailer", "face restore", "gfpgan", "codeformer"),
        )

    @classmethod
    def fingerprint_inputs(cls, restorer: str | None, detector: str | None, **_: Any) -> Any:
        return _model_stamps(restorer, detector)

    @classmethod
    def execute(
        cls,
        image: torch.Tensor,
        restorer: str,
        detector: str,
        fidelity: float,
        strength: float,
        mask: str,
        feather: float,
        color_match: str,
        grow: float,
        threshold: float,
        limit: int,
        video: bool,
        if_no_face: str,
        working_size: int,
        angles: str,
        seed: int,
        restorer_model: Any = None,
    ) -> io.NodeOutput:
        images, alpha = _split(image)
        finder = _pick_detector(detector)
        fixer = _pick_restorer(restorer) if restorer_model is None else _connected(restorer_model)

        warnings: list[str] = []

        def restore() -> tuple[Crops, torch.Tensor]:
            """The crops, and what became of them."""
            detecting, restoring, *steadying = host.progress(stages=2 + video)
            faces, halved = _detect(finder, images, threshold, working_size, angles, detecting)
            if video:
                faces = smooth_faces(track_faces(faces, cuts=find_cuts(images), on_face=_stop_if_asked))
            faces = select_faces(faces, order="area", limit=limit)
            crops = crop_faces(images, faces, size=fixer.model.size, frame=fixer.model.frame, on_face=_stop_if_asked)
            warnings.append(halved)
            if not len(faces):
                return crops, crops.images
            restored, halved = _restore(fixer, crops.images, fidelity, seed, restoring)
            warnings.append(halved)
            if steadying:
                restored = steady_restored(restored, faces, device=fixer.device, on_face=steadying[0])
            return crops, restored

        models = (finder, fixer if restorer_model is None else restorer_model)
        settings = (fidelity, threshold, limit, video, working_size, angles, seed)
        crops, restored = host.same_again(image, models, settings, restore)
        faces = crops.faces
        if not len(faces):
            nothing = host.hand_over(images.new_zeros(images.shape[:3]))
            reason = _no_face(faces, "image", if_no_face, working_size)
            return cls.done(image, nothing, faces, warnings=(reason, *warnings))
        out, covered = paste_faces(
            images,
            crops,
            restored.to(images.device),
            mask=mask,
            feather=feather,
            grow=grow,
            color_match=color_match,
            strength=strength,
            on_face=_stop_if_asked,
        )
        said = f"{plural(len(faces), 'face')} restored in {plural(len(images), 'image')}"
        return cls.done(_join(out, alpha), host.hand_over(covered), faces, said=said, warnings=tuple(warnings))


class RestoreFacesInVideo(_Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PoseFRRestoreFacesInVideo",
            display_name="Restore Faces In Video (PoseFR)",
            category=CATEGORY,
            description="Finds every face of a video, follows it from cut to cut, restores, steadies and pastes it "
            "back, all in one node. Only a few frames are in memory at a time, so that the video may be of any length.",
            inputs=[
                io.Video.Input("video", tooltip="From Load Video, or from Create Video."),
                *_model_inputs(),
                _fidelity(),
                *_paste_inputs(),
                _threshold(),
                _limit("frame"),
                _if_no_face("the video unchanged", "frame"),
                _working_size(),
                _angles(),
                _seed(),
                io.Int.Input(
                    "quality",
                    default=17,
                    min=0,
                    max=51,
                    tooltip="How strongly the video is compressed, as H.264's constant rate factor: 0 is the best and "
                    "the largest, 17 hard to tell from the original, 23 smaller. Save Video keeps this compression "
                    "where its format and codec are auto.",
                    **RARE,
                ),
                _restorer_model(),
            ],
            outputs=[
                io.Video.Output(
                    display_name="video",
                    tooltip="The video with its faces restored and its sound, as a temporary file: connect Save Video.",
                ),
                FacesSocket.Output(display_name="faces", tooltip="The faces that were restored."),
            ],
            hidden=[io.Hidden.unique_id],
            **_aliases("restore video", "video face restore", "long video", "low memory video"),
        )

    @classmethod
    def fingerprint_inputs(cls, restorer: str | None, detector: str | None, **_: Any) -> Any:
        return _model_stamps(restorer, detector)

    @classmethod
    def execute(
        cls,
        video: Any,
        restorer: str,
        detector: str,
        fidelity: float,
        strength: float,
        mask: str,
        feather: float,
        color_match: str,
        grow: float,
        threshold: float,
        limit: int,
        if_no_face: str,
        working_size: int,
        angles: str,
        seed: int,
        quality: int,
        restorer_model: Any = None,
    ) -> io.NodeOutput:
        clip = VideoClip(*host.video_source(video))
        finder = _pick_detector(detector)
        fixer = _pick_restorer(restorer) if restorer_model is None else _connected(restorer_model)
        finding, restoring = host.progress(stages=2)
        looks, repairs = _Batches("image"), _Batches("face")

        def detect(part: torch.Tensor) -> Faces:
            return _detect(finder, part, threshold, working_size, angles, finding.standing(), batches=looks)[0]

        def restore(crops: torch.Tensor) -> torch.Tensor:
            return _restore(fixer, crops, fidelity, seed, restoring.standing(), repairs)[0]

        faces = find_faces_in_parts(counted(clip.parts(), clip.frames, finding), detect, _stop_if_asked)
        faces = select_faces(faces, order="area", limit=limit)
        if not len(faces):
            reason = _no_face(faces, "frame", if_no_face, working_size)
            return cls.done(video, faces, warnings=(reason, looks.said))
        if strength == 0:
            return cls.done(video, faces, warnings=("The strength is 0: passed through unchanged.", looks.said))
        path = host.temporary_file(".mp4")
        parts = restore_in_parts(
            counted(clip.parts(), faces.frames, restoring),
            faces,
            restore,
            size=fixer.model.size,
            frame=fixer.model.frame,
            color_match=color_match,
            device=fixer.device,
            mask=mask,
            feather=feather,
            grow=grow,
            strength=strength,
        )
        write_video(path, parts, clip, quality=quality)
        said = f"{plural(len(faces.track.unique()), 'face')} restored in {plural(faces.frames, 'frame')}"
        return cls.done(host.video(path), faces, said=said, warnings=(looks.said, repairs.said))


# The registry's tools read this list from the source. ComfyUI does not: it takes the nodes from comfy_entrypoint.
NODE_CLASS_MAPPINGS = {
    "PoseFRRestoreFacesInImage": RestoreFacesInImage,
    "PoseFRRestoreFacesInVideo": RestoreFacesInVideo,
    "PoseFRLoadDetector": LoadDetector,
    "PoseFRLoadRestorer": LoadRestorer,
    "PoseFRDetectFaces": DetectFaces,
    "PoseFRTrackFaces": TrackFaces,
    "PoseFRSelectFaces": SelectFaces,
    "PoseFRPreviewFaces": PreviewFaces,
    "PoseFRFaceReport": FaceReport,
    "PoseFRCropFaces": CropFaces,
    "PoseFRRestoreFaces": RestoreFaces,
    "PoseFRFacePartsMask": FacePartsMask,
    "PoseFRPasteFaces": PasteFaces,
    "PoseFRFacesFromBoxes": FacesFromBoxes,
    "PoseFRFacesToBoxes": FacesToBoxes,
}


class PoseFR(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return list(NODE_CLASS_MAPPINGS.values())


async def comfy_entrypoint() -> PoseFR:
    host.register_folders()
    return PoseFR()
