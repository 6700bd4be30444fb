"""The `posefr` command: restore, video, detect, info, demo."""

from __future__ import annotations

import argparse
import glob
import json
import mimetypes
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__
from .errors import PoseFRError
from .imagefiles import SUFFIXES, atomic_file, check_suffix, is_stream, picture_files, read_picture, write_picture

if TYPE_CHECKING:
    import torch

    from .detection import Detector
    from .restoration import Restorer

__all__ = ["main"]

DONE, SOME_FAILED, USAGE, INTERRUPTED, NOBODY_READS = 0, 1, 2, 130, 141
_FACES_AT_ONCE = 8  # fewer where memory runs out

ORDERS = ("area", "left_to_right", "top_to_bottom", "center", "confidence")
MASKS = ("ellipse", "box", "hull")
COLOR_MATCHES = ("mean_std", "wavelet", "detail", "none")


@dataclass(frozen=True)
class _Job:
    source: Path
    target: Path | None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    0: all done. 1: some files failed; the others were done. 2: the command could not start. 130: interrupted. 141: what
    reads the output has ended, as `head` does.
    """
    for stream in (sys.stdout, sys.stderr):  # a console may lack the letters of a file's name
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    args = _parser().parse_args(argv)
    try:
        status: int = args.run(args)
        sys.stdout.flush()
        return status
    except PoseFRError as error:
        print(f"posefr: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print("posefr: interrupted; the files named above are done.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left to be said goes nowhere
        return NOBODY_READS


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="posefr", description="Finds and restores faces in images.")
    parser.add_argument("--version", action="version", version=f"posefr {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    status = "Exit status: 0 all done, 1 some files failed (the others were done), 2 wrong usage."
    folders = (
        f"Files: {', '.join(s[1:] for s in SUFFIXES)}. A folder stands for all of them in it and in its sub-folders; "
        "hidden ones are left out."
    )

    restore = commands.add_parser(
        "restore",
        help="restore the faces in images",
        description="Restores the faces in images. " + folders,
        epilog=status,
    )
    restore.set_defaults(run=_restore)
    _add_inputs(restore)
    restore.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT",
        help="a folder (sub-folders are kept), or a file's name for a single input; its suffix sets the format",
    )  # fmt: skip
    _add_detection(restore)
    _add_restoration(restore)
    restore.add_argument("--quality", type=_whole(1, 100), default=95, help="of jpg and webp files (default 95)")

    video = commands.add_parser(
        "video",
        help="restore the faces in a video",
        description="Restores the faces in a video, followed and steadied over its frames, with few of them in memory. "
        "Sound is kept. Needs PyAV (pip install av).",
        epilog="Exit status: 0 done, 2 it could not be done.",
    )
    video.set_defaults(run=_video)
    video.add_argument("input", type=Path, metavar="IN", help="a video file")
    video.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT", help="the file to write, .mp4, .m4v, .mov or .mkv"
    )  # fmt: skip
    video.add_argument("--report", type=Path, metavar="FILE.json", help="write what was found as JSON")
    _add_detection(video)
    _add_restoration(video)
    video.add_argument(
        "--quality", type=_number(0, 51), default=17, help="H.264's rate factor: 0 best, 51 worst (default 17)"
    )

    detect = commands.add_parser(
        "detect", help="list the faces in images", description="Lists the faces in images. " + folders, epilog=status
    )
    detect.set_defaults(run=_detect)
    _add_inputs(detect)
    detect.add_argument(
        "-o", "--output", type=Path, metavar="OUT", help="also write the images with the faces marked, as restore does"
    )
    _add_detection(detect)

    info = commands.add_parser("info", help="versions, device, detectors and restorers that are found")
    info.set_defaults(run=_info)
    info.add_argument(
        "--restorer", default="posefr-256", metavar="NAME", help="count the cost of this one (default: posefr-256)"
    )
    _add_models(info)

    demo = commands.add_parser(
        "demo",
        help="restore one photo and show it beside its input",
        description="Restores PHOTO with the bundled weights and writes the result and a before/after picture. Without "
        "PHOTO it takes scikit-image's astronaut, which is first made worse so that there is something to restore.",
    )
    demo.set_defaults(run=_demo)
    demo.add_argument("photo", type=Path, nargs="?", metavar="PHOTO")
    demo.add_argument(
        "-o", "--output", type=Path, default=Path("posefr-demo"), metavar="DIR", help="default: posefr-demo"
    )
    return parser


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", type=Path, nargs="+", metavar="IN", help="image files and folders")
    parser.add_argument("--report", type=Path, metavar="FILE.json", help="write what was found and done as JSON")


def _add_models(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:1, mps")
    parser.add_argument(
        "--models", type=Path, metavar="DIR",
        help="a folder with more weights, such as ComfyUI's models folder; a detector that is fetched is kept there",
    )  # fmt: skip


def _add_detection(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("finding faces")
    group.add_argument(
        "--detector", default="bundled", metavar="NAME",
        help="a name that `posefr info` lists, or a file (default: bundled); an absent public one is fetched",
    )  # fmt: skip
    group.add_argument("--threshold", type=_number(0, 1), default=0.5, help="least score, 0 to 1 (default 0.5)")
    group.add_argument(
        "--size", type=_whole(0, 16384), default=640,
        help="longer side in px that larger images are scaled down to for detection; 0 for full size (default 640)",
    )  # fmt: skip
    group.add_argument(
        "--angles", type=int, choices=(0, 90, 180, 270), nargs="+", default=[0],
        help="also look at the image turned, for people lying down or upside down (default 0)",
    )  # fmt: skip
    group.add_argument("--order", choices=ORDERS, default="area", help="how faces are counted (default area)")
    group.add_argument("--only", default="", metavar="INDICES", help='such as "0" or "0,2-4": these faces alone')
    _add_models(parser)


def _add_restoration(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("restoring them")
    group.add_argument(
        "--restorer", default="posefr-256", metavar="NAME",
        help="a name that `posefr info` lists, or a file (default: posefr-256)",
    )  # fmt: skip
    group.add_argument(
        "--strength", type=_number(0, 1), default=1.0, help="0 keeps the input, 1 the result (default 1)"
    )
    group.add_argument(
        "--fidelity", type=_number(0, 1), default=0.5, help="1 follows the input, 0 the network's prior (default 0.5)"
    )
    group.add_argument("--seed", type=int, default=0, help="of the network's noise (default 0)")
    group.add_argument("--mask", choices=MASKS, default="ellipse", help="what is pasted (default ellipse)")
    group.add_argument(
        "--feather", type=_number(0, 50), default=8.0, help="soft border, per cent of the crop's side (default 8)"
    )
    group.add_argument("--color-match", choices=COLOR_MATCHES, default="mean_std", help="default mean_std")


def _number(least: float, most: float) -> Callable[[str], float]:
    def number(text: str) -> float:
        value = float(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text} is not between {least:g} and {most:g}")
        return value

    return number


def _whole(least: int, most: int) -> Callable[[str], int]:
    check = _number(least, most)

    def whole(text: str) -> int:
        check(text)
        return int(text)

    return whole


def _restore(args: argparse.Namespace) -> int:
    jobs = _jobs(args.inputs, args.output)
    _check_selection(args)
    _check_places(args, jobs)
    detector, restorer = _load_detector(args), _load_restorer(args)

    def restore(job: _Job) -> dict[str, Any]:
        from .devices import desk_of
        from .host import with_smaller_batches
        from .pipeline import restore_report
        from .report import face_records, plural
        from .selection import picked_numbers

        assert job.target is not None
        picture = read_picture(job.source)
        image = picture.image.to(desk_of(_device(args)))
        result, fitted = with_smaller_batches(
            lambda batch: restore_report(
                image,
                detector=detector,
                restorer=restorer,
                batch=batch,
                **_settings(args),
            ),
            _FACES_AT_ONCE,
        )
        lost: list[str] = []
        if len(result.faces) == 0 and _format(job.source) == _format(job.target):
            with atomic_file(job.target) as file, job.source.open("rb") as source:
                shutil.copyfileobj(source, file)
        else:
            lost = write_picture(job.target, picture.with_image(result.images), args.quality)
        count = plural(len(result.found), "face")
        said = f"{len(result.faces)} of {count} restored"
        if len(result.found) == 0:
            said = "no face found, passed through"
        elif len(result.faces) == 0:
            said = f"none of {count} selected, passed through"
        said += _lost(job.target, lost)
        if fitted < _FACES_AT_ONCE:
            said += f"; memory ran out, done with {fitted} at a time"
        return {
            "said": said,
            "output": str(job.target),
            "status": "restored" if len(result.faces) else "passed through",
            "found": len(result.found),
            "faces": face_records(result.faces, picked_numbers(args.only, len(result.found))),
            "lost": lost,
        }

    return _run(args, jobs, restore)


def _video(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from .devices import desk_of
    from .host import with_smaller_batches
    from .pipeline import restore_video
    from .report import faces_report, plural

    _check_selection(args)
    if _identity(args.input) == _identity(args.output):
        raise PoseFRError(f"{args.output} is the input too and would be overwritten; give -o another name.")
    _check_places(args, [_Job(args.input, args.output)])
    detector, restorer = _load_detector(args), _load_restorer(args)
    with tqdm(unit="frame", disable=None) as bar:

        def on_frames(stage: str, done: int, total: int) -> None:
            bar.set_description({"detect": "finding faces", "restore": "restoring"}[stage], refresh=False)
            bar.total, bar.n = total, done
            bar.refresh()

        faces, _ = with_smaller_batches(
            lambda batch: restore_video(
                args.input,
                args.output,
                detector=detector,
                restorer=restorer,
                batch=batch,
                quality=args.quality,
                device=desk_of(_device(args)),
                on_frames=on_frames,
                **_settings(args),
            ),
            _FACES_AT_ONCE,
        )
    report = faces_report(faces)
    if args.report is not None:
        with atomic_file(args.report) as file:
            file.write(json.dumps({"posefr": __version__, "input": str(args.input), **report}, indent=2).encode())
    frames, tracks = faces.frames, len(report["tracks"])
    if len(faces):
        print(f"{args.input}: {plural(tracks, 'face')} restored in {plural(frames, 'frame')}")
    else:
        print(f"{args.input}: no face in {plural(frames, 'frame')}, nothing was written")
    return DONE


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """How faces are found, chosen, restored and pasted."""
    return {
        **_search(args),
        "select": {"order": args.order, "indices": args.only},
        **{name: getattr(args, name) for name in ("fidelity", "seed", "mask", "feather", "color_match", "strength")},
    }


def _search(args: argparse.Namespace) -> dict[str, Any]:
    return {"threshold": args.threshold, "size": args.size, "angles": sorted({0, *args.angles})}


def _detect(args: argparse.Namespace) -> int:
    jobs = _jobs(args.inputs, args.output)
    _check_selection(args)
    _check_places(args, jobs)
    detector = _load_detector(args)

    def detect(job: _Job) -> dict[str, Any]:
        from .devices import desk_of
        from .drawing import draw_faces
        from .report import face_records, plural
        from .selection import picked_numbers, select_faces

        picture = read_picture(job.source)
        found = detector.detect(picture.image.to(desk_of(_device(args))), **_search(args))
        # Drawn and listed in the order that --only counts in.
        faces = select_faces(found, order=args.order, indices=args.only)
        numbers = picked_numbers(args.only, len(found))
        records = face_records(faces, numbers)
        count = plural(len(found), "face")
        lines = [f"{len(faces)} of {count} listed" if args.only else count]
        if job.target is not None:
            lost = write_picture(
                job.target, picture.with_image(draw_faces(picture.image, faces.to("cpu"), numbers=numbers))
            )
            lines[0] += _lost(job.target, lost)
        for record in records:
            x0, y0, x1, y1 = record["box"]
            yaw = "unknown" if record["yaw"] is None else f"{record['yaw']:+.0f} degrees"
            lines.append(
                f"  {record['index']}: {x1 - x0:.0f} x {y1 - y0:.0f} px at {x0:.0f}, {y0:.0f}, "
                f"score {record['score']:.2f}, yaw {yaw}"
            )
        return {
            "said": "\n".join(lines),
            "output": None if job.target is None else str(job.target),
            "status": "detected",
            "found": len(found),
            "faces": records,
        }

    return _run(args, jobs, detect)


def _format(path: Path) -> str:
    """The format that a name's ending stands for, of which some have two."""
    return mimetypes.guess_type(path.name)[0] or path.suffix.lower()


