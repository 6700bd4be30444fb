"""Video files: frames out of one, part by part, and into another with the sound of the first. By PyAV (FFmpeg)."""

from __future__ import annotations

import io
import math
import os
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from itertools import chain
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
_LONGEST_PART = 16  # frames
_MOST = 65535
_READ, _WRITTEN = "gbrp16le", "rgb48le"  # by way of fewer bits, frames come back darker by one in 255
_RGB, _BT709, _LIMITED = 0, 1, 1  # FFmpeg's numbers of matrices and of a range
_OTHER = 5  # BT.601: older PyAV heed the matrix of a frame's colours only where the one asked for is another
_BEFORE_KEYFRAME = 10  # s
_JUMP = 1.0  # s, that a clock which is read goes back by where another recording begins
_MEANT = ("color_range", "colorspace", "color_primaries", "color_trc")
# What mp4 and mov hold of sound as it is, and from which sample rate on.
_COPIED_SOUND = {"aac": 1, "mp3": 16000, "ac3": 1, "eac3": 1, "alac": 1}
_AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
_LAYOUTS = {1: "mono", 6: "5.1"}  # that other numbers of channels are not mixed down to stereo


def _av() -> ModuleType:
    try:
        import av
    except ImportError as error:
        raise PoseFRError(f"Videos are read and written by PyAV, which is missing ({error}): pip install av.") from None
    if "libx264" not in av.codecs_available:
        raise PoseFRError("This PyAV cannot write H.264 (it has no libx264); pip install av brings one that can.")
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
        times: of each frame that was read, from the start on, in units of the file's time base.
        last_duration: how long the last of them is shown, in the same units; 0 where the file does not say it.
        bits: of each colour.

    Raises:
        PoseFRError: a file that cannot be read or holds no video, or there is no PyAV.
    """

    def __init__(self, source: str | os.PathLike[str] | io.BytesIO, start: float = 0.0, duration: float = 0.0) -> None:
        self.source, self.start, self.duration = source, start, duration
        self.times: list[int] = []
        self.last_duration, self.bits = 0, 8
        with self.opened() as file:
            stream = self.stream(file)
            # Broadcasts begin at any time of their clock.
            self.begins = max(start, (file.start_time or 0) / _av().time_base)
            left = max(0.0, ((file.start_time or 0) + (file.duration or 0)) / _av().time_base - start)
            seconds = min(duration, left) if duration and left else duration or left
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
            file = av.open(source, metadata_errors="replace")
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
                early = _BEFORE_KEYFRAME if file.format.name == "mpegts" else 0  # whose seek finds any packet
                file.seek(int(max(0, self.start - early) / streams[0].time_base), stream=streams[0])
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
        first, origin = (int(seconds / stream.time_base) for seconds in (self.start, self.begins))
        end = first + int(self.duration / stream.time_base) if self.duration else math.inf
        last, step = -1, max(1, round(1 / (stream.time_base * (stream.average_rate or 25))))
        for time, frame in self._timed(file, stream):
            if time is not None and time < first:
                continue
            if time is not None and time >= end:
                return
            if time is not None and (time - origin - last) * stream.time_base < -_JUMP:
                origin = time - last - step  # a recording of several: each begins anew
            last = last + step if time is None else max(time - origin, last + 1)
            self.bits = max(component.bits for component in frame.format.components)
            self.last_duration = getattr(frame, "duration", None) or 0
            turns = round(getattr(frame, "rotation", 0) / 90) % 4
            yield last, np.rot90(self._pixels(frame), turns)

    def _timed(self, file: Any, stream: Any) -> Iterator[tuple[int | None, Any]]:
        """Frames and when they are shown. AVI does not say it, but in its files they follow each other evenly."""
        avi, even = file.format.name == "avi", deque[int]()
        for packet in self.packets(file, stream):
            if packet.dts is not None:
                even.append(packet.dts)
            for frame in _decoded(packet):
                following = even.popleft() if even else None
                yield following if avi else frame.pts, frame

    def _pixels(self, frame: Any) -> Any:
        try:
            return frame.to_ndarray(format=_READ, dst_colorspace=_OTHER, src_color_range=frame.color_range)
        except (_av().error.FFmpegError, OSError, ValueError) as error:
            raise self._unreadable(error) from error


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
            if isinstance(error.__context__, OSError):  # the file's own, such as a full disk
                raise error.__context__ from None
            raise PoseFRError(f"{target} cannot be written: {brief(error)}.") from error


def _write(output: Any, source: Any, parts: Iterable[Tensor], clip: VideoClip, quality: float) -> None:
    parts = iter(parts)
    first = next(parts, None)
    if first is None:
        return
    pictures, sound = _Pictures(output, clip.stream(source), clip, first, quality), _Sound(output, source, clip)
    written = 0
    for part in chain([first], parts):
        for frame in part:
            output.mux(pictures.packets(frame, clip.times[written]))
            written += 1
        sound.add_until(float(clip.times[written - 1] * pictures.time_base))
    output.mux(pictures.last_packets())
    sound.add_until(math.inf)


class _Pictures:
    """Compresses frames as large as those of `part`, with colours that mean what they do in the stream `like`."""

    def __init__(self, output: Any, like: Any, clip: VideoClip, part: Tensor, quality: float) -> None:
        self.time_base: Fraction = like.time_base
        self._clip = clip
        self._stream = output.add_stream("libx264", rate=like.average_rate or 25, options={"crf": f"{quality:g}"})
        self._codec = context = self._stream.codec_context
        height, width = part.shape[1:3]
        halves = "420" if height % 2 == width % 2 == 0 else "444"  # colours at half the size
        context.width, context.height = width, height
        context.pix_fmt = f"yuv{halves}p10le" if clip.bits > 8 else f"yuv{halves}p"
        context.time_base = self.time_base
        for meant in _MEANT:
            setattr(context, meant, getattr(like.codec_context, meant))
        if context.colorspace == _RGB:
            context.colorspace, context.color_range = _BT709, _LIMITED
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
        """The others, after the last frame; it is shown as long as the clip's last one."""
        packets = list(self._stream.encode(None))
        if self._clip.last_duration:
            for packet in packets:
                packet.duration = self._clip.times[-1] + self._clip.last_duration - packet.pts
        return packets


