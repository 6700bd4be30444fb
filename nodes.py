"""The nodes: thin adapters between ComfyUI's sockets and the library. Images in and out, no algorithm here."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from comfy_api.latest import ComfyExtension, io, ui

from .posefr import host
from .posefr.color import COLOR_MATCHES
from .posefr.compositing import paste_faces
from .posefr.detection import detector_names, load_detector
from .posefr.drawing import draw_faces
from .posefr.errors import PoseFRError
from .posefr.faces import Faces
from .posefr.geometry import FRAMES, Crops, crop_faces
from .posefr.masks import MASK_SHAPES
from .posefr.restoration import load_restorer, restorer_names
from .posefr.selection import ORDERS, select_faces, split_faces

Detector = io.Custom("POSEFR_DETECTOR")
Restorer = io.Custom("POSEFR_RESTORER")
FacesSocket = io.Custom("POSEFR_FACES")
CropsSocket = io.Custom("POSEFR_CROPS")

CATEGORY = "PoseFR"
PASS, RAISE = "pass the image through", "stop with an error"
ANGLES = {"upright": (0,), "upright and sideways": (0, 90, 270), "any": (0, 90, 180, 270)}
# What goes through a network at once: eight images at the default working size, eight faces of 256 px or two of 512 px.
DETECTOR_PIXELS = 8 * 640**2
RESTORER_PIXELS = 8 * 256**2
# Peak of float32 activations per pixel of a network's input, measured on one image: RetinaFace resnet50 208 bytes,
# posefr-256 380, posefr-512 600, GFPGAN 2170; with a margin for the convolutions' own scratch memory.
DETECTOR_BYTES_PER_PIXEL = 400
RESTORER_BYTES_PER_PIXEL = 2500

# Hosts before 0.9.2 know no `advanced`, before 0.10.0 no `search_aliases`; there the widgets are simply always shown.
RARE = {"advanced": True} if "advanced" in inspect.signature(io.Float.Input).parameters else {}


def _aliases(*words: str) -> dict[str, list[str]]:
    return {"search_aliases": list(words)} if "search_aliases" in inspect.signature(io.Schema).parameters else {}


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


@lru_cache(maxsize=2)
def _detector(name: str, folders: tuple) -> host.Hosted:
    (on_bytes,) = host.progress()
    detector = load_detector(name, device=host.loading_device(), folders=folders, download=True, progress=on_bytes)
    return host.adopt(detector)


@lru_cache(maxsize=2)
def _restorer(name: str, folders: tuple) -> host.Hosted:
    return host.adopt(load_restorer(name, device=host.loading_device(), folders=folders))


def _pick_detector(name: str) -> host.Hosted:
    return _detector(name, tuple(host.folders(host.DETECTOR_FOLDERS)))


def _pick_restorer(name: str) -> host.Hosted:
    return _restorer(name, tuple(host.folders(host.RESTORER_FOLDERS)))


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
                _plural(expected[0], "image"), expected[2], expected[1], found[0], found[2], found[1]
            )
        )


def _detect(
    hosted: host.Hosted,
    images: torch.Tensor,
    threshold: float,
    size: int,
    angles: str,
    on_chunk: Callable[[int, int], None],
) -> tuple[Faces, str]:
    """Detect within the host's memory: the faces, and a sentence where the batch had to shrink."""
    scale = min(1.0, size / max(images.shape[1:3])) if size else 1.0
    pixels = images.shape[1] * images.shape[2] * scale**2
    batch = _batch(len(images), DETECTOR_PIXELS / pixels)

    def run(batch: int) -> Faces:
        detector = host.load(hosted, batch * pixels * DETECTOR_BYTES_PER_PIXEL)
        return detector.detect(
            images, threshold=threshold, size=size, angles=ANGLES[angles], batch=batch, on_chunk=on_chunk
        ).to(images.device)

    faces, fitted = host.with_smaller_batches(run, batch)
    return faces, _halved(batch, fitted, "image")


