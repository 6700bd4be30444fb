"""Videos come back with their frames, times, colours and sound."""

from __future__ import annotations

import errno
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from posefr.errors import PoseFRError
from posefr.imagefiles import atomic_file
from posefr.videofiles import VideoClip, write_video

av = pytest.importorskip("av")

FRAMES, WIDTH, HEIGHT, RATE = 30, 192, 112, 25
UNKNOWN = 2  # FFmpeg's AVCOL_SPC_UNSPECIFIED, as for primaries and transfer
TAGS = ("colorspace", "color_range", "color_primaries", "color_trc")


def make(
    path: Path,
    *,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    form: str = "yuv420p",
    codec: str = "libx264",
    tags: tuple[int, int, int, int] = (UNKNOWN, 0, UNKNOWN, UNKNOWN),
    sound: str | None = "aac",
    rate: int = 48000,
    times: list[int] | None = None,
    offset: float = 0.0,
) -> Path:
    """A clip of a smooth pattern that moves, 25 frames a second, and a tone as long."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=RATE, options={"crf": "4"})
        stream.width, stream.height, stream.pix_fmt = width, height, form
        stream.codec_context.time_base = Fraction(1, RATE)
        tone = file.add_stream(sound, rate=rate, layout="stereo") if sound else None
        if tone is not None:
            tone.bit_rate = 128000
        for tag, value in zip(TAGS, tags, strict=True):
            setattr(stream.codec_context, tag, value)
        for index in range(FRAMES):
            wave = 128 + 100 * np.sin((x + y) / 40 + index / 5)
            pixels = np.stack([x * 255 / width, y * 255 / height, wave], -1).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame = frame.reformat(format=form, dst_colorspace=tags[0], dst_color_range=tags[1])
            frame.colorspace, frame.color_range = tags[:2]
            frame.pts = round(offset * RATE) + (index if times is None else times[index])
            frame.time_base = Fraction(1, RATE)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
        if tone is not None:
            for start in range(0, rate * FRAMES // RATE, rate // 50):
                wave = np.sin(np.arange(start, start + rate // 50) * 2 * np.pi * 440 / rate) * 0.3
                heard = av.AudioFrame.from_ndarray(
                    np.stack([wave] * 2).astype(np.float32), format="fltp", layout="stereo"
                )
                heard.sample_rate, heard.pts = rate, round(offset * rate) + start
                file.mux(tone.encode(heard))
            file.mux(tone.encode(None))
    return path


def frames_of(clip: VideoClip) -> Tensor:
    return torch.cat(list(clip.parts()))


def written(clip: VideoClip, target: Path, **options: Any) -> Path:
    write_video(target, clip.parts(), clip, **options)
    return target


def heard(path: Path) -> tuple[str, float, float]:
    """The codec of a file's sound, and when it begins and ends, in seconds."""
    with av.open(str(path)) as file:
        stream = file.streams.audio[0]
        name = stream.codec_context.codec.canonical_name
        frames = list(file.decode(stream))
    return name, frames[0].time, frames[-1].time + frames[-1].samples / frames[-1].sample_rate


KINDS = {
    "untagged": {},
    "bt709": {"tags": (1, 1, 1, 1)},
    "bt601": {"tags": (6, 1, 6, 6)},
    "full range": {"tags": (5, 2, 5, 6), "form": "yuvj420p"},
    "full range, bt709": {"tags": (1, 2, 1, 1), "form": "yuvj420p"},
    "full range, untagged": {"tags": (UNKNOWN, 2, UNKNOWN, UNKNOWN), "form": "yuvj420p"},
    "10 bit hdr": {"tags": (9, 1, 9, 16), "form": "yuv420p10le"},
    "odd size": {"size": (191, 111), "form": "yuv444p"},
    "a width that is no multiple of 32": {"size": (1084, 64)},
}


