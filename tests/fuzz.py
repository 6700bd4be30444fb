"""Damaged files, by the thousand: image files and checkpoints of every kind must be read or refused, and nothing else.

    python -m tests.fuzz [--cases 2400] [--seed 0]

A case takes a whole file, damages it (bytes changed, cut, doubled, inserted; headers rewritten) and reads it. What can
be read is written again, half of the time onto a disk that fills up on the way. A case fails if anything but a
PoseFRError is raised, if a reader takes longer than 30 s or ends the process, if code in a file runs, or if a
half-written file stays behind. The same seed makes the same cases; `--only KIND:NUMBER` runs one of them again.
"""

from __future__ import annotations

import argparse
import faulthandler
import io
import json
import os
import pickle
import signal
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 30
KINDS = ("image", "checkpoint")
# Values that break size fields: none, one, all bits, the sign, and more than any file has.
EXTREMES = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]


# Whole files


def images() -> list[tuple[str, bytes]]:
    """Small whole image files of every format, depth and layout: (suffix, content)."""
    import cv2
    from PIL import Image

    random = np.random.default_rng(0)
    made: list[tuple[str, bytes]] = []

    def add(suffix: str, image: Image.Image, kind: str, **options: object) -> None:
        stream = io.BytesIO()
        image.save(stream, kind, **options)
        made.append((suffix, stream.getvalue()))

    pixels = random.integers(0, 256, (24, 20, 4)).astype(np.uint8)
    smooth = cv2.resize(pixels, (40, 36), interpolation=cv2.INTER_CUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6
    colour, alpha = Image.fromarray(smooth[..., :3]), Image.fromarray(smooth)
    profile = struct.pack(">I", 128) + b"\0" * 12 + b"RGB " + b"\0" * 108
    for mode in ("1", "L", "LA", "RGB", "RGBA", "P"):
        add(".png", alpha.convert(mode), "PNG")
    add(".png", colour, "PNG", icc_profile=profile, exif=exif)
    for options in ({}, {"progressive": True}, {"exif": exif}, {"icc_profile": profile}, {"subsampling": 0}):
        add(".jpg", colour, "JPEG", **options)
    add(".jpg", colour.convert("L"), "JPEG")
    add(".jpg", colour.convert("CMYK"), "JPEG")
    add(".jpg", colour, "MPO", save_all=True, append_images=[colour])
    add(".webp", alpha, "WEBP", lossless=True)
    add(".webp", colour, "WEBP", exif=exif)
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        add(".bmp", alpha.convert(mode), "BMP")
    for compression in (None, "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits", "group4"):
        mode = {"group4": "1", "jpeg": "RGB"}.get(str(compression), "RGBA")
        add(".tif", alpha.convert(mode), "TIFF", compression=compression)
    add(".tif", colour, "TIFF", exif=exif, icc_profile=profile)
    add(".tiff", Image.fromarray(random.random((8, 8)).astype(np.float32)), "TIFF")
    deep = random.integers(0, 65536, (18, 22, 3)).astype(np.uint16)
    for suffix in (".png", ".tiff"):
        made.append((suffix, cv2.imencode(suffix, deep)[1].tobytes()))
        made.append((suffix, cv2.imencode(suffix, deep[..., 0])[1].tobytes()))
    return made


class Canary:
    """Leaves a file behind where a reader runs the code of a pickle."""

    def __reduce__(self) -> tuple:
        return (open, ("canary", "w"))


def checkpoints() -> list[tuple[str, bytes]]:
    """Small whole checkpoints of every kind: (suffix, content)."""
    import torch
    from foreign_networks import build
    from networks import SMALL, awake
    from safetensors.torch import save

    from posefr.detection import ensure_torchvision
    from posefr.restoration.checkpoint import read_metadata, save_network
    from posefr.restoration.network import PoseFRNet

    ensure_torchvision()
    made: list[tuple[str, bytes]] = []

    def pickled(value: object, **options: object) -> bytes:
        stream = io.BytesIO()
        torch.save(value, stream, **options)
        return stream.getvalue()

    with tempfile.TemporaryDirectory() as place:
        path = save_network(awake(PoseFRNet(SMALL)), Path(place, "small.safetensors"), {"steps": 1})
        own = path.read_bytes()
        assert read_metadata(path)["format"]
    upscaler = build("Compact").state_dict()
    detector = (ROOT / "posefr" / "weights" / "detector.safetensors").read_bytes()
    from safetensors.torch import load

    made.append((".safetensors", own))
    made.append((".safetensors", detector))
    made.append((".safetensors", save(upscaler)))
    made.append((".pth", pickled({"params": upscaler})))
    made.append((".pth", pickled({"params": upscaler}, _use_new_zipfile_serialization=False)))
    made.append((".pth", pickled({f"module.{k}": v for k, v in load(detector).items()})))
    made.append((".pth", pickled({"params": upscaler, "more": Canary()})))
    made.append((".pt", pickle.dumps({"state_dict": Canary()})))
    return made


# Damage


def damaged(data: bytes, random: np.random.Generator) -> bytes:
    """The file with none to three faults, half of them where headers are."""
    out = bytearray(data)
    for _ in range(random.integers(0, 4)):
        out = _fault(out, random) or out
    return bytes(out)


def _place(size: int, random: np.random.Generator) -> int:
    head = random.random() < 0.5
    return int(random.integers(0, max(1, min(size, 256) if head else size)))


def _fault(out: bytearray, random: np.random.Generator) -> bytearray:
    at = _place(len(out), random)
    kind = random.integers(0, 9)
    length = int(random.integers(1, 64))
    if kind == 0:  # cut short
        return out[:at]
    if kind == 1:  # a piece is missing
        return out[:at] + out[at + length :]
    if kind == 2:  # a piece twice
        return out[: at + length] + out[at:]
    if kind == 3:  # noise between
        return out[:at] + random.bytes(length) + out[at:]
    if kind == 4:  # noise at the end
        return out + random.bytes(length * 16)
    if kind == 5:  # a size field
        value = int(random.choice(EXTREMES))
        width = 2 if random.random() < 0.5 else 4
        order = "big" if random.random() < 0.5 else "little"
        out[at : at + width] = (value & (2 ** (8 * width) - 1)).to_bytes(width, order)
        return out
    if kind == 6:  # a digit of a header in text, such as safetensors'
        digits = [i for i, byte in enumerate(out[:20_000]) if 48 <= byte <= 57]
        if digits:
            out[int(random.choice(digits))] = int(random.integers(48, 58))
        return out
    if kind == 7 and len(out):  # one bit
        out[min(at, len(out) - 1)] ^= 1 << int(random.integers(0, 8))
        return out
    out[at : at + length] = random.bytes(min(length, len(out) - at))  # noise instead
    return out


def rewritten(data: bytes, random: np.random.Generator) -> bytes:
    """A safetensors file whose header is whole JSON, but says something else."""
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    words: list[object] = [None, -1, 0, 2**31, 2**63, 1e308, "", "F16", "BF16", "F8_E4M3", "I64", "BOOL", "x" * 10_000]
    words += [[], [0], [2**40, 2**40], [-1], {}, {"a": 1}, "\u5199\u771f", True, [[[]]]]

    def change(value: object) -> object:
        if isinstance(value, dict) and value and random.random() < 0.9:
            key = list(value)[int(random.integers(0, len(value)))]
            action = random.integers(0, 4)
            if action == 0:
                return {k: v for k, v in value.items() if k != key}
            if action == 1:
                return {(f"{k}x" if k == key else k): v for k, v in value.items()}
            return {k: (change(v) if k == key else v) for k, v in value.items()}
        if isinstance(value, str) and value.startswith("{") and random.random() < 0.9:
            return json.dumps(change(json.loads(value)))
        return words[int(random.integers(0, len(words)))]

    if random.random() < 0.6 and "__metadata__" in header:
        changed: object = {**header, "__metadata__": change(header["__metadata__"])}
    else:
        changed = change(header)
    text = json.dumps(changed).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


# Cases


@contextmanager
def disk_of(size: int | None) -> Iterator[None]:
    """Let no file grow beyond `size` bytes, as where the disk is full; None for no limit."""
    if size is None or os.name == "nt":
        yield
        return
    import resource

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def image_case(random: np.random.Generator, whole: list[tuple[str, bytes]]) -> str:
    from posefr.errors import PoseFRError
    from posefr.imagefiles import SUFFIXES, read_picture, write_picture

    suffix, data = whole[int(random.integers(0, len(whole)))]
    path = Path("given" + (suffix if random.random() < 0.9 else str(random.choice(SUFFIXES))))
    path.write_bytes(damaged(data, random))
    try:
        picture = read_picture(path)
    except PoseFRError as error:
        return _told(error, path)
    assert picture.pixels.ndim == 3
    assert picture.pixels.shape[2] in (1, 2, 3, 4)
    if picture.pixels.size > 4_000_000:
        return "read, large"
    target = Path("out", "written" + str(random.choice(SUFFIXES)))
    room = int(random.integers(0, 4000)) if random.random() < 0.5 else None
    try:
        with disk_of(room):
            write_picture(target, picture)
    except PoseFRError as error:
        assert not target.exists(), f"{target} was left behind"
        said = _told(error, target)
    else:
        read_picture(target)
        said = "read and written"
    _only(target.parent, {target.name})
    target.unlink(missing_ok=True)
    return said


def checkpoint_case(random: np.random.Generator, whole: list[tuple[str, bytes]]) -> str:
    from posefr.detection import load_detector
    from posefr.errors import PoseFRError
    from posefr.restoration import load_restorer
    from posefr.restoration.checkpoint import save_network
    from posefr.restoration.network import PoseFRNet

    suffix, data = whole[int(random.integers(0, len(whole)))]
    path = Path("given" + (suffix if random.random() < 0.9 else str(random.choice([".pth", ".pt", ".safetensors"]))))
    change = rewritten if suffix == ".safetensors" and random.random() < 0.6 else damaged
    path.write_bytes(change(data, random))
    said = []
    for load in (load_restorer, load_detector):
        try:
            loaded = load(path, device="cpu")
        except PoseFRError as error:
            said.append(_told(error, path))
            continue
        said.append("read")
        if isinstance(loaded.network, PoseFRNet):
            target = Path("out", "written.safetensors")
            target.parent.mkdir(exist_ok=True)
            try:
                with disk_of(int(random.integers(0, len(data))) if random.random() < 0.5 else None):
                    save_network(loaded.network, target, {})
            except PoseFRError as error:
                assert not target.exists(), f"{target} was left behind"
                said.append(_told(error, target))
            else:
                load_restorer(target, device="cpu")
            _only(target.parent, {target.name})
            target.unlink(missing_ok=True)
    assert not Path("canary").exists(), "code in the file ran"
    return "read" if "read" in said else said[0]


def _told(error: Exception, path: Path) -> str:
    """That a refusal is one line that names the file. Returns its kind for the summary."""
    text = str(error)
    assert "\n" not in text, f"more than one line: {text!r}"
    assert path.name in text, f"does not name {path.name}: {text!r}"
    assert len(text) < 1000, f"{len(text)} characters: {text[:300]!r}..."
    return "refused"


def _only(folder: Path, names: set[str]) -> None:
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    assert found <= names, f"left behind in {folder}: {sorted(found - names)}"


CASES: dict[str, tuple[Callable[[], list], Callable]] = {
    "image": (images, image_case),
    "checkpoint": (checkpoints, checkpoint_case),
}


def work(kind: str, seed: int, first: int, count: int) -> None:
    """Run cases in this process; prints what each is before it begins and how it ended, for the one that watches."""
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    faulthandler.enable()
    make, case = CASES[kind]
    whole = make()
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        for number in range(first, first + count):
            print("begin", number, flush=True)
            random = np.random.default_rng([seed, KINDS.index(kind), number])
            if hasattr(signal, "alarm"):
                signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, even inside a decoder
                signal.alarm(SECONDS)
            try:
                ended = "ok " + case(random, whole)
            except BaseException as error:
                ended = "failed " + f"{type(error).__name__}: {error}".replace("\n", " ")[:500]
                if os.environ.get("FUZZ_TRACEBACK"):
                    raise
            if hasattr(signal, "alarm"):
                signal.alarm(0)
            print("end", ended, flush=True)
        os.chdir(ROOT)


def watch(kind: str, seed: int, first: int, count: int) -> tuple[Counter[str], list[str]]:
    """Run cases in processes of their own. Returns how the cases ended, and the failures."""
    ended: Counter[str] = Counter()
    failures: list[str] = []
    number, last = first, first + count
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "OMP_NUM_THREADS": "1",
    }
    while number < last:
        command = [sys.executable, "-m", "tests.fuzz", "--seed", str(seed)]
        command += ["--worker", f"{kind}:{number}:{last - number}"]
        running: int | None = None
        with (
            tempfile.TemporaryFile() as noise,  # the decoders' own complaints, and a crash's stack
            subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=noise, text=True
            ) as process,
        ):
            assert process.stdout is not None
            for line in process.stdout:
                word, _, rest = line.strip().partition(" ")
                if word == "begin":
                    running = int(rest)
                elif word == "end":
                    outcome, _, said = rest.partition(" ")
                    ended[said if outcome == "ok" else outcome] += 1
                    if outcome == "failed":
                        failures.append(f"{kind}:{running}: {said}")
                    number, running = (running or 0) + 1, None
            process.wait()
            noise.seek(0)
            last_words = noise.read()[-1500:].decode(errors="replace")
        if running is not None:
            how = f"took longer than {SECONDS} s" if process.returncode == -signal.SIGALRM else "ended the process"
            failures.append(f"{kind}:{running}: {how} (status {process.returncode})\n{last_words}")
            ended["failed"] += 1
            number = running + 1
        elif number < last:
            raise SystemExit(f"the process for {kind} did not start (status {process.returncode}):\n{last_words}")
    return ended, failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=2400, help="in all, half of them images (default 2400)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", metavar="KIND:NUMBER", help="one case, with its traceback")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker or args.only:
        kind, number, *count = (args.worker or args.only).split(":")
        if args.only:
            os.environ["FUZZ_TRACEBACK"] = "1"
            sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
        work(kind, args.seed, int(number), int(count[0]) if count else 1)
        return 0
    failed: list[str] = []
    for kind in KINDS:
        began = time.monotonic()
        count = args.cases // len(KINDS)
        ended, failures = watch(kind, args.seed, 0, count)
        outcomes = ", ".join(f"{number} {said}" for said, number in ended.most_common())
        print(f"{kind}: {count} cases in {time.monotonic() - began:.0f} s: {outcomes}", flush=True)
        for line in failures:
            print("  failed:", line, flush=True)
        failed += failures
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