def _restore(
    hosted: host.Hosted, images: torch.Tensor, fidelity: float, seed: int, on_chunk: Callable[[int, int], None]
) -> tuple[torch.Tensor, str]:
    """Restore within the host's memory: [N, S, S, 3], and a sentence where the batch had to shrink."""
    pixels = hosted.model.size**2
    batch = _batch(len(images), RESTORER_PIXELS / pixels)

    def run(batch: int) -> torch.Tensor:
        restorer = host.load(hosted, batch * pixels * RESTORER_BYTES_PER_PIXEL)
        return restorer.restore(images, fidelity=fidelity, seed=seed, batch=batch, on_chunk=on_chunk)

    restored, fitted = host.with_smaller_batches(run, batch)
    return restored, _halved(batch, fitted, "face")


def _batch(count: int, fitting: float) -> int:
    return max(1, min(count, int(fitting)))


def _halved(asked: int, fitted: int, noun: str) -> str:
    if fitted == asked:
        return ""
    return f"Memory ran out with {_plural(asked, noun)} at a time; done with {fitted} at a time."


def _no_face(images: torch.Tensor, if_no_face: str) -> str:
    said = f"No face found in {_plural(len(images), 'image')}"
    if if_no_face == RAISE:
        raise PoseFRError(
            f'{said}: lower the threshold, raise the working size or allow more angles, or set if_no_face to "{PASS}".'
        )
    return f"{said}: passed through unchanged."


class _Node(io.ComfyNode):
    """What all nodes share: the note that each shows after it ran."""

    @classmethod
    def done(cls, *outputs: Any, said: str = "", warnings: tuple[str, ...] = (), shown: Any = None) -> io.NodeOutput:
        """Hand on the outputs; show `said` and the warnings on the node, and keep the warnings in the history."""
        warnings = tuple(filter(None, warnings))
        if said or warnings:
            host.note(cls.hidden.unique_id, "\n".join(filter(None, (said, *warnings))))
        shown = {} if shown is None else shown.as_dict()
        return io.NodeOutput(*outputs, ui={**shown, "text": warnings} if warnings else shown or None)


def _threshold() -> Any:
    return io.Float.Input(
        "threshold",
        default=0.5,
        min=0.05,
        max=0.99,
        step=0.01,
        tooltip="How sure the detector must be. Lower it if faces are missed, raise it if it finds faces where there "
        "are none.",
    )


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


def _if_no_face() -> Any:
    return io.Combo.Input(
        "if_no_face",
        options=[PASS, RAISE],
        default=PASS,
        tooltip="What to do when no image of the batch has a face: hand on the image unchanged with a note on the "
        "node, or stop the run with an error.",
    )


def _fidelity() -> Any:
    return io.Float.Input(
        "fidelity",
        default=0.7,
        min=0.0,
        max=1.0,
        step=0.05,
        display_mode=io.NumberDisplay.slider,
        tooltip="1 keeps closest to the face in the picture; lower values let the network invent more.",
    )


def _seed() -> Any:
    return io.Int.Input(
        "seed",
        default=0,
        min=0,
        max=2**32 - 1,
        control_after_generate=False,
        tooltip="Seed of the fine noise in skin and hair. The same seed gives the same result.",
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
            tooltip="Which part of each face is replaced: an ellipse, the whole square, or the outline of the facial "
            "features.",
        ),
        io.Float.Input(
            "feather",
            default=8.0,
            min=0.0,
            max=50.0,
            step=0.5,
            tooltip="Width of the soft border, in per cent of the face's size.",
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
            tooltip="Moves the border of the mask outwards, or inwards below 0, in per cent of the face's size.",
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
                    tooltip="posefr-256 is bundled. Files of GFPGAN and RestoreFormer in models/facerestore_models "
                    "are listed too.",
                )
            ],
            outputs=[Restorer.Output(display_name="restorer", tooltip="For Crop Faces and Restore Faces.")],
            hidden=[io.Hidden.unique_id],
            **_aliases("face restore model", "gfpgan", "codeformer", "restoreformer"),
        )

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
                _if_no_face(),
                _working_size(),
                _angles(),
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
    ) -> io.NodeOutput:
        images, _ = _split(image)
        (on_chunk,) = host.progress()
        faces, halved = _detect(detector, images, threshold, working_size, angles, on_chunk)
        if not len(faces):
            return cls.done(faces, 0, warnings=(_no_face(images, if_no_face), halved))
        said = f"{_plural(len(faces), 'face')} in {_plural(len(images), 'image')}"
        return cls.done(faces, len(faces), said=said, warnings=(halved,))


