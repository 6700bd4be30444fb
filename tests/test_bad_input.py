"""Input that nobody should hand in: it is done as far as it goes, or refused in one sentence that says what to do.

Images of odd sizes and values, weights that are none, folders and disks that take nothing. The nodes' own refusals are
in test_nodes.py, those of image files in test_imagefiles.py; tests/fuzz.py tries what nobody thinks of.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import SMALL, awake
from safetensors.torch import load_file, save_file

import posefr
from posefr import cli
from posefr.errors import PoseFRError
from posefr.faces import Faces
from posefr.imagefiles import Picture, read_picture, write_picture
from posefr.restoration.checkpoint import read_metadata, save_network
from posefr.restoration.network import PoseFRNet

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = ROOT / "posefr" / "weights"
PHOTO = pytest.importorskip("skimage.data", reason="needs scikit-image, which brings the astronaut's photo")


@pytest.fixture(scope="module")
def detector():
    return posefr.load_detector("bundled", device="cpu")


@pytest.fixture(scope="module")
def restorer(tmp_path_factory):
    path = tmp_path_factory.mktemp("small") / "small.safetensors"
    torch.manual_seed(0)
    save_network(awake(PoseFRNet(SMALL)), path, {})
    return posefr.load_restorer(path, device="cpu")


@pytest.fixture(scope="module")
def photo() -> torch.Tensor:
    """The astronaut's head and shoulders, [1, 256, 256, 3]."""
    return torch.from_numpy(PHOTO.astronaut()[:256, 96:352] / 255.0).float()[None]


def one_sentence(error: PoseFRError) -> None:
    said = str(error)
    assert "\n" not in said
    assert 20 < len(said) < 600
    assert said.endswith((".", ")"))


# Images


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (30, 20000), (20000, 30)])
@pytest.mark.parametrize("working", [640, 0])
def test_images_of_any_shape_come_back_as_large_as_they_came(detector, restorer, size, working):
    images = torch.rand(1, *size, 3, generator=torch.Generator().manual_seed(0))
    out = posefr.restore_images(images, detector=detector, restorer=restorer, size=working)
    assert out.shape == images.shape
    assert out.isfinite().all()


def test_a_batch_of_no_images_gives_none_back(detector, restorer):
    out = posefr.restore_images(torch.zeros(0, 64, 64, 3), detector=detector, restorer=restorer)
    assert out.shape == (0, 64, 64, 3)


@pytest.mark.parametrize(
    "shape", [(1, 0, 64, 3), (1, 64, 0, 3), (1, 64, 64, 1), (1, 64, 64, 2), (1, 64, 64, 4), (64, 64, 3)]
)
def test_images_of_another_shape_are_refused(detector, restorer, shape):
    with pytest.raises(PoseFRError, match="shape") as raised:
        posefr.restore_images(torch.zeros(shape), detector=detector, restorer=restorer)
    one_sentence(raised.value)


def test_whole_numbers_are_refused(detector, restorer):
    with pytest.raises(PoseFRError, match=r"torch\.uint8") as raised:
        posefr.restore_images(torch.zeros(1, 64, 64, 3, dtype=torch.uint8), detector=detector, restorer=restorer)
    one_sentence(raised.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 7.0, -7.0])
def test_pixels_that_are_no_colours_hide_no_face_and_stay_where_no_face_is(detector, restorer, photo, value):
    images = photo.clone()
    images[0, -3:] = value
    clean = posefr.restore_images(photo, detector=detector, restorer=restorer)
    out = posefr.restore_images(images, detector=detector, restorer=restorer)
    changed = (clean != photo).any(3)
    assert changed.any()
    assert not changed[0, -8:].any()  # the face is elsewhere
    assert torch.equal(out[0, -3:].nan_to_num(99), images[0, -3:].nan_to_num(99))
    assert (out[0, :-8] - clean[0, :-8]).abs().mean() < 0.2 * (clean[0, :-8] - photo[0, :-8]).abs().mean()


def test_a_face_with_holes_is_restored_as_if_they_were_black(detector, restorer, photo):
    (face,) = detector.detect(photo).to_list()
    x, y = (round(sum(values) / 5) for values in zip(*face.landmarks, strict=True))
    images = photo.clone()
    images[0, y : y + 2, x : x + 2] = float("nan")
    faces = detector.detect(photo)
    crops = posefr.crop_faces(images, faces, size=64)
    restored = restorer.restore(crops.images)
    out, mask = posefr.paste_faces(images, crops, restored)
    assert out[0, y, x].isfinite().all()
    assert mask[0, y, x] > 0.9


