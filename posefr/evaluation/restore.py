"""Compares face restorers on held-out faces that are degraded with fixed seeds."""

from __future__ import annotations

import argparse
import csv
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from ..detection import Detector, load_detector
from ..errors import PoseFRError, brief
from ..imagefiles import picture_files, readable
from ..restoration import Restorer, load_restorer, restorer_names
from ..training.degradation import SEVERITIES, Degradation, degrade, draw
from ..training.manifest import read_manifest
from .metrics import Identity, detail_ratio, grid_share, landmark_error, pattern_height, psnr, ssim
from .options import SHARED, add_input

__all__ = [
    "add_arguments",
    "add_restorer_arguments",
    "apply",
    "chosen_restorers",
    "largest_face",
    "resized",
    "run",
    "write_csv",
]

Image = NDArray[np.uint8]
_LEVELS = ("mild", "medium", "severe")
_YAWS = ((0, 20), (20, 45), (45, 181))
_FIGURES = ("psnr", "ssim", "identity", "landmarks", "detail", "grid", "pattern")
_CLEAN = "clean"
_CLEAN_FLOOR = 32.0  # dB; below it fidelity 1 would change faces that need nothing

Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One held-out face at one severity."""

    name: str
    severity: str
    yaw: float
    truth: Image
    how: Degradation
    landmarks: NDArray[np.float32] | None


Method = Callable[[Case], Image]
_IDENTITY = "mobilefacenet.onnx"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m posefr.evaluation restore`."""
    add = parser.add_argument
    add_input(parser, "--faces", SHARED / "data" / "validation", "aligned faces")
    add("--limit", type=int, default=0, help="how many faces; 0 for all")
    add("--size", type=side, default=256, help="size that faces are compared at, px (default: %(default)s)")
    add_restorer_arguments(parser)
    add("--csv", type=Path, help="write a row per face, severity and method")


def add_restorer_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that all evaluations of restorers have."""
    add = parser.add_argument
    add("--restorer", action="append", help="name or path, may be given more than once (default: all that are found)")
    add("--models", type=Path, action="append", default=[], help="folder with more restorers, ComfyUI's "
        "models/facerestore_models for one; may be given more than once")  # fmt: skip
    add("--fidelity", type=float, action="append", help="may be given more than once (default: 1 and 0)")
    add("--reference", type=Path, default=SHARED / "reference", help="folder of the identity network, "
        f"{_IDENTITY}; without it there is no identity")  # fmt: skip
    add("--detector", default="bundled", help="finds the landmarks (default: %(default)s)")
    add("--sheet", type=Path, help="write a contact sheet, PNG")


def chosen_restorers(args: argparse.Namespace) -> dict[str, Restorer]:
    """The restorers asked for, or all that are bundled or lie in the models folders, by what the tables call them.

    That is the file's name without its folder, unless two have the same: each run's weights are `network.safetensors`.
    A file in a models folder that holds no restorer is named and left out.

    Raises:
        PoseFRError: a models folder that is not there, or a restorer that is not found.
    """
    for folder in args.models:
        if not folder.is_dir():
            raise PoseFRError(f"There is no folder {folder}; give --models one that exists.")
    if args.restorer:
        return _named([load_restorer(name, folders=args.models) for name in dict.fromkeys(args.restorer)])
    restorers = []
    for name in restorer_names(args.models):
        try:
            restorers.append(load_restorer(name, folders=args.models))
        except PoseFRError as error:
            print(f"left out: {error}")
    return _named(restorers)


def side(text: str) -> int:
    """An option's side of faces in px, as all measures can take it."""
    size = int(text)
    if size < 32 or size % 8:
        raise argparse.ArgumentTypeError(f"{size} is no multiple of 8 from 32 up")
    return size