class SelectFaces(_Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        def turn(name: str, default: int, meaning: str) -> Any:
            return io.Int.Input(
                name, default=default, min=-180, max=180, tooltip=f"{meaning}; 0 faces the camera.", **RARE
            )

        def pixels(name: str, which: str) -> Any:
            return io.Int.Input(
                name,
                default=0,
                min=0,
                max=16384,
                tooltip=f"The {which} size of a face in px (square root of its box's area); 0 sets no limit.",
            )

        return io.Schema(
            node_id="PoseFRSelectFaces",
            display_name="Select Faces (PoseFR)",
            category=CATEGORY,
            description="Keeps some of the faces: by order and number, size, confidence or pose. Works on each image "
            "of the batch by itself.",
            inputs=[
                FacesSocket.Input("faces", tooltip="From Detect Faces."),
                io.Combo.Input(
                    "order",
                    options=list(ORDERS),
                    default="area",
                    tooltip="How the faces of an image are counted: largest first, from the left, from the top, from "
                    "the centre outwards, or surest first. Preview Faces shows the numbers.",
                ),
                io.String.Input(
                    "indices",
                    default="",
                    tooltip="Which faces to keep, counted from 0 in this order among those within the limits below, "
                    'for example "0" or "0,2-4"; empty keeps all.',
                ),
                io.Int.Input(
                    "limit",
                    default=0,
                    min=0,
                    max=1000,
                    tooltip="Keep at most this many faces of each image; 0 sets no limit.",
                ),
                pixels("min_size", "smallest"),
                pixels("max_size", "largest"),
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
            **_aliases("filter faces", "pick face", "face index", "largest face"),
        )

    @classmethod
    def execute(
        cls,
        faces: Faces,
        order: str,
        indices: str,
        limit: int,
        min_size: int,
        max_size: int,
        min_confidence: float,
        min_yaw: int,
        max_yaw: int,
        min_pitch: int,
        max_pitch: int,
    ) -> io.NodeOutput:
        kept, rest = split_faces(
            faces,
            order=order,
            indices=indices,
            limit=limit,
            size=(float(min_size), float(max_size) if max_size else float("inf")),
            confidence=min_confidence,
            yaw=(float(min_yaw), float(max_yaw)),
            pitch=(float(min_pitch), float(max_pitch)),
        )
        return cls.done(kept, len(kept), rest, said=f"{len(kept)} of {_plural(len(faces), 'face')} kept")


class PreviewFaces(_Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PoseFRPreviewFaces",
            display_name="Preview Faces (PoseFR)",
            category=CATEGORY,
            description="Draws each face's box, landmarks and number on the image. The numbers are those that Select "
            "Faces counts with the same order.",
            inputs=[
                io.Image.Input("image", tooltip="The image that went into Detect Faces."),
                FacesSocket.Input("faces", tooltip="From Detect Faces or Select Faces."),
                io.Combo.Input(
                    "order", options=list(ORDERS), default="area", tooltip="How the faces of each image are numbered."
                ),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The image with the faces drawn on it.")],
            is_output_node=True,
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            **_aliases("show faces", "draw face boxes", "face index"),
        )

    @classmethod
    def execute(cls, image: torch.Tensor, faces: Faces, order: str) -> io.NodeOutput:
        images, _ = _split(image)
        _check_same_images(images, faces)
        drawn = host.hand_over(draw_faces(images, select_faces(faces, order=order)))
        return cls.done(drawn, said=_plural(len(faces), "face"), shown=ui.PreviewImage(drawn, cls=cls))


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
                Restorer.Input(
                    "restorer",
                    optional=True,
                    tooltip="From Load Face Restorer: crops in the size and alignment that it was trained with, "
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
            ],
            outputs=[
                CropsSocket.Output(
                    display_name="crops", tooltip="Where each crop came from, for Restore Faces and Paste Faces."
                ),
                io.Image.Output(display_name="images", tooltip="The crops, one image per face."),
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
        restorer: host.Hosted | None = None,
    ) -> io.NodeOutput:
        images, _ = _split(image)
        _check_same_images(images, faces)
        if restorer is not None:
            size, alignment = restorer.model.size, restorer.model.frame
        crops = crop_faces(images, faces, size=size, frame=alignment)
        if not len(faces):
            return cls.done(crops, _blank(images, size), warnings=("No face to crop.",))
        return cls.done(crops, host.hand_over(crops.images), said=f"{_plural(len(faces), 'face')}, {size} px")


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
                Restorer.Input("restorer", tooltip="From Load Face Restorer."),
                io.Image.Input("images", tooltip="The images of Crop Faces, as they are or after other nodes."),
                CropsSocket.Input(
                    "crops",
                    optional=True,
                    tooltip="From Crop Faces. With it the node checks that the alignment suits the restorer, and has "
                    "nothing to do where there is no face.",
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
        restorer: host.Hosted,
        images: torch.Tensor,
        fidelity: float,
        seed: int,
        crops: Crops | None = None,
    ) -> io.NodeOutput:
        images, _ = _split(images)
        if crops is not None and not len(crops.faces):
            return cls.done(_blank(images, restorer.model.size), warnings=("No face to restore.",))
        if crops is not None and crops.frame != restorer.model.frame:
            raise PoseFRError(
                f'These crops are aligned as "{crops.frame}", but {restorer.model.name} was trained on '
                f'"{restorer.model.frame}"; connect the restorer to Crop Faces as well.'
            )
        (on_chunk,) = host.progress()
        restored, halved = _restore(restorer, images, fidelity, seed, on_chunk)
        said = f"{_plural(len(images), 'face')} restored"
        return cls.done(host.hand_over(restored), said=said, warnings=(halved,))


def _custom_mask(mask: torch.Tensor, images: torch.Tensor, count: int) -> torch.Tensor:
    """An outside MASK as paste_faces takes it; one that suits no image but a crop is for each of the `count` crops."""
    mask = mask.reshape(-1, *mask.shape[-2:])
    for_one_crop = len(mask) == 1 and mask.shape[1] == mask.shape[2] and mask.shape[1:] != images.shape[1:3]
    return mask.expand(count, -1, -1) if for_one_crop else mask


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
                    tooltip="From Restore Faces or any other node: one square image per face, of any size.",
                ),
                *_paste_inputs(),
                io.Mask.Input(
                    "custom_mask",
                    optional=True,
                    tooltip="Replaces the mask chosen above: white is pasted. Either one mask of the image's size (or "
                    "one per image), or one per crop.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The image with its faces replaced."),
                io.Mask.Output(display_name="mask", tooltip="Where the image was changed, and how much."),
            ],
            hidden=[io.Hidden.unique_id],
            **_aliases("paste back", "face composite", "uncrop faces"),
        )

    @classmethod
    def execute(
        cls,
        image: torch.Tensor,
        crops: Crops,
        restored: torch.Tensor,
        strength: float,
        mask: str,
        feather: float,
        color_match: str,
        grow: float,
        custom_mask: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        images, alpha = _split(image)
        if not len(crops.faces):
            nothing = host.hand_over(images.new_zeros(images.shape[:3]))
            return cls.done(image, nothing, warnings=("No face to paste: passed through unchanged.",))
        if custom_mask is not None and not custom_mask.any():
            nothing = host.hand_over(images.new_zeros(images.shape[:3]))
            return cls.done(image, nothing, warnings=("The custom mask is black everywhere: nothing was pasted.",))
        faces, _ = _split(restored)
        if len(faces) != len(crops.faces):
            raise PoseFRError(
                f"{_plural(len(crops.faces), 'face')} came from Crop Faces, but restored brings "
                f"{_plural(len(faces), 'image')}; connect exactly one image per face."
            )
        out, covered = paste_faces(
            images,
            crops,
            faces.to(images.device),
            mask=mask if custom_mask is None else _custom_mask(custom_mask, images, len(crops)),
            feather=feather,
            grow=grow,
            color_match=color_match,
            strength=strength,
        )
        return cls.done(_join(out, alpha), host.hand_over(covered), said=f"{_plural(len(faces), 'face')} pasted")


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
                io.Combo.Input(
                    "restorer",
                    options=restorer_names(host.folders(host.RESTORER_FOLDERS)),
                    tooltip="The network that restores: bundled, or a file in models/posefr or "
                    "models/facerestore_models.",
                ),
                io.Combo.Input(
                    "detector",
                    options=detector_names(host.folders(host.DETECTOR_FOLDERS)),
                    tooltip="The network that finds faces. bundled needs no download.",
                ),
                _fidelity(),
                *_paste_inputs(),
                _threshold(),
                io.Int.Input(
                    "limit",
                    default=0,
                    min=0,
                    max=1000,
                    tooltip="Restore only the largest faces of each image, at most this many; 0 restores all.",
                ),
                _if_no_face(),
                _working_size(),
                _angles(),
                _seed(),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The image with its faces restored."),
                io.Mask.Output(display_name="mask", tooltip="Where the image was changed, and how much."),
                FacesSocket.Output(display_name="faces", tooltip="The faces that were restored."),
            ],
            hidden=[io.Hidden.unique_id],
            **_aliases("restore face", "fix face", "face detailer", "face restore", "gfpgan", "codeformer"),
        )

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
        if_no_face: str,
        working_size: int,
        angles: str,
        seed: int,
    ) -> io.NodeOutput:
        images, alpha = _split(image)
        finder, fixer = _pick_detector(detector), _pick_restorer(restorer)
        detecting, restoring = host.progress(stages=2)
        faces, halved = _detect(finder, images, threshold, working_size, angles, detecting)
        if not len(faces):
            nothing = host.hand_over(images.new_zeros(images.shape[:3]))
            return cls.done(image, nothing, faces, warnings=(_no_face(images, if_no_face), halved))
        faces = select_faces(faces, order="area", limit=limit)
        crops = crop_faces(images, faces, size=fixer.model.size, frame=fixer.model.frame)
        restored, halved_again = _restore(fixer, crops.images, fidelity, seed, restoring)
        out, covered = paste_faces(
            images,
            crops,
            restored.to(images.device),
            mask=mask,
            feather=feather,
            grow=grow,
            color_match=color_match,
            strength=strength,
        )
        said = f"{_plural(len(faces), 'face')} restored in {_plural(len(images), 'image')}"
        return cls.done(_join(out, alpha), host.hand_over(covered), faces, said=said, warnings=(halved, halved_again))


class PoseFR(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            RestoreFacesInImage,
            LoadDetector,
            LoadRestorer,
            DetectFaces,
            SelectFaces,
            PreviewFaces,
            CropFaces,
            RestoreFaces,
            PasteFaces,
        ]


async def comfy_entrypoint() -> PoseFR:
    host.register_folders()
    return PoseFR()