class _Sound:
    """Hands the sound of a clip on, as far as its pictures go."""

    def __init__(self, output: Any, source: Any, clip: VideoClip) -> None:
        self._output, self._source, self._clip = output, source, clip
        self._tracks: dict[int, _Copied | _Compressed] = {}  # by the stream's number in the source
        ends = clip.start + clip.duration if clip.duration else math.inf
        for stream in source.streams.audio:
            # FFmpeg knows no decoder for some sound, and finds none of it where it begins late: it is left out.
            if stream.codec_context is None or not stream.rate:
                continue
            where = output, stream, clip.begins, ends
            least = _COPIED_SOUND.get(stream.codec_context.codec.canonical_name, math.inf)
            if output.format.name == "matroska" or stream.rate >= least:
                with suppress(ValueError):  # what this file cannot hold
                    self._tracks[stream.index] = _Copied(*where)
            if stream.index not in self._tracks:
                self._tracks[stream.index] = _Compressed(*where)
        self._ready = self._packets()
        self._next = next(self._ready, None)

    def add_until(self, end: float) -> None:
        """What begins before a time in seconds of the clip."""
        while self._next is not None and self._next[0] < end:
            self._output.mux(self._next[1])
            self._next = next(self._ready, None)

    def _packets(self) -> Iterator[tuple[float, Any]]:
        """Packets of the clip and when they begin, in seconds of it."""
        streams = [self._source.streams[number] for number in self._tracks]
        if not streams:
            return
        time = 0.0
        for packet in self._clip.packets(self._source, *streams):
            for time, made in self._tracks[packet.stream.index].packets(packet):
                yield time, made
            if all(track.over for track in self._tracks.values()):
                break
        for track in self._tracks.values():
            yield time, track.last_packets()


class _Copied:
    """A track of sound that is handed on as it is, of the time from `begins` to `ends` in seconds of the file."""

    def __init__(self, output: Any, stream: Any, begins: float, ends: float) -> None:
        self._out = output.add_stream_from_template(stream)
        self._out.metadata.update(stream.metadata)
        self._before, self._length = int(begins / stream.time_base), ends - begins
        self._trimmed = begins > 0
        self._last: float = -math.inf
        self.over = False

    def packets(self, packet: Any) -> Iterator[tuple[float, Any]]:
        if packet.dts is None or packet.pts is None:  # the one that ends a stream
            return
        if (packet.dts - self._before - self._last) * packet.time_base < -_JUMP:
            self._before = packet.dts - int(self._last) - (packet.duration or 1)
        early = packet.dts - self._before <= self._last
        packet.pts, packet.dts, packet.stream = packet.pts - self._before, packet.dts - self._before, self._out
        time = float(packet.pts * packet.time_base)
        self.over = time >= self._length
        if not early and not self.over and (time >= 0 or not self._trimmed):
            self._last = packet.dts
            yield time, packet

    def last_packets(self) -> list[Any]:
        return []


class _Compressed:
    """The same of a track that becomes AAC."""

    def __init__(self, output: Any, stream: Any, begins: float, ends: float) -> None:
        rate = min(_AAC_RATES, key=lambda rate: abs(rate - stream.rate))
        self._layout = _LAYOUTS.get(stream.channels, "stereo")
        self._out = output.add_stream("aac", rate=rate, layout=self._layout)
        self._out.metadata.update(stream.metadata)
        self._begins, self._length = begins, ends - begins
        self._next = 0.0
        self._kind: tuple[Any, ...] = ()
        self._resampler: Any = None
        self.over = False

    def packets(self, packet: Any) -> Iterator[tuple[float, Any]]:
        for frame in _decoded(packet):
            seconds = frame.samples / frame.sample_rate
            time = self._next if frame.time is None else frame.time - self._begins
            if time < self._next - _JUMP:
                self._begins, time = self._begins + time - self._next, self._next
            self.over = time >= self._length
            if time < 0 or self.over or time < self._next - seconds:
                continue
            time = max(time, self._next)
            self._next = time + seconds
            kind = frame.format.name, frame.layout.name, frame.sample_rate
            if kind != self._kind:
                self._kind = kind
                self._resampler = _av().AudioResampler(format="fltp", layout=self._layout, rate=self._out.rate)
            frame.pts, frame.time_base = round(time * frame.sample_rate), Fraction(1, frame.sample_rate)
            yield time, [made for part in self._resampler.resample(frame) for made in self._out.encode(part)]

    def last_packets(self) -> list[Any]:
        return list(self._out.encode(None))