def _lost(target: Path, lost: Sequence[str]) -> str:
    """What a format could not hold, to go behind what is said of a file."""
    return f"; {target.suffix[1:]} cannot hold its {' and '.join(lost)}" if lost else ""


def _run(args: argparse.Namespace, jobs: Sequence[_Job], work: Callable[[_Job], dict[str, Any]]) -> int:
    """Do the jobs, tell how many failed, and write the report, where the user stops one of what was done."""
    records: list[dict[str, Any]] = []
    try:
        _run_each(jobs, work, records)
    finally:
        failed = sum(record["status"] == "failed" for record in records)
        if args.report is not None:
            settings = {
                name: str(value) if isinstance(value, Path) else value
                for name, value in vars(args).items()
                if name not in ("run", "inputs", "report")
            }
            report = {"posefr": __version__, "settings": settings, "failed": failed, "images": records}
            with atomic_file(args.report) as file:
                file.write(json.dumps(report, indent=2).encode())
    print(f"{len(jobs) - failed} done, {failed} failed")
    return SOME_FAILED if failed else DONE


def _run_each(jobs: Sequence[_Job], work: Callable[[_Job], dict[str, Any]], records: list[dict[str, Any]]) -> None:
    """Do the jobs one by one under a progress bar, adding records; one that fails is named, the others go on."""
    from tqdm import tqdm

    with tqdm(jobs, unit="image", disable=None) as bar:
        for job in bar:
            started = time.perf_counter()
            record: dict[str, Any] = {"input": str(job.source)}
            try:
                if job.target is not None:
                    check_suffix(job.target)
                record |= work(job)
                said, stream = f"{job.source}: {record.pop('said')}", sys.stdout
            # PyTorch tells of memory and devices by RuntimeError: that ends this file's work, not the others'.
            except (PoseFRError, RuntimeError, MemoryError) as error:
                message = str(error) or type(error).__name__
                record |= {"status": "failed", "error": message}
                said = f"failed: {message if str(job.source) in message else f'{job.source}: {message}'}"
                stream = sys.stderr
            records.append(record | {"seconds": round(time.perf_counter() - started, 3)})
            bar.write(said, file=stream)


