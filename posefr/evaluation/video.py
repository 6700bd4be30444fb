"""Measures how steady restored faces are in clips that are panned, zoomed and made noisy from held-out photos."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from ..compositing import paste_faces
from ..detection import Detector, load_detector
from ..errors import PoseFRError
from ..faces import Faces
from ..geometry import apply_transform, crop_faces, invert_similarity, sample_crops
from ..imagefiles import picture_files, readable
from ..restoration import Restorer, load_restorer, restorer_names
from ..steadying import steady_restored
from ..tracking import smooth_faces, track_faces
from .options import SHARED, add_input

__all__ = ["add_arguments", "run"]

_SIZE = 256  # px, of the clip
_SCALE, _ZOOM = 0.4, 1.25  # px of the clip to one of the photo at first, and how much that grows
_PAN = (30.0, -22.0)  # px over the clip
_PARTS = 3  # of a clip, in each of which the crop's mean place is compared with others


@dataclass(frozen=True)
class Clip:
    """A photo that moves: frames [T, S, S, 3] without and with noise, and the motion [T, 2, 3] from photo to frame."""

    name: str
    truth: Tensor
    noisy: Tensor
    motion: Tensor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m posefr.evaluation video`."""
    add = parser.add_argument
    add_input(parser, "--faces", SHARED / "data" / "validation", "photos of a face")
    add("--limit", type=int, default=6, help="how many photos; 0 for all (default: %(default)s)")
    add("--frames", type=int, default=48, help="of a clip (default: %(default)s)")
    add("--noise", type=float, default=0.04, help="standard deviation, of a range of 1 (default: %(default)s)")
    add("--restorer", action="append", help="name or path, may be given more than once (default: all bundled)")
    add("--fidelity", type=float, default=1.0, help="(default: %(default)s)")
    add("--detector", default="bundled", help="(default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Measure and print; returns the exit status."""
    photos = list(readable(picture_files(args.faces)[: args.limit or None]))
    if not photos:
        raise PoseFRError(f"There are no pictures in {args.faces}; name another folder with --faces.")
    detector = load_detector(args.detector)
    restorers = [load_restorer(name) for name in args.restorer or restorer_names()]
    clips = [_clip(path.name, photo, args.frames, args.noise, seed) for seed, (path, photo) in enumerate(photos)]
    for restorer in restorers:
        figures = [
            row for clip in tqdm(clips, unit="clip") if (row := _measure(clip, detector, restorer, args.fidelity))
        ]
        if not figures:
            print("No face was followed through a whole clip.")
            return 1
        means = {name: sum(row[name] for row in figures) / len(figures) for name in figures[0]}
        print(f"\n{restorer.name}: {len(figures)} of {len(clips)} clips of {args.frames} frames, noise {args.noise:g}")
        print(f"{'':38}{'frame by frame':>16}{'steadied':>12}{'ratio':>8}")
        for name, unit in _ROWS.items():
            before, after = means[f"{name} before"], means[f"{name} after"]
            print(f"{name + ', ' + unit:38}{before:16.3f}{after:12.3f}{before / after:8.2f}")
        for name in _DRIFTS:
            print(f"{'drift from ' + name + ', px':38}{'':16}{means[name]:12.3f}")
    return 0


_DRIFTS = ("the detections", "those without noise")
_ROWS = {"jitter of the crop's corners": "px", "temporal difference": "1/255", "error": "1/255"}


def _clip(name: str, photo: Tensor, count: int, noise: float, seed: int) -> Clip:
    side = max(photo.shape[1:3])
    time = torch.linspace(0, 1, count)
    scale = _SCALE * 512 / side * _ZOOM**time
    centre = _SIZE / 2 + torch.tensor(_PAN) * (time[:, None] - 0.5)
    middle = torch.tensor([photo.shape[2] / 2, photo.shape[1] / 2])
    shift = centre - scale[:, None] * middle
    motion = torch.cat([torch.eye(2) * scale[:, None, None], shift[:, :, None]], dim=2)
    truth = sample_crops(photo, torch.zeros(count, dtype=torch.int64), motion, _SIZE)
    generator = torch.Generator().manual_seed(seed)
    return Clip(name, truth, (truth + noise * torch.randn(truth.shape, generator=generator)).clamp(0, 1), motion)


def _measure(clip: Clip, detector: Detector, restorer: Restorer, fidelity: float) -> dict[str, float] | None:
    raw, ideal = (
        _main_track(detector.detect(frames, threshold=0.3), len(frames)) for frames in (clip.noisy, clip.truth)
    )
    if raw is None or ideal is None:
        return None
    smooth = smooth_faces(raw)
    forgotten = Faces.make(raw.frame, raw.box, raw.landmarks, raw.score, raw.image_size, raw.frames)
    before, mask = _restored(clip, forgotten, restorer, fidelity)
    after, other_mask = _restored(clip, smooth, restorer, fidelity)
    face = (mask > 0.5) & (other_mask > 0.5)
    corners = [_corners_in_photo(clip, faces) for faces in (raw, smooth, ideal)]
    figures: dict[str, float] = {}
    for name, out, places in (("before", before, corners[0]), ("after", after, corners[1])):
        error = (out - clip.truth) * 255
        both = face[1:] & face[:-1]
        figures[f"jitter of the crop's corners {name}"] = _rms(places.diff(dim=0)) * 2**0.5
        figures[f"temporal difference {name}"] = _rms(error.diff(dim=0)[both])
        figures[f"error {name}"] = _rms(error[face])
    for name, others in zip(_DRIFTS, (corners[0], corners[2]), strict=True):
        parts = zip(corners[1].chunk(_PARTS), others.chunk(_PARTS), strict=True)
        moved = torch.stack([told.mean(dim=0) - other.mean(dim=0) for told, other in parts])
        figures[name] = float(moved.norm(dim=2).mean())
    return figures


def _main_track(found: Faces, length: int) -> Faces | None:
    """The longest track, if it is as long as the clip."""
    tracked = track_faces(found)
    main = tracked[tracked.track == tracked.track.mode().values] if len(tracked) else tracked
    return main if len(main) == length else None


def _restored(clip: Clip, faces: Faces, restorer: Restorer, fidelity: float) -> tuple[Tensor, Tensor]:
    crops = crop_faces(clip.noisy, faces, restorer.size, restorer.frame)
    restored = steady_restored(restorer.restore(crops.images, fidelity=fidelity), faces)
    return paste_faces(clip.noisy, crops, restored, color_match="mean_std")


def _corners_in_photo(clip: Clip, faces: Faces) -> Tensor:
    """[T, 4, 2]: the crop's corners, taken back into the photo, where a face stands still; px of the mean frame."""
    transforms = crop_faces(clip.noisy, faces, 8).transforms
    square = torch.tensor([[0.0, 0.0], [8.0, 0.0], [8.0, 8.0], [0.0, 8.0]]).expand(len(faces), -1, -1)
    places = apply_transform(invert_similarity(transforms.double()), square.double())
    motion = clip.motion[faces.frame].double()
    scale = float(torch.hypot(motion[:, 0, 0], motion[:, 1, 0]).mean())
    return apply_transform(invert_similarity(motion), places) * scale


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())
