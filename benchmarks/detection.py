"""Time of detection: PoseFR beside facexlib's own detect_faces, in one process, with the same weights and sizes.

Both look at frames of 1280x720 at full size, with the same network and the same weights. facexlib takes uint8 and one
frame a call; PoseFR takes float32, one frame or 16 a call, and also looks at half the size, for large faces. The last
columns are the bundled detector with its second look at every find. The frames hold a photo, scikit-image's astronaut,
with a face of 20 to 180 px, so that there is something to find.

    python benchmarks/detection.py --weights FILE --repeats 7

prints the least time of the repeats in ms a frame, and the ratio. FILE is facexlib's detection_mobilenet0.25_Final.pth
or another of that architecture; without it the bundled weights are used on both sides. On a machine that does other
work meanwhile, `--processor-time --threads 1` counts the time that the processor spent, not the time that passed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from skimage import data
from timing import add_options, clock_for, least_time

from posefr.detection import Detector, load_detector
from posefr.detection.networks import build_network
from posefr.detection.releases import BUNDLED

FRAMES = 16
WIDTH, HEIGHT = 1280, 720


def make_frames() -> np.ndarray:
    """[16, 720, 1280, 3] uint8 RGB: the astronaut at one to four places, on a blurred copy of herself."""
    rng = np.random.default_rng(0)
    photo = data.astronaut()
    background = cv2.GaussianBlur(cv2.resize(photo[150:438], (WIDTH, HEIGHT)), (0, 0), 25)
    frames = np.repeat(background[None], FRAMES, axis=0)
    for index, frame in enumerate(frames):
        for _ in range(1 + index % 4):
            side = int(rng.uniform(100, 700))
            x, y = int(rng.uniform(0, WIDTH - side)), int(rng.uniform(0, HEIGHT - side))
            frame[y : y + side, x : x + side] = cv2.resize(photo, (side, side), interpolation=cv2.INTER_AREA)
    return frames


def facexlib_twin(detector: Detector) -> Any:
    """facexlib's detector as it is, with the weights of ours.

    Where torchvision's compiled operators do not fit the installed torch, OpenCV's suppression stands in for
    torchvision's: both are compiled, and take a small part of the time.
    """
    import facexlib.detection.retinaface as theirs
    import torchvision

    try:
        torchvision.ops.nms(torch.zeros(1, 4), torch.zeros(1), 0.4)
    except (RuntimeError, NotImplementedError):
        theirs.py_cpu_nms = lambda found, limit: list(
            cv2.dnn.NMSBoxes([(x, y, u - x, v - y) for x, y, u, v, _ in found.tolist()], found[:, 4], 0.0, limit)
        )
    twin: Any = build_network("mobile0.25")
    twin.load_state_dict(detector.first_look.state_dict())
    return twin


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, default=BUNDLED, help="of RetinaFace mobile0.25 (default: the bundled)")
    add_options(parser, repeats=7)
    options = parser.parse_args()
    clock = clock_for(options)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    frames = make_frames()
    images = torch.from_numpy(frames).float() / 255
    bgr = np.ascontiguousarray(frames[..., ::-1])
    detector, bundled = (load_detector(weights, device="cpu") for weights in (options.weights, "bundled"))
    twin = facexlib_twin(detector)

    def theirs(count: int) -> Callable[[], object]:
        return lambda: [twin.detect_faces(frame, conf_threshold=0.5) for frame in bgr[:count]]

    def ours(which: Detector, count: int) -> Callable[[], object]:
        return lambda: which.detect(images[:count], threshold=0.5, size=0, batch=FRAMES)

    found = sum(len(d) for d in theirs(FRAMES)())  # type: ignore[attr-defined]
    print(f"faces in {FRAMES} frames: facexlib {found}, PoseFR {len(ours(detector, FRAMES)())}")  # type: ignore[arg-type]
    print("| frames a call | facexlib, ms a frame | PoseFR, ms a frame | ratio | bundled, ms a frame | ratio |")
    print("|---|---|---|---|---|---|")
    for count in (1, FRAMES):
        times = [
            least_time(f, options.repeats, clock) / count
            for f in (theirs(count), ours(detector, count), ours(bundled, count))
        ]
        print(
            f"| {count} | {times[0]:.1f} | {times[1]:.1f} | {times[0] / times[1]:.2f} | {times[2]:.1f} "
            f"| {times[0] / times[2]:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
