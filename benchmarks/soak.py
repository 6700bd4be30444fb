"""Does a ComfyUI with the pack stay healthy? Hundreds of different workflows through one server, its memory watched.

    COMFYUI_DIR=... COMFYUI_PYTHON=... python benchmarks/soak.py --write docs/soak.md

Every workflow differs from the one before: in what it does (one node, step by step, faces by number, video, boxes from
and to other nodes, other nodes between ours, a report), in the size of its pictures, in the number of their faces and
images, and in its seeds, so that the server can reuse nothing. Before the first, every kind has run with its largest
choices on the largest pictures, since a process does not give back all memory that it once needed. After each the
resident memory of the server's process is read from /proc, so it needs Linux. Exit status 1 if a workflow failed or
memory did not stay flat.

The server gives freed blocks of 1 MiB and more back to the system (MALLOC_MMAP_THRESHOLD_ of glibc). Without that glibc
keeps what falls between other blocks, in steps of some hundred MiB that come and stay at any time, whatever is kept
alive; --own-malloc measures it so.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import comfyui_server  # noqa: E402
import numpy as np  # noqa: E402
import photos  # noqa: E402
from PIL import Image  # noqa: E402
from workflows import ALL_FACES, composed, node, one_node  # noqa: E402

PART, FLAT = 50, 0.05
PICTURES = {  # name: (number of faces, width)
    "none_small.png": (0, 160),
    "none.png": (0, 512),
    "one_tiny.png": (1, 200),
    "one.png": (1, 384),
    "three_small.png": (3, 480),
    "one_large.png": (1, 768),
    "three.png": (3, 900),
}


def make_pictures(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, (faces, width) in PICTURES.items():
        if faces:
            image = photos.astronaut() if faces == 1 else photos.group()
        else:
            image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 512, 3), np.uint8))
        image.resize((width, round(width * image.height / image.width))).save(folder / name)


def alone(pick: random.Random, photo: str) -> dict[str, Any]:
    return one_node(
        photo, batch=pick.choice([1, 1, 2, 3]), limit=pick.choice([1, 2, 0]), mask=pick.choice(["box", "hull"])
    )


def steps(pick: random.Random, photo: str) -> dict[str, Any]:
    return composed(photo, indices=pick.choice(["0", "0,2", "1-5", ""]))


def video(pick: random.Random, photo: str) -> dict[str, Any]:
    graph = composed(photo)
    graph["batch"] = node("RepeatImageBatch", image=["load", 0], amount=pick.choice([2, 4, 6]))
    graph["track"] = node("PoseFRTrackFaces", faces=["detect", 0], gap=5, smoothing=pick.uniform(0, 8), reach=0.8)
    graph["select"]["inputs"]["faces"] = ["track", 0]
    for taker in ("detect", "preview", "crop", "paste"):
        graph[taker]["inputs"]["image"] = ["batch", 0]
    return graph


def boxes(pick: random.Random, photo: str) -> dict[str, Any]:
    graph = composed(photo)
    layout = pick.choice(["x0 y0 x1 y1", "x y width height"])
    graph["to"] = node(
        "PoseFRFacesToBoxes",
        faces=["detect", 0],
        image=["load", 0],
        crop_factor=2.0,
        seg_mask="box",
        bbox_layout=layout,
    )
    graph["from"] = node(
        "PoseFRFacesFromBoxes",
        image=["load", 0],
        bounding_boxes=["to", 2],
        landmarks="find with the detector",
        bbox_layout=layout,
        threshold=0.5,
    )
    graph["crop"]["inputs"]["faces"] = ["from", 0]
    del graph["select"]
    return graph


def others_between(pick: random.Random, photo: str) -> dict[str, Any]:
    graph = composed(photo)
    scale = pick.choice([0.5, 2.0])
    graph["scale"] = node("ImageScaleBy", image=["restore", 0], upscale_method="bicubic", scale_by=scale)
    graph["paste"]["inputs"]["restored"] = ["scale", 0]
    return graph


def report(pick: random.Random, photo: str) -> dict[str, Any]:
    graph = composed(photo)
    graph["report"] = node(
        "PoseFRFaceReport", faces=["detect", 0], images=["load", 0], order=pick.choice(["area", "center"])
    )
    graph["select"]["inputs"] |= {**ALL_FACES, "faces": ["detect", 0], "images": ["load", 0], "max_sharpness": 60.0}
    return graph


KINDS: list[Callable[[random.Random, str], dict[str, Any]]] = [
    alone,
    alone,
    steps,
    video,
    boxes,
    others_between,
    report,
]


class Largest(random.Random):
    """Picks what needs the most memory; the lists here are sorted by that."""

    def choice(self, seq: Sequence[Any]) -> Any:
        return seq[-1]

    def uniform(self, a: float, b: float) -> float:
        return b


WARM_UP = [(kind, photo) for photo in list(PICTURES)[-3:] for kind in KINDS]


def make(number: int) -> tuple[str, dict[str, Any]]:
    """The workflow of this number, below 0 to warm up: what it does, and its graph."""
    if number < 0:
        kind, photo = WARM_UP[number]
        graph = kind(Largest(), photo)
    else:
        pick = random.Random(number)
        kind = KINDS[number % len(KINDS)]
        graph = kind(pick, pick.choice(list(PICTURES)))
    for part in graph.values():
        if "threshold" in part["inputs"]:
            part["inputs"]["threshold"] = 0.5 + number * 1e-6
        if "seed" in part["inputs"]:
            part["inputs"]["seed"] = number % 2**32
    graph["save"] = node("PreviewImage", images=graph["save"]["inputs"]["images"])
    return kind.__name__, graph


def resident(process: int) -> float:
    """Resident memory in MiB."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workflows", type=int, default=300, help=f"how many to measure, after {len(WARM_UP)} others")
    parser.add_argument("--write", type=Path, metavar="FILE.md", help="write the figures there")
    parser.add_argument("--own-malloc", action="store_true", help="leave the server's memory allocator as it is")
    options = parser.parse_args()
    if not options.own_malloc:
        os.environ["MALLOC_MMAP_THRESHOLD_"] = str(1 << 20)
    if options.workflows < 2 * PART:
        parser.error(f"--workflows has to be {2 * PART} or more: the first and the last {PART} are compared")
    comfyui = comfyui_server.from_environment()
    if comfyui is None:
        parser.error(comfyui_server.NEEDED)
    memory: list[float] = []
    kinds: Counter[str] = Counter()
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        make_pictures(Path(folder) / "input")
        with comfyui_server.running(comfyui, Path(folder)) as server:
            version = server.ask("/system_stats")["system"]["comfyui_version"]
            for number in range(-len(WARM_UP), options.workflows):
                kind, graph = make(number)
                entry = server.result(server.queue(graph))
                if entry["status"]["status_str"] != "success":
                    failed.append(f"{number} ({kind}): {json.dumps(entry['status']['messages'][-1])[:300]}")
                if number >= 0:
                    memory.append(resident(server.process.pid))
                    kinds[kind] += 1
                if number % 20 == 0:
                    print(f"{number} done, {resident(server.process.pid):.0f} MiB, {len(failed)} failed", flush=True)
    first, last = statistics.mean(memory[:PART]), statistics.mean(memory[-PART:])
    change = 100 * (last / first - 1)
    lines = [
        f"- ComfyUI {version}, CPU, one server, {options.workflows} workflows after {len(WARM_UP)} to warm up.",
        f"- Failed: {len(failed)}.",
        f"- Resident memory of the server: mean over the first {PART} {first:.0f} MiB, over the last {PART} {last:.0f} "
        f"MiB, {change:+.1f} %; lowest {min(memory):.0f}, highest {max(memory):.0f} MiB.",
        f"- Workflows by kind: {', '.join(f'{kind} {count}' for kind, count in kinds.most_common())}.",
    ]
    print("\n".join([*lines, *failed]))
    if options.write:
        rows = [
            f"| {i + 1} to {i + PART} | {statistics.mean(memory[i : i + PART]):.0f} |"
            for i in range(0, len(memory), PART)
        ]
        text = [
            "# Soak",
            "",
            "What `python benchmarks/soak.py --write docs/soak.md` printed; the script tells what it does.",
            "",
        ]
        text += [*lines, "", "| Workflows | Resident memory, mean, MiB |", "| --- | --- |", *rows]
        options.write.write_text("\n".join(text) + "\n")
    return 1 if failed or abs(last / first - 1) > FLAT else 0


if __name__ == "__main__":
    sys.exit(main())