def _jobs(inputs: Sequence[Path], output: Path | None) -> list[_Job]:
    """What to read and where to write it. Raises PoseFRError if two files, or a file and its input, would meet."""
    inputs = list(chain.from_iterable(map(_matching, inputs)))
    single = len(inputs) == 1 and not os.path.isdir(inputs[0])
    if output is not None and not os.path.isdir(output) and _is_picture(output):
        if not single:
            raise PoseFRError(f"{output} is one file; expected a folder for several images.")
        if output.suffix.lower() not in SUFFIXES:
            raise PoseFRError(f"{output} cannot be written; expected a name ending in {', '.join(SUFFIXES)}.")
        jobs = [_Job(inputs[0], output)]
    else:
        jobs = []
        folder = None if output is None else Path(os.path.realpath(output))
        for given in inputs:
            if not os.path.isdir(given):
                jobs.append(_Job(given, None if output is None else output / given.name))
                continue
            found = picture_files(given, nested=True)
            # What an earlier run wrote there is no input.
            if folder is not None and Path(os.path.realpath(given)) in folder.parents:
                found = [p for p in found if folder not in Path(os.path.realpath(p)).parents]
            if not found:
                raise PoseFRError(f"The folder {given} holds no image; expected files ending in {', '.join(SUFFIXES)}.")
            jobs += [_Job(p, None if output is None else output / p.relative_to(given)) for p in found]
    sources = {_identity(job.source) for job in jobs}
    written: dict[Hashable, Path] = {}
    for job in jobs:
        if job.target is None:
            continue
        place = _identity(job.target)
        if place in sources:
            raise PoseFRError(f"{job.target} is an input too and would be overwritten; pick another folder for -o.")
        if place in written:
            raise PoseFRError(f"{written[place]} and {job.source} would both be written to {job.target}.")
        written[place] = job.source
    return jobs