@pytest.mark.parametrize("kind", KINDS)
def test_frames_and_what_their_colours_mean_come_back(tmp_path: Path, kind: str) -> None:
    clip = VideoClip(make(tmp_path / "in.mp4", **KINDS[kind]))
    before = frames_of(clip)
    assert clip.frames == len(before) == FRAMES
    assert 0.9 < float(before.max()) <= 1
    again = VideoClip(written(clip, tmp_path / "out.mp4", quality=4))
    after = frames_of(again)
    change = after - before
    assert change.square().mean() < 10**-4.4
    assert change.mean((0, 1, 2)).abs().max() < 1.3 / 255, "no cast"
    assert again.times == clip.times
    with again.opened() as out, clip.opened() as source:
        new, old = again.stream(out), clip.stream(source)
        assert [getattr(new.codec_context, tag) for tag in TAGS] == [getattr(old.codec_context, tag) for tag in TAGS]
        assert new.time_base == old.time_base
        assert new.format.components[0].bits == old.format.components[0].bits


def test_the_frames_are_those_that_comfyui_reads(tmp_path: Path) -> None:
    path = make(tmp_path / "in.mp4")
    with av.open(str(path)) as file:
        expected = np.stack([frame.to_ndarray(format="gbrpf32le") for frame in file.decode(video=0)])
    assert np.abs(frames_of(VideoClip(path)).numpy() - expected.clip(0, 1)).max() < 1e-4


def test_a_phones_video_is_turned_upright(tmp_path: Path) -> None:
    lying = make(tmp_path / "in.mp4")
    content = lying.read_bytes()
    upright, turned = (1 << 16, 0, 0, 0, 1 << 16), (0, 1 << 16, 0, (1 << 32) - (1 << 16), 0)  # ISO/IEC 14496-12, tkhd
    first, second = (b"".join(number.to_bytes(4, "big") for number in matrix) for matrix in (upright, turned))
    place = content.index(first, content.index(b"tkhd"))
    (tmp_path / "turned.mp4").write_bytes(content[:place] + second + content[place + len(second) :])
    clip = VideoClip(tmp_path / "turned.mp4")
    frames = frames_of(clip)
    assert torch.equal(frames, frames_of(VideoClip(lying)).rot90(-1, (1, 2)))
    again = frames_of(VideoClip(written(clip, tmp_path / "out.mp4")))
    assert again.shape == (FRAMES, WIDTH, HEIGHT, 3)
    assert (again - frames).square().mean() < 1e-4