def test_half_precision_is_done_in_full_and_comes_back_as_it_came(detector, restorer, photo):
    full = posefr.restore_images(photo, detector=detector, restorer=restorer)
    half = posefr.restore_images(photo.half(), detector=detector, restorer=restorer)
    assert half.dtype == torch.float16
    assert (half.float() - full).abs().mean() < 2e-3


# Faces and masks that do not fit


def faces_at(*corners: tuple[float, float], side: float = 20.0, size: tuple[int, int] = (64, 64)) -> Faces:
    points = torch.tensor([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]]) * side
    corner = torch.tensor(corners).float()
    return Faces.make(
        frame=torch.zeros(len(corners), dtype=torch.int64),
        box=torch.cat([corner, corner + side], 1),
        landmarks=corner[:, None] + points,
        score=torch.ones(len(corners)),
        image_size=size,
        frames=1,
    )


def test_faces_outside_the_image_change_nothing(restorer):
    images = torch.rand(1, 64, 64, 3)
    faces = faces_at((-500.0, -500.0), (64.0 + 80, 10.0), (10.0, 9e6))
    crops = posefr.crop_faces(images, faces, size=restorer.size, frame=restorer.frame)
    assert crops.images.isfinite().all()
    out, mask = posefr.paste_faces(images, crops, restorer.restore(crops.images))
    assert torch.equal(out, images)
    assert not mask.any()


def test_faces_without_extent_are_refused_or_harmless(restorer):
    images = torch.rand(1, 64, 64, 3)
    for side in (0.0, 1e-6, 1e6):
        try:
            crops = posefr.crop_faces(images, faces_at((20.0, 20.0), side=side), size=restorer.size)
            out, _ = posefr.paste_faces(images, crops, restorer.restore(crops.images))
        except PoseFRError as error:
            one_sentence(error)
        else:
            assert out.isfinite().all()


def test_landmarks_that_are_no_numbers_are_refused():
    faces = faces_at((20.0, 20.0))
    faces.landmarks[0, 2, 1] = float("nan")
    with pytest.raises(PoseFRError, match="finite") as raised:
        posefr.crop_faces(torch.rand(1, 64, 64, 3), faces)
    one_sentence(raised.value)


def test_crops_masks_and_faces_that_do_not_belong_together_are_refused(restorer):
    images = torch.rand(1, 64, 64, 3)
    crops = posefr.crop_faces(images, faces_at((5.0, 5.0), (30.0, 30.0)), size=32)
    white = torch.ones(2, 32, 32, 3)
    wrong = [
        lambda: posefr.paste_faces(images, crops, white[:1]),
        lambda: posefr.paste_faces(images, crops, white[:, :16]),
        lambda: posefr.paste_faces(images, crops, white, mask=torch.ones(1, 63, 64)),
        lambda: posefr.paste_faces(images, crops, white, mask=torch.ones(3, 32, 32)),
        lambda: posefr.paste_faces(images[:, :50], crops, white),
        lambda: posefr.paste_faces(images, crops, white * float("nan")),
        lambda: posefr.crop_faces(images.repeat(2, 1, 1, 1), crops.faces),
    ]
    for call in wrong:
        with pytest.raises(PoseFRError) as raised:
            call()
        one_sentence(raised.value)


# Weights


