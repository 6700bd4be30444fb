"""Time and memory of all of it: PoseFR beside facexlib's FaceRestoreHelper with spandrel's GFPGAN network.

A frame of 1920x1080 shows scikit-image's astronaut three times, at different sizes. Both detect with the same network,
the bundled one. PoseFR crops, restores with posefr-256 and pastes back; facexlib crops, GFPGAN (512 px, random weights,
which take the same time as trained ones) restores face by face, as its own `enhance` does, and facexlib pastes. PoseFR
starts from floats of 0..1 and facexlib from bytes in BGR, as each has them; neither converts the frame. facexlib's
detector drops finds with a score below 0.97, so it is given PoseFR's landmarks afterwards: the same three faces.

Memory is the highest that a process of its own has in use while it restores a batch, and what it is compared with is
the batch that goes in and the batch that comes out.

    python benchmarks/pipeline.py
    python benchmarks/pipeline.py --device cuda
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import torch
from timing import add_options, clock_for

import posefr
from posefr.detection.networks import build_network
from posefr.detection.suppression import suppress
from posefr.detection.torchvision_repair import ensure_torchvision
from posefr.pipeline import restore_report

WIDTH, HEIGHT = 1920, 1080
PLACES = ((100, 80, 900), (1050, 60, 640), (1250, 720, 340))  # left, top, side: faces of about 160, 110 and 60 px
FACES = len(PLACES)


def make_frame() -> np.ndarray:
    """[1080, 1920, 3] uint8 RGB."""
    from skimage.data import astronaut

    photo = astronaut()
    frame = cv2.resize(photo[300:310, :100], (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    for left, top, side in PLACES:
        copy = cv2.resize(photo, (side, side), interpolation=cv2.INTER_CUBIC if side > 512 else cv2.INTER_AREA)
        frame[top : top + side, left : left + side] = copy[: HEIGHT - top, : WIDTH - left]
    return frame


def gfpgan(folder: Path, device: str) -> Any:
    """The network as spandrel reads it from a file in the layout in which GFPGAN's weights are published."""
    ensure_torchvision()
    from spandrel import ModelLoader
    from spandrel.architectures.GFPGAN import GFPGAN

    torch.manual_seed(0)
    network = GFPGAN(
        out_size=512,
        num_style_feat=512,
        channel_multiplier=2,
        decoder_load_path=None,
        fix_decoder=False,
        num_mlp=8,
        input_is_latent=True,
        different_w=True,
        narrow=1,
        sft_half=True,
    )
    path = folder / "GFPGAN.pth"
    torch.save({"params_ema": network.state_dict()}, path)
    return ModelLoader(device).load_from_file(path).model.eval()


def make_facexlib(frame: np.ndarray, landmarks: np.ndarray, detector: Any, network: Any, device: str) -> Callable:
    """What GFPGAN's `enhance` does with the helper, which is filled in by hand: its constructor downloads weights."""
    from facexlib.detection import retinaface
    from facexlib.utils.face_restoration_helper import FaceRestoreHelper
    from facexlib.utils.misc import img2tensor

    def nms(finds: np.ndarray, threshold: float) -> list[int]:
        """torchvision's needs the build that belongs to torch's; few finds are left here, so it takes no time."""
        return suppress(torch.from_numpy(finds[:, :4]), torch.from_numpy(finds[:, 4]), threshold).tolist()

    retinaface.py_cpu_nms = nms

    helper: Any = object.__new__(FaceRestoreHelper)
    helper.upscale_factor, helper.use_parse, helper.face_size = 1, False, (512, 512)
    helper.template_3points = helper.pad_blur = False
    helper.face_template = np.array(
        [[192.98138, 239.94708], [318.90277, 240.1936], [256.63416, 314.01935], [201.26117, 371.41043],
         [313.08905, 371.15118]]
    )  # fmt: skip
    helper.face_det = build_network("mobile0.25").to(device)
    helper.face_det.load_state_dict(detector.first_look.state_dict())
    helper.face_det.device = torch.device(device)
    helper.face_det.mean_tensor = helper.face_det.mean_tensor.to(device)

    def run() -> np.ndarray:
        for name in ("all_landmarks_5", "det_faces", "affine_matrices", "inverse_affine_matrices", "cropped_faces",
                     "restored_faces"):  # fmt: skip
            setattr(helper, name, [])
        helper.read_image(frame)
        helper.get_face_landmarks_5(only_center_face=False, resize=640, eye_dist_threshold=5)
        helper.all_landmarks_5 = list(landmarks)
        helper.align_warp_face()
        for face in helper.cropped_faces:
            picture = img2tensor(face / 255.0, bgr2rgb=True, float32=True).sub(0.5).div(0.5)[None].to(device)
            restored = network(picture, return_rgb=False)[0][0]
            restored = restored.clamp(-1, 1).add(1).mul(127.5).round().byte().flip(0).movedim(0, 2).cpu().numpy()
            helper.add_restored_face(np.ascontiguousarray(restored))
        helper.get_inverse_affine()
        return helper.paste_faces_to_input_image()

    return run


