"""All of it in one call: detect, select, crop, restore, paste back; of images, or of a video file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .compositing import paste_faces
from .cuts import find_cuts
from .geometry import crop_faces
from .selection import select_faces
from .steadying import steady_restored
from .streaming import counted, find_faces_in_parts, restore_in_parts
from .tracking import smooth_faces, track_faces
from .videofiles import VideoClip, container_of, write_video

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from .detection import Detector
    from .faces import Faces
    from .geometry import Crops
    from .restoration import Restorer

__all__ = ["Result", "restore_images", "restore_report", "restore_video"]


@dataclass(frozen=True)
class Result:
    """What a restoration made, and what it was made from.

    Attributes:
        images: [B, H, W, 3] 0..1, the restored images.
        mask: [B, H, W] 0..1, where faces were pasted and how much at full strength.
        found: every face that was detected.
        faces: the N selected ones, which were restored.
        crops: the N aligned crops of the input.
        restored: [N, S, S, 3] 0..1, the same crops restored.
    """

    images: Tensor
    mask: Tensor
    found: Faces
    faces: Faces
    crops: Crops
    restored: Tensor


def restore_report(
    images: Tensor,
    *,
    detector: Detector,
    restorer: Restorer,
    threshold: float = 0.5,
    size: int = 640,
    angles: Sequence[int] = (0,),
    select: Mapping[str, Any] | None = None,
    fidelity: float = 0.5,
    seed: int = 0,
    mask: str | Tensor = "ellipse",
    feather: float = 8.0,
    grow: float = 0.0,
    color_match: str = "mean_std",
    strength: float = 1.0,
    video: bool = False,
    batch: int = 8,
    on_chunk: Callable[[str, int, int], None] | None = None,
) -> Result:
    """Restore the faces in images and tell what was done.

    Args:
        images: [B, H, W, 3] float, 0..1, any device.
        detector: from load_detector.
        restorer: from load_restorer.
        threshold: 0..1, the least detection score.
        size: the longer side in px that larger images are scaled down to for detection; 0 for full size.
        angles: quarter turns in degrees to look for faces at: 0, 90, 180, 270.
        select: keyword arguments of select_faces; None restores every face found.
        fidelity: 0..1; 1 follows the input, lower trusts the restorer's prior more.
        seed: of the restorer's noise.
        mask: `ellipse`, `box`, `hull`, or a mask as paste_faces takes it.
        feather: width of the mask's soft border, per cent of the crop's side.
        grow: how far the mask's border is moved outwards, or inwards if below 0, per cent of the crop's side.
        color_match: `none`, `mean_std`, `wavelet` or `detail`.
        strength: 0..1; 0 returns the input.
        video: the images are the frames of a video: faces are tracked from cut to cut, gaps filled, crops and restored
            faces steadied.
        batch: images, and crops, per forward pass.
        on_chunk: called as (stage, done, total) between forward passes, stage being `detect` or `restore`; what it
            raises ends the work.

    Raises:
        PoseFRError: an argument out of range or images of another shape.
    """
    found = detector.detect(
        images, threshold=threshold, size=size, angles=angles, batch=batch, on_chunk=_stage(on_chunk, "detect")
    )
    faces = smooth_faces(track_faces(found, cuts=find_cuts(images))) if video else found
    faces = select_faces(faces, **select) if select else faces
    crops = crop_faces(images, faces, size=restorer.size, frame=restorer.frame)
    restored = restorer.restore(
        crops.images, fidelity=fidelity, seed=seed, batch=batch, on_chunk=_stage(on_chunk, "restore")
    )
    if video:
        restored = steady_restored(restored, faces)
    pasted, used = paste_faces(
        images, crops, restored, mask=mask, feather=feather, grow=grow, color_match=color_match, strength=strength
    )
    return Result(images=pasted, mask=used, found=found, faces=faces, crops=crops, restored=restored)


def restore_images(images: Tensor, **options: Any) -> Tensor:
    """Restore the faces in images: `restore_report` with the same arguments, for the images [B, H, W, 3] alone."""
    return restore_report(images, **options).images


def restore_video(
    source: str | Path,
    target: str | Path,
    *,
    detector: Detector,
    restorer: Restorer,
    threshold: float = 0.5,
    size: int = 640,
    angles: Sequence[int] = (0,),
    select: Mapping[str, Any] | None = None,
    fidelity: float = 0.5,
    seed: int = 0,
    quality: float = 17.0,
    batch: int = 8,
    device: torch.device | None = None,
    on_frames: Callable[[str, int, int], None] | None = None,
    **paste: Any,
) -> Faces:
    """Restore the faces in a video file and write another one, with few frames in memory at a time.

    What comes out is what `restore_report` makes of all frames with `video`, compressed by `write_video`.

    Args:
        source, target: the files; the target's name ends in .mp4, .m4v, .mov or .mkv.
        detector, restorer, threshold, size, angles, select, fidelity, seed, batch: see `restore_report`.
        quality: see `write_video`.
        device: where all is computed but the networks; None for the CPU.
        on_frames: called as (stage, done, total) after each part, stage being `detect` or `restore`; the first one's
            total is what the file says. What it raises ends the work.
        paste: `mask`, `feather`, `grow`, `color_match` and `strength` as in `restore_report`.

    Returns:
        The faces that were restored; where there are none, nothing is written.

    Raises:
        PoseFRError: a video that cannot be read or written, no PyAV, or an argument out of range.
    """
    clip, target = VideoClip(source), Path(target)
    container_of(target)  # before the work rather than after it

    def detect(part: Tensor) -> Faces:
        return detector.detect(part, threshold=threshold, size=size, angles=angles, batch=batch)

    def restore(crops: Tensor) -> Tensor:
        return restorer.restore(crops, fidelity=fidelity, seed=seed, batch=batch)

    def parts(stage: str, total: int) -> Iterator[Tensor]:
        return counted((part.to(device or "cpu") for part in clip.parts()), total, _stage(on_frames, stage))

    faces = find_faces_in_parts(parts("detect", clip.frames), detect)
    faces = select_faces(faces, **select) if select else faces
    if len(faces):
        frames = parts("restore", faces.frames)
        restored = restore_in_parts(frames, faces, restore, size=restorer.size, frame=restorer.frame, **paste)
        write_video(target, restored, clip, quality=quality)
    return faces


def _stage(on_chunk: Callable[[str, int, int], None] | None, stage: str) -> Callable[[int, int], None] | None:
    if on_chunk is None:
        return None
    return lambda done, total: on_chunk(stage, done, total)