def test_frames_keep_irregular_times(tmp_path: Path) -> None:
    times = [index + (index > 10) * 7 + (index > 20) for index in range(FRAMES)]
    clip = VideoClip(make(tmp_path / "in.mp4", times=times))
    again = VideoClip(written(clip, tmp_path / "out.mp4"))
    assert len(frames_of(again)) == FRAMES
    with again.opened() as file:
        step = round(1 / (RATE * again.stream(file).time_base))
    assert [time // step for time in again.times] == times


@pytest.mark.parametrize(
    ("source", "sound", "rate", "target", "kept"),
    [
        ("in.mp4", "aac", 48000, "out.mp4", "aac"),
        ("in.mkv", "libopus", 48000, "out.mkv", "opus"),
        ("in.mkv", "libopus", 48000, "out.mp4", "aac"),
        ("in.mkv", "pcm_s16le", 44100, "out.mov", "aac"),
        ("in.mkv", "pcm_s16le", 192000, "out.mp4", "aac"),
        ("in.wmv", "wmav2", 44100, "out.mp4", "aac"),
        ("in.mp4", "libmp3lame", 32000, "out.m4v", "mp3"),
        ("in.mkv", "libmp3lame", 8000, "out.mp4", "aac"),
        ("in.mov", "pcm_s8", 44100, "out.mkv", "aac"),
    ],
)
def test_sound_is_copied_or_made_to_fit(
    tmp_path: Path, source: str, sound: str, rate: int, target: str, kept: str
) -> None:
    clip = VideoClip(make(tmp_path / source, sound=sound, rate=rate))
    name, start, end = heard(written(clip, tmp_path / target))
    assert name == kept
    assert abs(start) < 0.08  # of WMA the decoder drops the first frame
    assert end == pytest.approx(FRAMES / RATE, abs=0.16)


def test_sound_whose_clock_jumps_back_does_not_stop_the_video(tmp_path: Path) -> None:
    """As in recordings that were joined."""
    first, second = (make(tmp_path / f"{name}.ts", sound="aac", offset=offset) for name, offset in (("a", 9), ("b", 2)))
    (tmp_path / "joined.ts").write_bytes(first.read_bytes() + second.read_bytes())
    clip = VideoClip(tmp_path / "joined.ts")
    count = len(frames_of(clip))
    assert count == 2 * FRAMES
    assert clip.times == sorted(set(clip.times))
    for target in ("out.mp4", "out.mkv"):
        path = written(clip, tmp_path / target)
        assert len(frames_of(VideoClip(path))) == count
        with av.open(str(path)) as file:
            assert file.duration / av.time_base == pytest.approx(2 * FRAMES / RATE, abs=0.2)
        _, start, end = heard(path)
        assert end - start == pytest.approx(2 * FRAMES / RATE, abs=0.25)


def test_a_clock_that_does_not_begin_at_0_leaves_no_gap(tmp_path: Path) -> None:
    clip = VideoClip(make(tmp_path / "in.ts", offset=3600))
    assert len(frames_of(clip)) == FRAMES
    path = written(clip, tmp_path / "out.mp4")
    _, start, _ = heard(path)
    assert start < 0.1
    with av.open(str(path)) as file:
        assert file.duration / av.time_base == pytest.approx(FRAMES / RATE, abs=0.2)


def test_times_that_stand_still_do_not_delay_what_follows(tmp_path: Path) -> None:
    clip = VideoClip(make(tmp_path / "in.mkv"))
    frames_of(clip)
    with pytest.MonkeyPatch.context() as patch:
        decoded = sys.modules[VideoClip.__module__]._decoded

        def standing(packet: Any) -> list[Any]:
            frames = decoded(packet)
            for frame in frames:
                frame.pts -= frame.pts % 120  # of 40 each
            return frames

        patch.setattr(sys.modules[VideoClip.__module__], "_decoded", standing)
        before = clip.times
        assert len(frames_of(clip)) == FRAMES
    assert max(abs(new - old) for new, old in zip(clip.times, before, strict=True)) <= 80
    assert clip.times == sorted(set(clip.times))


@pytest.mark.skipif(not hasattr(av.VideoFrame, "duration"), reason="this PyAV does not tell how long a frame is shown")
def test_the_last_frame_is_shown_as_long(tmp_path: Path) -> None:
    """A still at the end, as of slides."""
    path = tmp_path / "in.gif"
    from PIL import Image

    pictures = [Image.new("RGB", (64, 48), (level, 0, 90)) for level in (20, 120, 220)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=[100, 100, 2000])
    clip = VideoClip(path)
    assert len(frames_of(clip)) == 3
    with av.open(str(written(clip, tmp_path / "out.mp4"))) as file:
        assert file.duration / av.time_base == pytest.approx(2.2, abs=0.011)


def test_a_video_of_rgb_is_written_as_players_expect(tmp_path: Path) -> None:
    clip = VideoClip(make(tmp_path / "in.mp4", codec="libx264rgb", form="rgb24", tags=(0, 2, UNKNOWN, UNKNOWN)))
    again = VideoClip(written(clip, tmp_path / "out.mp4", quality=4))
    assert (frames_of(again) - frames_of(clip)).square().mean() < 10**-3.5
    with again.opened() as file:
        assert again.stream(file).codec_context.colorspace == 1


def test_a_silent_video_stays_silent(tmp_path: Path) -> None:
    clip = VideoClip(make(tmp_path / "in.mp4", sound=None))
    with av.open(str(written(clip, tmp_path / "out.mp4"))) as file:
        assert not file.streams.audio
        assert len(list(file.decode(video=0))) == FRAMES


@pytest.mark.parametrize("sound", ["aac", "pcm_s16le"])
@pytest.mark.parametrize("as_bytes", [False, True])
def test_a_clip_within_a_file(tmp_path: Path, sound: str, as_bytes: bool) -> None:
    path = make(tmp_path / "in.mkv", sound=sound)
    source = io.BytesIO(path.read_bytes()) if as_bytes else path
    clip = VideoClip(source, start=0.4, duration=0.48)
    assert clip.frames == 12
    assert torch.equal(frames_of(clip), frames_of(VideoClip(path))[10:22])
    assert clip.times[0] == 0
    out = written(clip, tmp_path / "out.mp4")
    assert len(frames_of(VideoClip(out))) == 12
    _, start, end = heard(out)
    assert 0 <= start < 0.03
    assert end == pytest.approx(0.48, abs=0.05)
    assert len(frames_of(VideoClip(source, start=0.4))) == FRAMES - 10


@pytest.mark.parametrize("name", ["in.ts", "in.avi"])
def test_a_clip_within_a_file_that_is_hard_to_seek_in(tmp_path: Path, name: str) -> None:
    """In MPEG-TS a seek finds any packet; AVI does not tell when frames of H.264 are shown."""
    path = make(tmp_path / name, sound=None)
    whole = frames_of(VideoClip(path))
    assert len(whole) == FRAMES
    clip = VideoClip(path, start=0.4 + VideoClip(path).begins, duration=0.4)
    assert clip.frames == 10
    assert torch.equal(frames_of(clip), whole[10:20])
    beyond = VideoClip(path, start=9.0)
    assert list(beyond.parts()) == []


def test_parts_are_as_long_as_memory_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = VideoClip(make(tmp_path / "in.mp4"))
    monkeypatch.setattr("posefr.videofiles._PART_PIXELS", 7 * WIDTH * HEIGHT + 5)
    assert [len(part) for part in clip.parts()] == [7, 7, 7, 7, 2]
    monkeypatch.setattr("posefr.videofiles._PART_PIXELS", 5)
    assert len(list(clip.parts())) == FRAMES


def test_damage_costs_frames_not_the_video(tmp_path: Path) -> None:
    whole = make(tmp_path / "in.mkv", sound=None).read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 2 : len(whole) // 2 + 600] = bytes(600)
    (tmp_path / "damaged.mkv").write_bytes(damaged)
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    for name in ("damaged.mkv", "cut.mkv"):
        clip = VideoClip(tmp_path / name)
        count = len(frames_of(clip))
        assert 5 < count <= FRAMES
        assert len(frames_of(VideoClip(written(clip, tmp_path / "out.mp4")))) == count


def test_what_is_no_video_is_told(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("hello")
    with pytest.raises(PoseFRError, match=r"text\.mp4 cannot be read as a video"):
        VideoClip(tmp_path / "text.mp4")
    with pytest.raises(PoseFRError, match=r"absent\.mp4 cannot be read as a video: .*No such file"):
        VideoClip(tmp_path / "absent.mp4")
    with pytest.raises(PoseFRError, match="The video cannot be read"):
        VideoClip(io.BytesIO(b"hello"))
    with av.open(str(tmp_path / "tone.m4a"), "w") as file:
        tone = file.add_stream("aac", rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4800), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 48000, 0
        file.mux(tone.encode(frame))
        file.mux(tone.encode(None))
    with pytest.raises(PoseFRError, match=r"tone\.m4a holds no video"):
        VideoClip(tmp_path / "tone.m4a")


@contextmanager
def full_disk(path: Path) -> Iterator[Any]:
    class File(io.BytesIO):
        def write(self, data: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    with atomic_file(path):
        yield File()


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    clip = VideoClip(make(tmp_path / "in.mp4"))
    with pytest.raises(PoseFRError, match=r"out\.gif cannot be written; expected a name ending in \.mp4"):
        write_video(tmp_path / "out.gif", clip.parts(), clip)
    (tmp_path / "out.mp4").write_text("what was there before")

    def stopped() -> Any:
        yield next(iter(clip.parts()))
        raise RuntimeError("the user's wish")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[VideoClip.__module__], "atomic_file", full_disk)
        with pytest.raises(PoseFRError, match=r"out\.mp4 cannot be written: No space"):
            write_video(tmp_path / "out.mp4", clip.parts(), clip)
    with pytest.raises(RuntimeError, match="the user's wish"):
        write_video(tmp_path / "out.mp4", stopped(), clip)
    assert (tmp_path / "out.mp4").read_text() == "what was there before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]


def test_without_pyav_it_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(PoseFRError, match="pip install av"):
        VideoClip(tmp_path / "in.mp4")