def _check_places(args: argparse.Namespace, jobs: Sequence[_Job]) -> None:
    """Raise PoseFRError, before any work, where results cannot be written or the report would take a file's place."""
    if args.output is not None:
        _check_writable(args.output, args.output.parent if jobs[0].target == args.output else args.output)
    report: Path | None = args.report
    if report is None or is_stream(report):
        return
    if _identity(report) in {_identity(path) for job in jobs for path in (job.source, job.target) if path is not None}:
        raise PoseFRError(f"{report} is one of the pictures and would be overwritten; give --report another name.")
    weights = [name for name in (args.detector, getattr(args, "restorer", "")) if os.path.isfile(name)]
    if _identity(report) in {_identity(Path(name)) for name in weights}:
        raise PoseFRError(f"{report} holds the weights in use and would be overwritten; give --report another name.")
    if os.path.isdir(report):
        raise PoseFRError(f"{report} cannot be written: Is a directory.")
    _check_writable(report, Path(os.path.realpath(report)).parent)


def _check_writable(path: Path, folder: Path) -> None:
    # It is made when there is something to write.
    there = next((part for part in (folder, *folder.parents) if os.path.lexists(part)), folder)
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise PoseFRError(f"{path} cannot be written: {error.strerror or error}.") from error


def _matching(path: Path) -> list[Path]:
    """A file or folder, or those that a pattern stands for: not every command line replaces patterns itself."""
    found = [] if os.path.lexists(path) else sorted(glob.glob(str(path)))
    return [Path(name) for name in found] or [path]