def load_identity(folder: Path) -> Identity | None:
    """The identity network, or None, and a sentence that says so."""
    network = folder / _IDENTITY
    if network.exists():
        return Identity(network)
    print(f"There is no {_IDENTITY} in --reference: the identity column stays empty.")
    return None


def _named(restorers: Sequence[Restorer]) -> dict[str, Restorer]:
    stems = [Path(restorer.name).stem for restorer in restorers]
    return {
        stem if stems.count(stem) == 1 else restorer.name: restorer
        for stem, restorer in zip(stems, restorers, strict=True)
    }


def run(args: argparse.Namespace) -> int:
    """Compare and print; returns the exit status."""
    detector = load_detector(args.detector)
    cases = _cases(args.faces, args.size, args.limit, detector)
    restorers = chosen_restorers(args)
    methods: dict[str, Method] = {
        "degraded (bicubic)": _bicubic,
        "Lanczos": lambda case: degrade(case.truth, case.how, cv2.INTER_LANCZOS4),
        "denoise + unsharp": _denoise_and_sharpen,
    }
    for name, restorer in restorers.items():
        for fidelity in args.fidelity or (1.0, 0.0):
            methods[f"{name} f={fidelity:g}"] = partial(_restore, restorer, fidelity)
    identity = load_identity(args.reference)
    rows: list[Row] = []
    shown = _shown(cases) if args.sheet else []
    pictures: dict[tuple[str, str, str], Image] = {}
    for case in tqdm(cases, desc="faces", unit="face"):
        for name, method in methods.items():
            picture = method(case)
            rows.append({"face": case.name, "severity": case.severity, "yaw": case.yaw, "method": name,
                         **_measure(picture, case, identity, detector)})  # fmt: skip
            if case.name in shown:
                pictures[case.name, case.severity, name] = picture
    _print(rows, list(methods))
    clean = _clean_rows(restorers, cases, identity)
    _print_clean(clean)
    if args.csv:
        write_csv(args.csv, rows + clean)
    if args.sheet:
        truths = {case.name: case.truth for case in cases if case.name in shown}
        _sheet(args.sheet, truths, pictures, list(methods))
    return 0


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Write the rows, whose keys are those of the first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _cases(folder: Path, size: int, limit: int, detector: Detector) -> list[Case]:
    paths = picture_files(folder)
    rows = read_manifest(folder)
    try:
        yaws = {row["file"]: float(row["yaw"]) for row in rows if row.get("file") and row.get("yaw")}
    except ValueError as error:
        raise PoseFRError(f"{folder / 'manifest.csv'} has a yaw that is no number ({brief(error)}).") from None
    cases = []
    for path, photo in readable(paths[: limit or None]):
        image = (photo[0] * 255).round().to(torch.uint8).numpy()
        truth = resized(image, size, path)
        landmarks = largest_face(truth, detector)
        for severity in _LEVELS:
            # The seed is the face's name and the severity, so that a face keeps its degradation in any selection.
            rng = np.random.default_rng(zlib.crc32(f"{path.name} {severity}".encode()))
            how = draw(rng, SEVERITIES[severity])
            cases.append(Case(path.name, severity, yaws.get(path.name, 0.0), truth, how, landmarks))
    if not cases:
        raise PoseFRError(f"There are no face pictures in {folder}; name another folder with --faces.")
    return cases


def largest_face(image: Image, detector: Detector) -> NDArray[np.float32] | None:
    """Landmarks [5, 2] of the largest face found, px, continuous coordinates."""
    faces = detector.detect(torch.from_numpy(image.astype(np.float32) / 255)[None], size=image.shape[0])
    return faces.landmarks[faces.size.argmax()].numpy() if len(faces) else None


def _bicubic(case: Case) -> Image:
    return degrade(case.truth, case.how)


def _denoise_and_sharpen(case: Case) -> Image:
    image = cv2.fastNlMeansDenoisingColored(_bicubic(case), None, 5, 5, 5, 15)
    return cv2.addWeighted(image, 1.6, cv2.GaussianBlur(image, (0, 0), 1.5), -0.6, 0)


