"""Memory of restoring a video file, by its length.

Videos of 1920x1080 show scikit-image's astronaut three times, at different sizes. Each is restored by a process of its
own; told is the highest memory that it has had in use.

    python benchmarks/video.py
    python benchmarks/video.py --frames 1500 --device cuda
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline import FACES, HEIGHT, WIDTH, make_frame, most_used

import posefr


def write_clip(path: Path, frames: int) -> None:
    import av

    picture = av.VideoFrame.from_ndarray(make_frame(), format="rgb24")
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for _ in range(frames):
            file.mux(stream.encode(picture))
        file.mux(stream.encode(None))


def peak_memory(frames: int, device: str) -> None:
    """Restore a video, then print bytes: with the networks loaded, and the peak."""
    detector = posefr.load_detector("bundled", device=device)
    restorer = posefr.load_restorer("posefr-256", device=device)
    with TemporaryDirectory() as folder:
        source, target = (Path(folder) / name for name in ("in.mp4", "out.mp4"))
        write_clip(source, frames)
        before = most_used()
        faces = posefr.restore_video(source, target, detector=detector, restorer=restorer)
    assert len(faces) == FACES * frames, f"{len(faces)} faces were found"
    print(before, most_used())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--frames", type=int, nargs="+", default=[24, 96, 288], help="lengths (default: 24 96 288)")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        peak_memory(options.memory_of, options.device)
        return
    print(f"| frames of {WIDTH}x{HEIGHT}, {FACES} faces | as floats, GiB | before, GiB | peak, GiB |")
    print("|---|---|---|---|")
    for frames in options.frames:
        command = [sys.executable, __file__, "--memory-of", str(frames), "--device", options.device]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        before, peak = (int(number) / 2**30 for number in done.stdout.split())
        print(f"| {frames} | {frames * WIDTH * HEIGHT * 12 / 2**30:.2f} | {before:.2f} | {peak:.2f} |", flush=True)


if __name__ == "__main__":
    main()