def least_time(function: Callable[[], object], repeats: int, clock: Callable[[], float]) -> float:
    """Seconds of the fastest call; the first call does not count unless it is the only one."""
    times = []
    for _ in range(repeats + (repeats > 1)):
        start = clock()
        function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(clock() - start)
    return min(times[-repeats:])


def most_used() -> int:
    """The most memory that this process has had in use so far, bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # Linux hands getrusage's figure on from the process that started this one
        return 1024 * int(re.findall(r"VmHWM:\s*(\d+) kB", status.read_text())[0])
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def peak_memory(frames: int, device: str) -> None:
    """Restore a batch, then print bytes: the batch in and out, the peak before, the peak."""
    frame = torch.from_numpy(make_frame()).float().div_(255)
    images = frame.expand(frames, -1, -1, -1).clone()
    detector = posefr.load_detector("bundled", device=device)
    restorer = posefr.load_restorer("posefr-256", device=device)
    before = most_used()
    result = restore_report(images, detector=detector, restorer=restorer)
    peak = most_used()
    assert len(result.faces) == FACES * frames, f"{len(result.faces)} faces were found"
    print(images.nbytes + result.images.nbytes, before, peak)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    add_options(parser, repeats=3)
    parser.add_argument("--frames", type=int, default=64, help="in the batch whose memory is measured; 0 for none")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    clock = clock_for(options)
    if options.memory_of:
        peak_memory(options.memory_of, options.device)
        return
    where = torch.cuda.get_device_name() if options.device != "cpu" else f"{torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, {where}; OpenCV {cv2.__version__}, {cv2.getNumThreads()}")
    frame = make_frame()
    image = torch.from_numpy(frame).float().div(255)[None].to(options.device)
    detector = posefr.load_detector("bundled", device=options.device)
    restorer = posefr.load_restorer("posefr-256", device=options.device)
    found = detector.detect(image)
    assert len(found) == FACES, f"{len(found)} faces were found"
    with TemporaryDirectory() as folder:
        network = gfpgan(Path(folder), options.device)
    landmarks = found.landmarks.cpu().numpy() - 0.5  # OpenCV counts from the first pixel's centre
    theirs = least_time(
        make_facexlib(np.ascontiguousarray(frame[:, :, ::-1]), landmarks, detector, network, options.device),
        options.repeats,
        clock,
    )
    stages: dict[str, float] = {}

    def ours_once() -> object:
        own: dict[str, float] = {}  # each stage's parts together
        last = clock()

        def told(stage: str, done: int, total: int) -> None:
            nonlocal last
            own[stage] = own.get(stage, 0.0) + clock() - last
            last = clock()

        result = restore_report(image, detector=detector, restorer=restorer, on_chunk=told)
        stages.update({stage: min(seconds, stages.get(stage, seconds)) for stage, seconds in own.items()})
        return result

    ours = least_time(ours_once, options.repeats, clock)
    print(f"| frame of {WIDTH}x{HEIGHT}, {FACES} faces | s |")
    print("|---|---|")
    print(f"| facexlib and GFPGAN | {theirs:.3f} |")
    print(f"| PoseFR | {ours:.3f} |")
    print(f"| of this: detection | {stages['detect']:.3f} |")
    print(f"| of this: crops and restoration | {stages['restore']:.3f} |")
    print(f"| ratio | {theirs / ours:.1f} |")
    if options.frames:
        command = [sys.executable, __file__, "--memory-of", str(options.frames), "--device", options.device]
        done = subprocess.run([*command, "--threads", str(options.threads)], check=True, capture_output=True, text=True)
        both, before, peak = (int(number) / 2**30 for number in done.stdout.split())
        print(f"\n| memory, {options.frames} frames | GiB |")
        print("|---|---|")
        print(f"| images in and out | {both:.2f} |")
        print(f"| with the images and networks loaded | {before:.2f} |")
        print(f"| peak | {peak:.2f} |")
        print(f"| peak to images in and out | {peak / both:.2f} |")


if __name__ == "__main__":
    main()