def _restore(restorer: Restorer, fidelity: float, case: Case) -> Image:
    return apply(restorer, fidelity, _bicubic(case))


def apply(restorer: Restorer, fidelity: float, image: Image) -> Image:
    """The restored face, as large as the face [S, S, 3] was."""
    crops = torch.from_numpy(np.ascontiguousarray(image).astype(np.float32) / 255)[None]
    restored = (restorer.restore(crops, fidelity=fidelity)[0] * 255).round().to(torch.uint8).cpu().numpy()
    return resized(restored, image.shape[0])


def resized(image: Image, size: int, name: Path | str = "the picture") -> Image:
    """[S, S, 3] to [size, size, 3], by means of areas or, where it grows, by cubics.

    Raises:
        PoseFRError: it is not square; `name` is told.
    """
    height, width = image.shape[:2]
    if height != width:
        raise PoseFRError(
            f"{name} has {width} x {height} px; expected square crops of faces, aligned as FFHQ is. "
            "`python -m posefr.evaluation photos` takes photos as they are."
        )
    if width == size:
        return image
    interpolation = cv2.INTER_AREA if width > size else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, (size, size), interpolation=interpolation), np.uint8)


def _clean_rows(restorers: Mapping[str, Restorer], cases: Sequence[Case], identity: Identity | None) -> list[Row]:
    """Faces as they are through fidelity 1: what a restorer does to a face that needs nothing."""
    rows: list[Row] = []
    for case in (case for case in cases if case.severity == _LEVELS[0]):
        for name, restorer in restorers.items():
            picture = apply(restorer, 1.0, case.truth)
            same = float("nan")
            if identity is not None and case.landmarks is not None:
                same = float(identity.embed(picture, case.landmarks) @ identity.embed(case.truth, case.landmarks))
            rows.append({
                "face": case.name, "severity": _CLEAN, "yaw": case.yaw, "method": f"{name} f=1",
                "psnr": psnr(picture, case.truth), "ssim": ssim(picture, case.truth), "identity": same,
                "landmarks": float("nan"), "detail": detail_ratio(picture, case.truth), "grid": grid_share(picture),
                "pattern": pattern_height(picture),
            })  # fmt: skip
    return rows


def _print_clean(rows: Sequence[Row]) -> None:
    methods = list(dict.fromkeys(row["method"] for row in rows))
    if not methods:
        return
    print(f"\nclean faces through fidelity 1, {len(rows) // len(methods)} pictures; the floor is {_CLEAN_FLOOR:g} dB")
    print(f"{'':28}{'PSNR dB':>9}{'lowest':>8}{'SSIM':>8}{'identity':>10}{'detail':>8}")
    for method in methods:
        own = [row for row in rows if row["method"] == method]
        values = {name: np.array([row[name] for row in own], float) for name in _FIGURES}
        lowest = values["psnr"].min()
        similar, same, detail = (_mean(values[name]) for name in ("ssim", "identity", "detail"))
        below = int((values["psnr"] < _CLEAN_FLOOR).sum())
        note = f"   {below} below the floor" if below else ""
        print(f"{method:28}{values['psnr'].mean():9.2f}{lowest:8.2f}{similar:8.3f}{same:10.3f}{detail:8.2f}{note}")


def _mean(values: NDArray[np.float64]) -> float:
    """Without what could not be measured; NaN where nothing could."""
    return float(np.nanmean(values)) if len(values) and not np.isnan(values).all() else float("nan")


