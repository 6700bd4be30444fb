"""A detector and a restorer whose answers are known, for tests of what is built around them."""

from __future__ import annotations

import torch

from posefr.faces import Faces

# Eyes, nose, mouth corners of an upright frontal face in a box of 1 x 1.
_POINTS = torch.tensor([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])


class FakeDetector:
    """Finds a face of 16 px at the left and one of 24 px at the right of each image, if it is at least 64 px wide."""

    name = "fake"

    def detect(self, images, *, threshold=0.5, size=640, angles=(0,), tile=0, batch=8, on_chunk=None):
        frames, height, width = images.shape[:3]
        if on_chunk is not None:
            on_chunk(frames, frames)
        if width < 64:
            return Faces.empty((height, width), frames)
        corners = torch.tensor([[4.0, 20.0], [width - 28.0, 16.0]]).repeat(frames, 1)
        sides = torch.tensor([16.0, 24.0]).repeat(frames)
        return Faces.make(
            frame=torch.arange(frames).repeat_interleave(2),
            box=torch.cat([corners, corners + sides[:, None]], 1),
            landmarks=corners[:, None] + _POINTS * sides[:, None, None],
            score=torch.tensor([0.9, 0.8]).repeat(frames),
            image_size=(height, width),
            frames=frames,
        )


class FakeRestorer:
    """Paints every crop green; the more, the lower the fidelity."""

    name, size, frame = "fake", 32, "ffhq"

    def restore(self, crops, *, fidelity=0.7, seed=0, batch=8, on_chunk=None):
        if on_chunk is not None:
            on_chunk(len(crops), len(crops))
        green = torch.tensor([0.0, 1.0, 0.0]).expand_as(crops)
        return crops * fidelity + green * (1 - fidelity)