class Malicious:
    """Unpickled by a reader that runs code, it leaves a file behind."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return (Path.touch, (self.canary,))


@pytest.fixture
def files(tmp_path) -> dict[str, Path]:
    """Weights that are none, or not what their name says."""
    restorer, detector = (WEIGHTS / f"{name}.safetensors" for name in ("posefr-256", "detector"))
    made = {
        "truncated.safetensors": restorer.read_bytes()[:100_000],
        "cut in its header.safetensors": detector.read_bytes()[:1000],
        "empty.safetensors": b"",
        "empty.pth": b"",
        "text.pth": b"<html>404 Not Found</html>",
        "renamed.pth": restorer.read_bytes(),
        "\u5199\u771f \U0001f600.safetensors": b"\0" * 64,
    }
    torch.save({"weights": torch.zeros(2)}, tmp_path / "renamed.safetensors")
    torch.save({"params_ema": [1, 2, 3]}, tmp_path / "no tensors.pth")
    torch.save(torch.zeros(3), tmp_path / "a tensor.pth")
    torch.save({"a": {"b": torch.zeros(3)}}, tmp_path / "another network.pth")
    (tmp_path / "malicious.pth").write_bytes(pickle.dumps({"state_dict": Malicious(tmp_path / "canary")}))
    torch.save({"params": Malicious(tmp_path / "canary")}, tmp_path / "malicious zip.pth")
    (tmp_path / "a folder.safetensors").mkdir()
    for name, content in made.items():
        (tmp_path / name).write_bytes(content)
    return {path.name: path for path in tmp_path.iterdir()}


@pytest.mark.filterwarnings("ignore")  # torch's, of old pickles
@pytest.mark.parametrize("load", [posefr.load_restorer, posefr.load_detector], ids=["restorer", "detector"])
def test_files_that_are_no_weights_are_refused_by_name_and_run_nothing(files, load, tmp_path):
    for name, path in files.items():
        with pytest.raises(PoseFRError) as raised:
            load(path, device="cpu")
        one_sentence(raised.value)
        assert name in str(raised.value), name
    assert not (tmp_path / "canary").exists()


def test_a_restorers_and_a_detectors_weights_are_told_apart():
    with pytest.raises(PoseFRError, match=r"detector\.safetensors holds no network that is known") as raised:
        posefr.load_restorer(WEIGHTS / "detector.safetensors", device="cpu")
    one_sentence(raised.value)
    with pytest.raises(PoseFRError, match=r"posefr-256\.safetensors is no face detector") as raised:
        posefr.load_detector(WEIGHTS / "posefr-256.safetensors", device="cpu")
    one_sentence(raised.value)


@pytest.mark.parametrize(
    "change",
    [
        {"prior": {"4": 10**9, "8": 10**9}},
        {"blocks": {"4": 10**12, "8": 1, "16": 1, "32": 1}},
        {"blocks": {"4": -1, "8": 1, "16": 1, "32": 1}},
        {"size": 2**40},
        {"size": "64"},
        {"size": 10**400},
        {"style_channels": 2**62},
        {"style_channels": 0},
        {"conditioned": -5},
        {"prior": [1, 2, 3]},
        {"prior": None},
        {"unknown": 1},
    ],
    ids=str,
)
def test_a_configuration_that_asks_for_too_much_is_refused_at_once(tmp_path, change):
    path = tmp_path / "changed.safetensors"
    save_network(awake(PoseFRNet(SMALL)), path, {})
    metadata = read_metadata(path)
    configuration = json.loads(metadata["configuration"])
    for key, value in change.items():
        old = configuration.get(key)
        configuration[key] = {**old, **value} if isinstance(old, dict) and isinstance(value, dict) else value
    save_file(load_file(path), path, {**metadata, "configuration": json.dumps(configuration)})
    with pytest.raises(PoseFRError, match=r"changed\.safetensors") as raised:
        posefr.load_restorer(path, device="cpu")
    one_sentence(raised.value)


@pytest.mark.parametrize("key", ["configuration", "provenance"])
@pytest.mark.parametrize("text", ["", "{", "[]", "7", "null", '"x"', "[" * 100_000, "\U0001f600"])
def test_metadata_that_is_no_json_is_refused(tmp_path, key, text):
    path = tmp_path / "changed.safetensors"
    save_network(awake(PoseFRNet(SMALL)), path, {})
    save_file(load_file(path), path, {**read_metadata(path), key: text})
    if (key, text) == ("provenance", "[]"):  # as good as none
        assert posefr.load_restorer(path, device="cpu").provenance == {}
        return
    with pytest.raises(PoseFRError, match=r"changed\.safetensors") as raised:
        posefr.load_restorer(path, device="cpu")
    one_sentence(raised.value)


# Names and places


LONG = ["x" * 300, "x" * 5000, "/".join(["long"] * 2000)]


@pytest.mark.parametrize("name", LONG, ids=["300", "5000", "10000 deep"])
def test_names_too_long_for_any_disk_are_refused(tmp_path, name):
    for load in (posefr.load_restorer, posefr.load_detector):
        with pytest.raises(PoseFRError):
            load(name + ".safetensors", device="cpu")
    with pytest.raises(PoseFRError, match="cannot be read: File name too long"):
        read_picture(tmp_path / f"{name}.png")
    with pytest.raises(PoseFRError, match="cannot be written: File name too long"):
        write_picture(tmp_path / f"{name}.png", Picture(np.zeros((2, 2, 3), np.uint8)))
    assert cli.main(["detect", str(tmp_path / f"{name}.png")]) == cli.SOME_FAILED


def test_the_longest_name_that_a_disk_takes_is_written(tmp_path):
    longest = os.pathconf(tmp_path, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
    for name in ("x" * (longest - 4) + ".png", "\u5199" * ((longest - 4) // 3) + ".png"):
        write_picture(tmp_path / name, Picture(np.zeros((2, 2, 3), np.uint8)))
        assert read_picture(tmp_path / name).pixels.shape == (2, 2, 3)


# Run by a user who may write nowhere, since no permission stops root. All is imported before: it may be root's alone.
AS_NOBODY = """
import os, sys
from pathlib import Path
import numpy, torch, posefr, urllib.request
from posefr.imagefiles import Picture, write_picture

