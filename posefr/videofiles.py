"""Video files: frames out of one, part by part, and into another with the sound of the first. By PyAV (FFmpeg)."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import PoseFRError, brief
from .imagefiles import atomic_file

__all__ = ["VideoClip", "container_of", "write_video"]

_CONTAINERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}  # that H.264 goes into

_PART_PIXELS = 8 * 1920 * 1080  # 200 MB of floats
_LONGEST_PART = 64  # frames
_MOST = 65535
_READ, _WRITTEN = "gbrp16le", "rgb48le"  # by way of fewer bits, frames come back darker by one in 255
_OTHER = 5  # BT.601: older PyAV heed the matrix of a frame's colours only where the one asked for is another
_MEANT = ("color_range", "colorspace", "color_primaries", "color_trc")
_COPIED_SOUND = {"aac", "mp3", "ac3", "eac3", "alac"}  # that mp4 and mov hold as it is
_LAYOUTS = {1: "mono", 6: "5.1"}  # of sound that does not tell which channel is which; "stereo" for other numbers


def _av() -> ModuleType:
    try:
        import av
    except ImportError as error:
        raise PoseFRError(f"Videos are read and written by PyAV, which is missing ({error}): pip install av.") from None
    module: ModuleType = av
    return module


class VideoClip:
    """A video's frames, upright, in parts; it can be read again and again.

    Args:
        source: a file's path, or its bytes.
        start: seconds of the file at which the clip begins.
        duration: of the clip in seconds; 0 for all that follows.

    Attributes:
        frames: about how many there are, by what the file says; 0 where it says nothing.
        times: of each frame that was read last, from the start on, in units of the file's time base.

    Raises:
        PoseFRError: a file that cannot be read or holds no video, or there is no PyAV.
    """

    def __init__(self, source: str | os.PathLike[str] | io.BytesIO, start: float = 0.0, duration: float = 0.0) -> None:
        self.source, self.start, self.duration = source, start, duration
        self.times: list[int] = []
        with self.opened() as file:
            stream = self.stream(file)
            seconds = duration or max(0.0, (file.duration or 0) / _av().time_base - start)
            whole = stream.frames if not (start or duration) else 0
            self.frames: int = whole or round(seconds * (stream.average_rate or 0))

    @property
    def name(self) -> str:
        return "The video" if isinstance(self.source, io.BytesIO) else os.fspath(self.source)

    @contextmanager
    def opened(self) -> Iterator[Any]:
        """The file as PyAV's input container."""
        av = _av()
        # Each reader of bytes has its own place in them; they are not copied.
        source = io.BytesIO(self.source.getvalue()) if isinstance(self.source, io.BytesIO) else os.fspath(self.source)
        try:
            file = av.open(source)
        except (av.error.FFmpegError, OSError) as error:
            raise self._unreadable(error) from error
        with file:
            yield file

    def stream(self, file: Any) -> Any:
        """The video in the opened file."""
        if not file.streams.video:
            raise PoseFRError(f"{self.name} holds no video.")
        return file.streams.video[0]

    def packets(self, file: Any, *streams: Any) -> Iterator[Any]:
        """What the opened file holds of some streams, from the start on or a little before it."""
        error = _av().error.FFmpegError
        try:
            if self.start:
                file.seek(int(self.start * _av().time_base))
            yield from file.demux(*streams)
        except error as reason:
            raise self._unreadable(reason) from reason

    def _unreadable(self, error: Exception) -> PoseFRError:
        return PoseFRError(f"{self.name} cannot be read as a video: {brief(error)}.")

    def parts(self) -> Iterator[Tensor]:
        """The frames in their order, [n, H, W, 3] float32, 0..1, n by their size. Damaged ones are left out."""
        self.times = []
        pictures: list[Any] = []
        with self.opened() as file:
            for time, picture in self._pictures(file):
                height, width = picture.shape[:2]
                most = min(_LONGEST_PART, max(1, _PART_PIXELS // (height * width)))
                if pictures and (len(pictures) >= most or picture.shape != pictures[0].shape):
                    yield _floats(pictures)
                    pictures = []
                pictures.append(picture)
                self.times.append(time)
        if pictures:
            yield _floats(pictures)

    def _pictures(self, file: Any) -> Iterator[tuple[int, Any]]:
        """Each frame's time and its pixels, [H, W, 3] uint16."""
        stream = self.stream(file)
        stream.thread_type = "AUTO"
        first = int(self.start / stream.time_base)
        end = first + int(self.duration / stream.time_base) if self.duration else None
        last, step = -1, max(1, round(1 / (stream.time_base * (stream.average_rate or 25))))
        for frame in (frame for packet in self.packets(file, stream) for frame in _decoded(packet)):
            time = frame.pts
            if time is not None and time < first:
                continue
            if time is not None and end is not None and time >= end:
                return
            # Of frames without a time, or with one that is over, each follows the one before.
            last = last + step if time is None or time - first <= last else time - first
            turns = round(getattr(frame, "rotation", 0) / 90) % 4
            yield last, np.rot90(frame.to_ndarray(format=_READ, dst_colorspace=_OTHER), turns)


def _decoded(packet: Any) -> list[Any]:
    """The frames of a packet; none where it is damaged."""
    try:
        frames: list[Any] = packet.decode()
    except _av().error.InvalidDataError:
        return []
    return frames


def _floats(pictures: list[Any]) -> Tensor:
    return torch.from_numpy(np.stack(pictures).astype(np.float32)).div_(_MOST)


def container_of(path: Path) -> str:
    """FFmpeg's name of the kind of file that a video's name stands for. Raises PoseFRError if it is not written."""
    container = _CONTAINERS.get(path.suffix.lower())
    if container is None:
        raise PoseFRError(f"{path} cannot be written; expected a name ending in {', '.join(_CONTAINERS)}.")
    return container


def write_video(target: Path, parts: Iterable[Tensor], clip: VideoClip, *, quality: float = 17.0) -> None:
    """Write frames as H.264, with the times, the meaning of colours and the sound of the clip that they come from.

    Sound is copied where the file can hold it, else compressed to AAC. Where the clip has more than 8 bits, 10 are
    written.

    Args:
        target: ends in .mp4, .m4v, .mov or .mkv; it is written whole or not at all.
        parts: [n, H, W, 3] floats each, 0..1: as many frames as `clip.parts` gives, which is read first or meanwhile.
        quality: x264's constant rate factor: 0 is the best, 17 hard to tell from the original, 51 the worst.

    Raises:
        PoseFRError: another ending, or a file that cannot be written.
    """
    av, container = _av(), container_of(target)
    options = {} if container == "matroska" else {"movflags": "use_metadata_tags"}
    with clip.opened() as source, atomic_file(target) as file:
        try:
            with av.open(file, "w", format=container, options=options) as output:
                output.metadata.update(source.metadata)
                _write(output, source, parts, clip, quality)
        except av.error.FFmpegError as error:
            raise PoseFRError(f"{target} cannot be written: {brief(error)}.") from error


def _write(output: Any, source: Any, parts: Iterable[Tensor], clip: VideoClip, quality: float) -> None:
    pictures: _Pictures | None = None
    written = 0
    for part in parts:
        if pictures is None:
            pictures, sound = _Pictures(output, clip.stream(source), part, quality), _Sound(output, source, clip)
        for frame in part:
            output.mux(pictures.packets(frame, clip.times[written]))
            written += 1
        sound.add_until(float(clip.times[written - 1] * pictures.time_base))
    if pictures is not None:
        output.mux(pictures.last_packets())
        sound.add_until(math.inf)


class _Pictures:
    """Compresses frames as large as those of `part`, with colours that mean what they do in the stream `like`."""

    def __init__(self, output: Any, like: Any, part: Tensor, quality: float) -> None:
        self.time_base: Fraction = like.time_base
        self._stream = output.add_stream("libx264", rate=like.average_rate or 25, options={"crf": f"{quality:g}"})
        self._codec = context = self._stream.codec_context
        height, width = part.shape[1:3]
        halves = "420" if height % 2 == width % 2 == 0 else "444"  # colours at half the size
        deep = max(component.bits for component in like.format.components) > 8
        context.width, context.height = width, height
        context.pix_fmt = f"yuv{halves}p10le" if deep else f"yuv{halves}p"
        context.time_base = self.time_base
        for meant in _MEANT:
            setattr(context, meant, getattr(like.codec_context, meant))
        if (width, height) == (like.width, like.height) and like.sample_aspect_ratio:
            context.sample_aspect_ratio = like.sample_aspect_ratio

    def packets(self, picture: Tensor, time: int) -> list[Any]:
        """What is ready after one more frame [H, W, 3]."""
        pixels = (picture.cpu().float() * _MOST).round().clamp(0, _MOST).numpy().astype(np.uint16)
        context = self._codec
        frame = _av().VideoFrame.from_ndarray(pixels, format=_WRITTEN)
        frame = frame.reformat(
            format=context.pix_fmt, dst_colorspace=context.colorspace, dst_color_range=context.color_range
        )
        frame.colorspace, frame.color_range = context.colorspace, context.color_range
        frame.pts, frame.time_base = time, self.time_base
        return list(self._stream.encode(frame))

    def last_packets(self) -> list[Any]:
        return list(self._stream.encode(None))


class _Sound:
    """Hands the sound of a clip on, as far as its pictures go."""

    def __init__(self, output: Any, source: Any, clip: VideoClip) -> None:
        self._output, self._source, self._clip = output, source, clip
        self._out: dict[int, Any] = {}  # by the stream's number in the source
        self._copied: set[int] = set()
        for stream in source.streams.audio:
            if stream.codec_context is None:  # FFmpeg knows no decoder for some kinds of sound: they are left out
                continue
            if output.format.name == "matroska" or stream.codec_context.codec.canonical_name in _COPIED_SOUND:
                self._copied.add(stream.index)
                self._out[stream.index] = output.add_stream_from_template(stream)
            else:
                layout = _LAYOUTS.get(stream.channels, "stereo")
                self._out[stream.index] = output.add_stream("aac", rate=stream.rate, layout=layout)
        self._ready = self._packets()
        self._next = next(self._ready, None)

    def add_until(self, end: float) -> None:
        """What begins before a time in seconds of the clip."""
        while self._next is not None and self._next[0] < end:
            self._output.mux(self._next[1])
            self._next = next(self._ready, None)

    def _packets(self) -> Iterator[tuple[float, Any]]:
        """Packets of the clip and when they begin, in seconds of it."""
        streams = [self._source.streams[number] for number in self._out]
        if not streams:
            return
        start, end = self._clip.start, self._clip.duration or math.inf
        time = 0.0
        for packet in self._clip.packets(self._source, *streams):
            stream, out = packet.stream, self._out[packet.stream.index]
            if stream.index not in self._copied:
                for frame in _decoded(packet):
                    time = frame.time - start
                    if 0 <= time < end:
                        frame.pts -= int(start / frame.time_base)
                        yield time, out.encode(frame)
            elif packet.dts is not None and packet.pts is not None:  # not the one that ends a stream
                before = int(start / stream.time_base)
                time = float((packet.pts - before) * stream.time_base)
                if (time >= 0 or not start) and time < end:
                    packet.pts, packet.dts, packet.stream = packet.pts - before, packet.dts - before, out
                    yield time, packet
        for number in self._out.keys() - self._copied:
            yield time, self._out[number].encode(None)
