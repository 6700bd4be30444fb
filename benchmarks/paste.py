"""Time of pasting and of cropping faces: PoseFR beside facexlib's FaceRestoreHelper, in one process, on the same faces.

Both paste 512 px crops of 200 px faces, turned by up to 20 degrees, facexlib with its square mask, PoseFR with its box
mask (and with what it does by default: ellipse and colour match). facexlib works on uint8 in OpenCV, PoseFR on float32;
neither converts. facexlib's figure is its paste step alone: the helper is filled in by hand, so that no network is
built and nothing is downloaded.

Both crop the same faces to 512 px, from landmarks to what a network takes. facexlib's own part is `align_warp_face`,
which gives uint8; its users then make floats of them (`img2tensor`), and if their image is floats, as it is in ComfyUI,
they have first made it one of 0..255 in BGR. All three are given. facexlib interpolates linearly, PoseFR as exactly as
a bicubic kernel does.

    python benchmarks/paste.py --repeats 20

prints the least time of the repeats in ms, and the ratio. On a machine that does other work at the same time,
`--processor-time --threads 1` counts the time that the processor spent, not the time that passed.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
from timing import add_options, clock_for, least_time

from posefr.compositing import paste_faces
from posefr.detection.torchvision_repair import ensure_torchvision
from posefr.faces import Faces
from posefr.geometry import Crops, crop_faces, transform_scale

IMAGE_SIZES = ((1024, 1024), (1920, 1080), (3840, 2160))
FACE_COUNTS = (1, 4, 10)
FACE_SIZE = 200.0  # px, the side of the detector's box
CROP_SIZE = 512
# Eyes, nose and mouth corners of facexlib's template, around its centre; the face's box is about 0.6 of that crop.
FACEXLIB_TEMPLATE = [[192.98, 239.95], [318.90, 240.19], [256.63, 314.02], [201.26, 371.41], [313.09, 371.15]]
TEMPLATE = (torch.tensor(FACEXLIB_TEMPLATE) - 256) * (FACE_SIZE / 0.6 / 512)


def make_faces(width: int, height: int, count: int, seed: int = 0) -> Faces:
    """Faces of 200 px anywhere in the image; in a small one they overlap."""
    generator = torch.Generator().manual_seed(seed)
    angles = (torch.rand(count, generator=generator) - 0.5) * math.radians(40)
    turns = torch.stack([angles.cos(), angles.sin(), -angles.sin(), angles.cos()], dim=1).view(-1, 2, 2)
    room = torch.tensor([width, height]) - 2 * FACE_SIZE
    centres = torch.rand(count, 2, generator=generator) * room + FACE_SIZE
    boxes = torch.cat([centres - FACE_SIZE / 2, centres + FACE_SIZE / 2], dim=1)
    landmarks = TEMPLATE @ turns + centres[:, None]
    return Faces.make(torch.zeros(count), boxes, landmarks, torch.ones(count), (height, width), 1)


def make_facexlib_paste(image: np.ndarray, crops: Crops, restored: np.ndarray) -> Callable[[], np.ndarray]:
    """The helper's inverse transforms and paste step, without the networks that its constructor builds."""
    ensure_torchvision()
    from facexlib.utils.face_restoration_helper import FaceRestoreHelper

    helper: Any = object.__new__(FaceRestoreHelper)
    helper.upscale_factor, helper.use_parse, helper.face_size = 1, False, (CROP_SIZE, CROP_SIZE)
    helper.input_img = image
    helper.affine_matrices = list(crops.transforms.double().numpy())
    helper.restored_faces = list(restored)

    def paste() -> np.ndarray:
        helper.inverse_affine_matrices = []
        helper.get_inverse_affine()
        return helper.paste_faces_to_input_image()

    return paste


def make_facexlib_crop(image: np.ndarray, faces: Faces, *, floats: bool, tensors: bool) -> Callable[[], object]:
    """The helper's crop step: from uint8 or from float RGB of 0..1, to uint8 or to float tensors."""
    ensure_torchvision()
    from facexlib.utils.face_restoration_helper import FaceRestoreHelper
    from facexlib.utils.misc import img2tensor

    helper: Any = object.__new__(FaceRestoreHelper)
    helper.pad_blur, helper.face_size = False, (CROP_SIZE, CROP_SIZE)
    helper.face_template = np.array(FACEXLIB_TEMPLATE)
    helper.all_landmarks_5 = list(faces.landmarks.numpy() - 0.5)
    helper.input_img = image

    def crop() -> object:
        helper.affine_matrices, helper.cropped_faces = [], []
        if floats:
            helper.read_image(np.ascontiguousarray((image * 255.0)[:, :, ::-1]))
        helper.align_warp_face()
        if tensors:
            return torch.stack([img2tensor(face / 255.0, bgr2rgb=True, float32=True) for face in helper.cropped_faces])
        return helper.cropped_faces

    return crop


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser, repeats=7)
    options = parser.parse_args()
    clock = clock_for(options)
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads; OpenCV {cv2.__version__}, {cv2.getNumThreads()}"
    )
    pasting, cropping = [], []
    for width, height in IMAGE_SIZES:
        image = torch.rand(1, height // 8, width // 8, 3).repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)
        image_bytes = (image[0] * 255).round().byte().numpy()
        image = torch.from_numpy(image_bytes).float()[None] / 255
        for count in FACE_COUNTS:
            faces = make_faces(width, height, count)
            crops = crop_faces(image, faces, CROP_SIZE, "template5")
            assert abs(float(transform_scale(crops.transforms)[0]) * FACE_SIZE - 0.6 * CROP_SIZE) < 1
            restored_bytes = (crops.images * 255).round().byte().numpy()
            restored = torch.from_numpy(restored_bytes).float() / 255
            name = f"| {width}x{height} | {count} |"
            theirs, ours, default = (
                least_time(function, options.repeats, clock)
                for function in (
                    make_facexlib_paste(image_bytes, crops, restored_bytes),
                    partial(paste_faces, image, crops, restored, mask="box"),
                    partial(paste_faces, image, crops, restored, color_match="mean_std"),
                )
            )
            pasting.append(
                f"{name} {theirs:.0f} | {ours:.1f} | {theirs / ours:.1f} | {default:.1f} | {theirs / default:.1f} |"
            )
            step, tensors, floats, ours = (
                least_time(function, options.repeats, clock)
                for function in (
                    make_facexlib_crop(image_bytes, faces, floats=False, tensors=False),
                    make_facexlib_crop(image_bytes, faces, floats=False, tensors=True),
                    make_facexlib_crop(image[0].numpy(), faces, floats=True, tensors=True),
                    partial(crop_faces, image, faces, CROP_SIZE, "template5"),
                )
            )
            cropping.append(f"{name} {step:.1f} | {tensors:.1f} | {floats:.1f} | {ours:.1f} | {floats / ours:.1f} |")
    print("| image | faces | facexlib paste, ms | PoseFR box, ms | ratio | PoseFR default, ms | ratio |")
    print("|---|---|---|---|---|---|---|", *pasting, "", sep="\n")
    print("| image | faces | facexlib crop, ms | and to floats | and from floats | PoseFR, ms | ratio to the last |")
    print("|---|---|---|---|---|---|---|", *cropping, sep="\n")


if __name__ == "__main__":
    main()