def _identity(path: Path) -> Hashable:
    """What is the same for all names of one file, on disks that ignore case and through mounts too."""
    try:
        status = path.stat()
    except OSError:  # there is no file, or can be none of such a name
        return os.path.realpath(path)
    number = status.st_ino  # some network drives give none
    return (status.st_dev, number) if number else os.path.realpath(path)


def _is_picture(path: Path) -> bool:
    """Whether the name is one of a picture or video, in any format."""
    guessed, _ = mimetypes.guess_type(path.name)
    return path.suffix.lower() in SUFFIXES or (guessed or "").startswith(("image/", "video/"))


def _check_selection(args: argparse.Namespace) -> None:
    """Raise PoseFRError for indices that cannot be read, before any file is touched."""
    from .faces import Faces
    from .selection import select_faces

    select_faces(Faces.empty((1, 1), 1), order=args.order, indices=args.only)


def _device(args: argparse.Namespace) -> torch.device:
    from .devices import named_device

    return named_device(args.device)


def _folders(models: Path | None, names: Sequence[str]) -> list[Path]:
    """Where weights lie under --models: in the sub-folders that ComfyUI uses, if it has them, else in the folder.

    A models folder of ComfyUI without any gets the first one, when a file is fetched.
    """
    if models is None:
        return []
    if not os.path.isdir(models):
        raise PoseFRError(f"There is no folder {models}; give --models one that exists.")
    own = [models / name for name in names if (models / name).is_dir()]
    return own or [models / names[0] if (models / "checkpoints").is_dir() else models]


def _load_detector(args: argparse.Namespace) -> Detector:
    from tqdm import tqdm

    from .detection import load_detector
    from .host import DETECTOR_FOLDERS

    bars: list[tqdm[Any]] = []  # made when a download begins, which is seldom

    def progress(done: int, total: int) -> None:
        if not bars:
            bars.append(tqdm(total=total, unit="B", unit_scale=True, desc=f"fetching {args.detector}", leave=False))
        bars[0].update(done - bars[0].n)

    try:
        return load_detector(
            args.detector,
            device=_device(args),
            folders=_folders(args.models, DETECTOR_FOLDERS),
            download=True,
            progress=progress,
        )
    finally:
        for bar in bars:
            bar.close()


def _load_restorer(args: argparse.Namespace) -> Restorer:
    from .host import RESTORER_FOLDERS
    from .restoration import load_restorer

    return load_restorer(args.restorer, device=_device(args), folders=_folders(args.models, RESTORER_FOLDERS))


def _info(args: argparse.Namespace) -> int:
    from importlib.metadata import PackageNotFoundError, version

    from .detection import detector_names
    from .host import DETECTOR_FOLDERS, RESTORER_FOLDERS
    from .restoration import cost_of, restorer_names
    from .restoration.checkpoint import read_metadata

    print(f"posefr {__version__}, Python {platform.python_version()} on {platform.platform()}")
    for package in ("torch", "torchvision", "numpy", "opencv-python", "facexlib", "spandrel", "safetensors", "pillow"):
        try:
            print(f"  {package} {version(package)}")
        except PackageNotFoundError:
            print(f"  {package}: not installed")
    print(f"device: {_device(args)}")
    print("detectors:", *detector_names(_folders(args.models, DETECTOR_FOLDERS)))
    print("restorers:", *restorer_names(_folders(args.models, RESTORER_FOLDERS)))
    restorer = _load_restorer(args)
    cost = cost_of(restorer)
    print(
        f"{restorer.name}: {cost.parameters:,} parameters, {cost.macs / 1e9:.2f} GMACs a face of {restorer.size} px, "
        f"alignment {restorer.frame}"
    )
    print("bundled weights:")
    for path in sorted((Path(__file__).parent / "weights").glob("*.safetensors")):
        print(f"  {path.name}, {path.stat().st_size} bytes")
        for key, value in sorted(read_metadata(path).items()):
            print(f"    {key}: {value}")
    return DONE


def _demo(args: argparse.Namespace) -> int:
    from .demo import run_demo

    return DONE if run_demo(args.photo, args.output) else SOME_FAILED
