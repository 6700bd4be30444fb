"""Time of pasting restored faces: PoseFR beside facexlib's FaceRestoreHelper, in one process, on the same faces.

Both paste 512 px crops of 200 px faces, turned by up to 20 degrees, facexlib with its square mask, PoseFR with its box
mask (and with what it does by default: ellipse and colour match). facexlib works on uint8 in OpenCV, PoseFR on float32
in torch; neither converts. facexlib's figure is its paste step alone: the helper is filled in by hand, so that no
network is built and nothing is downloaded.

    python benchmarks/paste.py --repeats 7

prints the least time of the repeats in ms, and the ratio. On a machine that does other work at the same time,
`--processor-time --threads 1` counts the time that the processor spent, not the time that passed.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch

from posefr.compositing import paste_faces
from posefr.detection.torchvision_repair import ensure_torchvision
from posefr.faces import Faces
from posefr.geometry import Crops, crop_faces, transform_scale

IMAGE_SIZES = ((1024, 1024), (1920, 1080), (3840, 2160))
FACE_COUNTS = (1, 4, 10)
FACE_SIZE = 200.0  # px, the side of the detector's box
CROP_SIZE = 512
# Eyes, nose and mouth corners of facexlib's template, around its centre; the face's box is about 0.6 of that crop.
TEMPLATE = torch.tensor([[192.98, 239.95], [318.90, 240.19], [256.63, 314.02], [201.26, 371.41], [313.09, 371.15]])
TEMPLATE = (TEMPLATE - 256) * (FACE_SIZE / 0.6 / 512)


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


def least_time(function: Callable[[], object], repeats: int, clock: Callable[[], float]) -> float:
    """ms of the fastest call; the first call does not count."""
    function()
    times = []
    for _ in range(repeats):
        start = clock()
        function()
        times.append(clock() - start)
    return min(times) * 1e3


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7, help="calls to take the least time of")
    parser.add_argument("--threads", type=int, default=0, help="threads for torch and OpenCV each; 0 leaves both alone")
    parser.add_argument("--processor-time", action="store_true", help="count the processor's time, in all threads")
    options = parser.parse_args()
    clock = time.process_time if options.processor_time else time.perf_counter
    if options.threads:
        torch.set_num_threads(options.threads)
        cv2.setNumThreads(options.threads)
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads; OpenCV {cv2.__version__}, {cv2.getNumThreads()}"
    )
    print("| image | faces | facexlib, ms | PoseFR box, ms | ratio | PoseFR default, ms | ratio |")
    print("|---|---|---|---|---|---|---|")
    for width, height in IMAGE_SIZES:
        image = torch.rand(1, height // 8, width // 8, 3).repeat_interleave(8, dim=1).repeat_interleave(8, dim=2)
        image_bytes = (image[0] * 255).round().byte().numpy()
        image = torch.from_numpy(image_bytes).float()[None] / 255
        for count in FACE_COUNTS:
            crops = crop_faces(image, make_faces(width, height, count), CROP_SIZE, "template5")
            assert abs(float(transform_scale(crops.transforms)[0]) * FACE_SIZE - 0.6 * CROP_SIZE) < 1
            restored_bytes = (crops.images * 255).round().byte().numpy()
            restored = torch.from_numpy(restored_bytes).float() / 255
            paste_theirs = make_facexlib_paste(image_bytes, crops, restored_bytes)

            def paste_ours(
                image: torch.Tensor = image, crops: Crops = crops, restored: torch.Tensor = restored
            ) -> object:
                return paste_faces(image, crops, restored, mask="box")

            def paste_default(
                image: torch.Tensor = image, crops: Crops = crops, restored: torch.Tensor = restored
            ) -> object:
                return paste_faces(image, crops, restored, color_match="mean_std")

            theirs = least_time(paste_theirs, options.repeats, clock)
            ours = least_time(paste_ours, options.repeats, clock)
            default = least_time(paste_default, options.repeats, clock)
            print(
                f"| {width}x{height} | {count} | {theirs:.0f} | {ours:.1f} | {theirs / ours:.1f} | {default:.1f} "
                f"| {theirs / default:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