def _measure(picture: Image, case: Case, identity: Identity | None, detector: Detector) -> dict[str, float]:
    figures = {"psnr": psnr(picture, case.truth), "ssim": ssim(picture, case.truth)}
    figures["identity"] = figures["landmarks"] = float("nan")
    if case.landmarks is not None:
        if identity is not None:
            same = identity.embed(picture, case.landmarks) @ identity.embed(case.truth, case.landmarks)
            figures["identity"] = float(same)
        found = largest_face(picture, detector)
        # A face that is no longer found counts as an error of half the distance from eyes to mouth.
        figures["landmarks"] = 0.5 if found is None else landmark_error(found, case.landmarks)
    figures["detail"], figures["grid"] = detail_ratio(picture, case.truth), grid_share(picture)
    figures["pattern"] = pattern_height(picture)
    return figures


def _print(rows: Sequence[Row], methods: Sequence[str]) -> None:
    def mean(name: str, chosen: Sequence[Row]) -> float:
        return _mean(np.array([row[name] for row in chosen], float))

    def table(title: str, chosen: Sequence[Row]) -> None:
        if not chosen:
            return
        print(f"\n{title}, {len(chosen) // len(methods)} pictures")
        print(
            f"{'':28}{'PSNR dB':>9}{'SSIM':>8}{'identity':>10}{'landmarks':>11}{'detail':>8}{'grid':>7}{'pattern':>9}"
        )
        for method in methods:
            own = [row for row in chosen if row["method"] == method]
            figures = [mean(name, own) for name in _FIGURES]
            print("{:28}{:9.2f}{:8.3f}{:10.3f}{:11.3f}{:8.2f}{:7.3f}{:9.2f}".format(method, *figures))

    for severity in _LEVELS:
        table(severity, [row for row in rows if row["severity"] == severity])
    for low, high in _YAWS:
        title = f"|yaw| {low} to {high} degrees" if high < 180 else f"|yaw| above {low} degrees"
        table(title, [row for row in rows if low <= abs(float(row["yaw"])) < high])
    table("all", rows)

    print("\nPSNR gain over the degraded input, dB")
    bands = {"all": (0, 181), "|yaw| <= 20": (0, 20), "|yaw| > 20": (20, 181)}
    print(f"{'':28}" + "".join(f"{title:>13}" for title in bands))
    for method in methods[1:]:
        cells = ""
        for low, high in bands.values():
            band = [row for row in rows if low <= abs(float(row["yaw"])) < high]
            gain = mean("psnr", [row for row in band if row["method"] == method])
            gain -= mean("psnr", [row for row in band if row["method"] == methods[0]])
            cells += f"{gain:+13.2f}" if band else f"{'-':>13}"
        print(f"{method:28}{cells}")


def _shown(cases: Sequence[Case]) -> list[str]:
    """The names of the faces for the sheet: the most turned ones and the first ones, 12 in all."""
    turned = sorted({(abs(case.yaw), case.name) for case in cases}, reverse=True)[:4]
    names = [name for _, name in turned]
    names += [case.name for case in cases if case.severity == _LEVELS[0] and case.name not in names][: 12 - len(names)]
    return names


def _sheet(
    path: Path,
    truths: Mapping[str, Image],
    pictures: Mapping[tuple[str, str, str], Image],
    methods: Sequence[str],
) -> None:
    """A row per face: each severity's methods, then the truth."""
    side = 160
    shown = [m for m in methods if m not in ("Lanczos", "denoise + unsharp")]
    rows = []
    for name, truth in truths.items():
        cells = [pictures[name, severity, method] for severity in _LEVELS for method in shown] + [truth]
        rows.append(np.hstack([cv2.resize(cell, (side, side), interpolation=cv2.INTER_AREA) for cell in cells]))
    header = np.full((22, rows[0].shape[1], 3), 255, np.uint8)
    labels = [f"{severity}: {method}" for severity in _LEVELS for method in shown] + ["truth"]
    for column, label in enumerate(labels):
        cv2.putText(header, label, (column * side + 2, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.36, (0, 0, 0), 1, cv2.LINE_AA)
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imencode(".png", np.vstack([header, *rows])[..., ::-1])[1].tofile(path)