def refuse(*a, **k):
    raise AssertionError("the network was asked although nothing can be kept")

urllib.request.urlopen = refuse
folder = Path(sys.argv[1])

def tried(call):
    try:
        return call()
    except posefr.PoseFRError as error:
        return error

def run():
    return [
        posefr.load_restorer("mine.safetensors", device="cpu", folders=[folder]).size,
        tried(lambda: posefr.load_detector("mobile0.25", folders=[folder / "absent"], download=True)),
        tried(lambda: write_picture(folder / "out.png", Picture(numpy.zeros((8, 8, 3), numpy.uint8)))),
    ]

posefr.load_detector("bundled", device="cpu")
tried(lambda: write_picture(folder.parent / "out.png", Picture(numpy.zeros((8, 8, 3), numpy.uint8))))
posefr.load_restorer("mine.safetensors", device="cpu", folders=[folder])
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
print(*run(), sep="\\n")
"""


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX permissions")
def test_a_models_folder_that_is_read_only_is_read_and_named_when_it_has_to_be_written():
    closed = [str(path) for path in (ROOT / "posefr" / "weights").parents if path.stat().st_mode & 0o005 != 0o005]
    if os.geteuid() == 0 and closed:
        pytest.skip(f"root runs this as nobody, who may not read {closed[-1]}")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "models")
        folder.mkdir()
        save_network(awake(PoseFRNet(SMALL)), folder / "mine.safetensors", {})
        (folder / "mine.safetensors").chmod(0o644)
        folder.chmod(0o555)
        Path(place).chmod(0o755)
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", AS_NOBODY, str(folder)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        folder.chmod(0o755)
        assert done.returncode == 0, done.stderr
        size, absent, unwritten = done.stdout.strip().splitlines()
        assert size == "64"
        assert f"{folder / 'absent'} cannot be written to" in absent
        assert "fetch https://" in absent
        assert "by hand" in absent
        assert unwritten == f"{folder / 'out.png'} cannot be written: Permission denied."
        assert [path.name for path in folder.iterdir()] == ["mine.safetensors"]


# A disk that is full, as far as a process can have one to itself: files may grow to 20 KB and no further.
WITHOUT_ROOM = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
from posefr import cli
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX limits")
def test_a_disk_without_room_is_named_and_what_was_there_stays(tmp_path):
    rng = np.random.default_rng(0)
    large, small = (rng.integers(0, 256, (side, side, 3)).astype(np.uint8) for side in (200, 20))
    write_picture(tmp_path / "in" / "large.png", Picture(large))
    write_picture(tmp_path / "in" / "small.png", Picture(small))
    out = tmp_path / "out"
    write_picture(out / "large.png", Picture(small))
    before = (out / "large.png").read_bytes()
    report = tmp_path / "report.json"
    command = [
        sys.executable,
        "-c",
        WITHOUT_ROOM,
        "restore",
        str(tmp_path / "in"),
        "-o",
        str(out),
        "--report",
        str(report),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == cli.SOME_FAILED, done.stderr
    assert f"{out / 'large.png'} cannot be written: File too large." in done.stderr
    assert (out / "large.png").read_bytes() == before
    assert sorted(path.name for path in out.iterdir()) == ["large.png", "small.png"]
    assert json.loads(report.read_text())["failed"] == 1
