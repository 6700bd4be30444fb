"""Training faces: aligned crops of a folder of photos, kept in memory, degraded in the background."""

from __future__ import annotations

import logging
import os
import queue
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ..errors import PoseFRError, brief
from ..imagefiles import atomic_file, picture_files, readable
from .degradation import SEVERITIES, Severity, degrade, draw, recolour
from .manifest import LANDMARKS, read_manifest

__all__ = ["FaceCrops", "PairLoader", "load_crops"]


class FaceCrops:
    """N aligned faces.

    Attributes:
        images: [N, S, S, 3] uint8 RGB, in the ffhq frame.
        scale: [N] float64, px of the photo per px of the crop; below 1 the crop was enlarged and is soft, below 2 its
            colours are, where the photo was compressed.
        landmarks: [N, 5, 2] float32, px of the crop, continuous coordinates; None when they were not kept.
        files: [N] names of the photos in their folder, with `/` between the parts; None when they were not kept.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        scale: NDArray[np.float64],
        landmarks: NDArray[np.float32] | None = None,
        files: NDArray[np.str_] | None = None,
    ) -> None:
        self.images, self.scale, self.landmarks, self.files = images, scale, landmarks, files

    def __len__(self) -> int:
        return len(self.images)

    def take(self, chosen: NDArray[np.bool_]) -> FaceCrops:
        """Those faces for which the mask [N] is true."""
        points = None if self.landmarks is None else self.landmarks[chosen]
        files = None if self.files is None else self.files[chosen]
        return FaceCrops(self.images[chosen], self.scale[chosen], points, files)

    def odds(self, favour: Mapping[str, float]) -> NDArray[np.float64]:
        """How likely each face is drawn, [N], 1 together.

        A face is drawn the more often the larger it is in its photo, up to twice the crop's size: compressed photos
        keep their colours at half the size, so that only halved ones show them as sharp as their brightness. Faces of
        photos whose name matches a pattern of `favour` are drawn so many times as often.

        Raises:
            PoseFRError: a pattern that matches no photo, or names that were not kept.
        """
        weight = np.clip(self.scale, 0.4, 2.0) ** 2
        for pattern, times in favour.items():
            if self.files is None:
                raise PoseFRError("These crops were kept without the names of their photos; make them again.")
            chosen = np.array([fnmatchcase(file, pattern) for file in self.files])
            if not chosen.any():
                raise PoseFRError(
                    f"No photo's name matches {pattern!r}, which was to be drawn {times:g} times as often."
                )
            weight[chosen] *= times
        odds: NDArray[np.float64] = weight / weight.sum()
        return odds


def load_crops(
    folder: Path,
    size: int,
    cache: Path | None = None,
    limit: int = 0,
    device: torch.device | str | None = None,
) -> FaceCrops:
    """Cut every face of a folder of photos into the ffhq frame.

    Args:
        folder: photos. Where it has a manifest.csv with the columns file, left_eye_x ... right_mouth_y (px; index
            coordinates of pixel centres plus 0.5), its landmarks are used; otherwise the bundled detector finds them.
        size: S of the crops, px.
        cache: where to keep the crops between runs, as .npz; made when absent.
        limit: how many photos with a face to use; 0 for all.
        device: where the detector looks for them; None takes CUDA when there is one.

    Raises:
        PoseFRError: the folder has no photo with a face, its manifest cannot be understood, or the cache is damaged or
            of another folder.
    """
    if cache is not None and cache.exists():
        return _kept(cache, folder)
    from ..faces import Faces  # the geometry, and the detector when it is needed
    from ..geometry import apply_transform, crop_faces, transform_scale

    landmarks_of = _listed(folder)
    photos = _from_detector(folder, limit, device) if landmarks_of is None else _with_landmarks(landmarks_of, limit)
    crops, scales, points, files = [], [], [], []
    for path, photo, landmarks in photos:
        faces = Faces.make(
            frame=torch.zeros(len(landmarks)),
            box=torch.zeros(len(landmarks), 4),
            landmarks=landmarks,
            score=torch.ones(len(landmarks)),
            image_size=(photo.shape[1], photo.shape[2]),
            frames=1,
        )
        found = crop_faces(photo, faces, size=size, frame="ffhq")
        crops.append((found.images * 255).round().to(torch.uint8).numpy())
        points.append(apply_transform(found.transforms, landmarks).numpy())
        scales.append(1 / transform_scale(found.transforms).double().numpy())
        files += [os.path.relpath(path, folder).replace(os.sep, "/")] * len(landmarks)
    if not crops:
        raise PoseFRError(f"No photo with a face was found in {folder}; training needs at least one.")
    images, scale, marks = np.concatenate(crops), np.concatenate(scales), np.concatenate(points)
    names = np.array(files)
    if cache is not None:
        with atomic_file(cache) as file:
            np.savez(file, images=images, scale=scale, landmarks=marks, files=names, folder=str(folder.resolve()))
    return FaceCrops(images, scale, marks, names)


def _kept(cache: Path, folder: Path) -> FaceCrops:
    """The crops of a cache; those of older versions have no names, the first ones no landmarks either."""
    try:
        with np.load(cache) as stored:
            kept = dict(stored)
        crops = FaceCrops(kept["images"], kept["scale"], kept.get("landmarks"), kept.get("files"))
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise PoseFRError(f"{cache} cannot be read ({brief(error)}); delete it, so that it is made again.") from None
    source = str(kept.get("folder", folder.resolve()))
    if source != str(folder.resolve()):
        raise PoseFRError(
            f"{cache} holds the faces of {source}, not those of {folder}; delete it or choose another --out."
        )
    logging.getLogger(__name__).info("%d faces kept in %s; delete it after photos have changed.", len(crops), cache)
    return crops


def _listed(folder: Path) -> dict[Path, Tensor] | None:
    """Landmarks [n, 5, 2] of each photo that a manifest lists, or None where there is none or it tells no landmarks."""
    columns = [f"{point}_{axis}" for point in LANDMARKS for axis in "xy"]
    rows = read_manifest(folder)
    if not rows or not {"file", *columns} <= set(rows[0]):
        return None
    found: dict[Path, Tensor] = {}
    for line, row in enumerate(rows, 2):
        try:
            values = [float(row[column]) for column in columns]
        except (TypeError, ValueError):
            raise PoseFRError(
                f"{folder / 'manifest.csv'}, line {line}: the landmarks of {row['file']} are not ten numbers."
            ) from None
        path, points = folder / row["file"], torch.tensor(values).reshape(1, len(LANDMARKS), 2)
        found[path] = torch.cat([found[path], points]) if path in found else points
    return found


def _with_landmarks(landmarks_of: dict[Path, Tensor], limit: int) -> Iterator[tuple[Path, Tensor, Tensor]]:
    """Each photo: its path, its colour [1, H, W, 3] in 0..1 and the landmarks [n, 5, 2] in it."""
    listed = list(landmarks_of)[: limit or None]
    for path, photo in readable(tqdm(listed, desc="cropping faces", unit="photo")):
        yield path, photo, landmarks_of[path]


def _from_detector(
    folder: Path, limit: int, device: torch.device | str | None
) -> Iterator[tuple[Path, Tensor, Tensor]]:
    """The same for the photos of a folder in which the bundled detector finds faces."""
    from ..detection import load_detector

    detector = load_detector("bundled", device=device)
    count = 0
    for path, photo in readable(tqdm(picture_files(folder, nested=True), desc="finding faces", unit="photo")):
        faces = detector.detect(photo)
        if len(faces):
            yield path, photo, faces.landmarks
            count += 1
            if count == limit:
                break


class PairLoader:
    """Endless batches of degraded faces and their targets, made by background threads (OpenCV frees the lock).

    Yields dicts of `degraded` and `target`, [B, 3, S, S] float32 in 0..1; with the crops' landmarks, `landmarks`
    [B, 5, 2] in px; with `twice`, `second`: the same faces degraded by another draw, in the same colours. A share
    `clean` of the faces are their own target; the others' degradation is drawn from one of `severities`, each as often
    as it stands there. `favour`: how often the faces are drawn, as FaceCrops.odds has it.
    """

    def __init__(
        self,
        crops: FaceCrops,
        batch: int,
        seed: int | list[int],
        severities: Sequence[Severity] = (SEVERITIES["training"],),
        clean: float = 0.05,
        workers: int = 2,
        twice: bool = False,
        favour: Mapping[str, float] | None = None,
    ) -> None:
        self.crops, self.batch, self.severities, self.clean, self.twice = crops, batch, severities, clean, twice
        self.probability = crops.odds(favour or {})
        self._queue: queue.Queue[dict[str, Tensor] | Exception] = queue.Queue(maxsize=8)
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        for worker in range(workers):
            rng = np.random.default_rng([*([seed] if isinstance(seed, int) else seed), worker])
            self._threads.append(threading.Thread(target=self._work, args=(rng,), daemon=True))
            self._threads[-1].start()

    def _work(self, rng: np.random.Generator) -> None:
        try:
            while not self._stop.is_set():
                self._put(self._batch(rng))
        except Exception as error:  # whoever waits for a batch raises it
            self._put(error)

    def _put(self, made: dict[str, Tensor] | Exception) -> None:
        while not self._stop.is_set():
            try:
                self._queue.put(made, timeout=0.5)
                return
            except queue.Full:
                continue

    def _batch(self, rng: np.random.Generator) -> dict[str, Tensor]:
        faces = [self._face(rng) for _ in range(self.batch)]
        batch = {name: torch.from_numpy(np.stack([face[name] for face in faces])) for name in faces[0]}
        for name in batch:
            if name != "landmarks":
                batch[name] = batch[name].permute(0, 3, 1, 2).float() / 255
        return batch

    def _face(self, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
        index = rng.choice(len(self.crops), p=self.probability)
        target = self.crops.images[index]
        points = None if self.crops.landmarks is None else self.crops.landmarks[index]
        if rng.random() < 0.5:
            target = target[:, ::-1]
            points = None if points is None else _mirrored(points, target.shape[1])
        if rng.random() < 0.3:  # exposure and saturation vary more in the world than in the folder
            value = target.astype(np.float32) / 255
            grey = value.mean(2, keepdims=True)
            value = grey + (value - grey) * rng.uniform(0.5, 1.2)
            value = np.clip(value, 0, 1) ** rng.uniform(0.7, 1.4)
            target = (value * 255 + 0.5).astype(np.uint8)
        target = np.ascontiguousarray(target)
        clean = rng.random() < self.clean
        severity = self.severities[int(rng.integers(len(self.severities)))]
        how = draw(rng, severity)
        if clean:
            how = replace(how, gain=(1.0, 1.0, 1.0), offset=(0.0, 0.0, 0.0), grey=False)
        face: dict[str, NDArray[Any]] = {
            "degraded": target if clean else degrade(target, how),
            "target": target if clean else recolour(target, how),
        }
        if self.twice:
            other = replace(draw(rng, severity), gain=how.gain, offset=how.offset, grey=how.grey)
            face["second"] = degrade(target, other)
        if points is not None:
            face["landmarks"] = points
        return face

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        while True:
            made = self._queue.get()
            if isinstance(made, Exception):
                raise made
            yield made

    def close(self) -> None:
        """Stop the background threads and wait for them: Python aborts where it ends while one is in native code."""
        self._stop.set()
        for thread in self._threads:
            thread.join()


def _mirrored(points: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """The landmarks [5, 2] of a picture `size` px wide after it is flipped: left and right change places too."""
    return (points[[1, 0, 2, 4, 3]] * (-1, 1) + (size, 0)).astype(np.float32)
