"""The detector on a real photo: scikit-image's astronaut, whose face is near x 177-272, y 54-180."""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor

from posefr.detection import Detector, detector_names, load_detector
from posefr.detection.inference import Candidates
from posefr.detection.networks import build_network
from posefr.errors import PoseFRError
from posefr.faces import Faces

ASTRONAUT_EYES = torch.tensor([[203.0, 102.0], [248.0, 104.0]])
EYE_DISTANCE = 45.0


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def detector() -> Detector:
    return load_detector("bundled")


@pytest.fixture(scope="module")
def astronaut() -> Tensor:
    data = pytest.importorskip("skimage.data", reason="scikit-image brings the photo")
    return torch.from_numpy(data.astronaut()).float()[None] / 255


def assert_is_the_astronaut(faces: Faces, tolerance: float = 0.2) -> None:
    assert len(faces) == 1
    assert (faces.landmarks[0, :2] - ASTRONAUT_EYES).norm(dim=1).max() < tolerance * EYE_DISTANCE
    x0, y0, x1, y1 = faces.box[0].tolist()
    assert 155 < x0 < 200
    assert 35 < y0 < 85
    assert 250 < x1 < 295
    assert 155 < y1 < 200


def test_finds_the_astronaut_with_pose(detector, astronaut):
    faces = detector.detect(astronaut)
    assert_is_the_astronaut(faces)
    assert faces.image_size == (512, 512)
    assert faces.score[0] > 0.8
    assert faces.pose[0].abs().max() < 25


def test_a_working_size_gives_image_coordinates(detector, astronaut):
    assert_is_the_astronaut(detector.detect(astronaut, size=256))
    large = torch.nn.functional.interpolate(astronaut.permute(0, 3, 1, 2), scale_factor=3, mode="bilinear")
    faces = detector.detect(large.permute(0, 2, 3, 1), size=512)
    assert (faces.landmarks[0, :2] / 3 - ASTRONAUT_EYES).norm(dim=1).max() < 0.2 * EYE_DISTANCE
    assert faces.image_size == (1536, 1536)


def test_a_face_that_fills_the_picture_is_found_once(detector, astronaut):
    part = astronaut[:, 42:182, 155:295].permute(0, 3, 1, 2)
    picture = torch.nn.functional.interpolate(part, size=(640, 640), mode="bicubic").clamp(0, 1)
    faces = detector.detect(picture.permute(0, 2, 3, 1))
    assert len(faces) == 1
    eyes = faces.landmarks[0, :2] * (140 / 640) + torch.tensor([155.0, 42.0])
    assert (eyes - ASTRONAUT_EYES).norm(dim=1).max() < 0.2 * EYE_DISTANCE
    assert faces.size[0] > 256


def test_a_face_far_larger_than_what_the_network_learnt_is_measured_whole(detector, astronaut):
    part = astronaut[:, :300, 75:375].permute(0, 3, 1, 2)
    picture = torch.nn.functional.interpolate(part, size=(3072, 3072), mode="bicubic").clamp(0, 1).permute(0, 2, 3, 1)
    shrunk, whole = detector.detect(picture), detector.detect(picture, size=0)
    assert len(shrunk) == len(whole) == 1
    torch.testing.assert_close(whole.box, shrunk.box, rtol=0, atol=0.05 * float(shrunk.size[0]))


def test_a_face_that_two_views_measure_on_two_sides_of_the_limit_is_not_lost(monkeypatch):
    def find(_, images, __):
        half = images.shape[3] < 640
        box = torch.tensor([[25.0, 25.0, 150.0, 152.0]]) if half else torch.tensor([[48.0, 48.0, 310.0, 312.0]])
        return [Candidates(box, torch.zeros(1, 5, 2), torch.tensor([0.9 if half else 0.8]))]

    monkeypatch.setattr("posefr.detection.detector.find_candidates", find)
    faces = Detector("of a fake network", torch.nn.Conv2d(3, 1, 1)).detect(torch.zeros(1, 640, 640, 3))
    assert faces.score.tolist() == pytest.approx([0.9])


def test_a_batch_equals_its_single_images(detector, astronaut):
    images = torch.cat((astronaut, torch.zeros_like(astronaut), astronaut.flip(2), astronaut * 0.5))
    together = detector.detect(images, batch=3)
    for frame in range(4):
        alone = detector.detect(images[frame : frame + 1])
        chosen = together[together.frame == frame]
        assert len(chosen) == len(alone)
        torch.testing.assert_close(chosen.box, alone.box, atol=1e-2, rtol=0)
        torch.testing.assert_close(chosen.landmarks, alone.landmarks, atol=1e-2, rtol=0)
        torch.testing.assert_close(chosen.score, alone.score, atol=1e-4, rtol=0)
    assert together.frames == 4
    assert set(together.frame.tolist()) == {0, 2, 3}


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_angles_find_a_turned_face_once_and_its_eyes_by_name(detector, astronaut, turns):
    turned = torch.rot90(astronaut, turns, dims=(1, 2))
    # Four views of a picture give four times the chance of a false find; those of the bundled detector score below 0.7.
    faces = detector.detect(turned, angles=(0, 90, 180, 270), threshold=0.7)
    assert len(faces) == 1
    x, y = ASTRONAUT_EYES.unbind(1)
    expected = {0: (x, y), 1: (y, 512 - x), 2: (512 - x, 512 - y), 3: (512 - y, x)}[turns]
    error = (faces.landmarks[0, :2] - torch.stack(expected, dim=1)).norm(dim=1).max()
    assert error < 0.2 * EYE_DISTANCE
    roll = (float(faces.pose[0, 2]) + 90 * turns + 180) % 360 - 180
    assert abs(roll) < 15


def test_tiles_find_faces_that_the_shrunk_picture_hides_each_once(detector, astronaut):
    shrunk = (154, 154)
    small = torch.nn.functional.interpolate(astronaut.permute(0, 3, 1, 2), shrunk, antialias=True, mode="bicubic")
    small = small.clamp(0, 1)[0, :, :80, :110].permute(1, 2, 0)  # a head of about 29 px
    picture = torch.full((1, 1500, 2400, 3), 0.5)
    corners = [(150, 200), (530, 180), (1240, 700), (2200, 1380), (1750, 440), (560, 950)]  # some across the seams
    for x, y in corners:
        picture[0, y : y + 80, x : x + 110] = small
    eyes = (ASTRONAUT_EYES * 0.3 + torch.tensor(corners)[:, None]).sort(dim=0).values
    assert len(detector.detect(picture, size=640)) < len(corners)
    faces = detector.detect(picture, size=640, tile=512)
    assert len(faces) == len(corners)
    assert (faces.landmarks[:, :2].sort(dim=0).values - eyes).norm(dim=2).max() < 0.3 * 0.3 * EYE_DISTANCE
    turned = detector.detect(torch.rot90(picture, 1, dims=(1, 2)), size=640, tile=512, angles=(270,))
    assert len(turned) == len(corners)


def test_a_search_in_tiles_can_be_stopped_at_every_square(detector, astronaut):
    picture = astronaut.repeat(1, 2, 2, 1)  # 1024 px: 25 squares
    told = []
    detector.detect(picture, tile=256, on_chunk=lambda done, total: told.append((done, total)))
    assert told == [(0, 1)] * 25 + [(1, 1)]


def test_what_is_not_finite_beside_a_small_face_does_not_hide_it(detector, astronaut):
    small = torch.nn.functional.interpolate(astronaut.permute(0, 3, 1, 2), (230, 230), antialias=True, mode="bicubic")
    picture = torch.full((1, 1400, 1400, 3), 0.5)
    picture[0, 400:630, 600:830] = small.clamp(0, 1)[0].permute(1, 2, 0)
    (face,) = detector.detect(picture).box.round().int().tolist()
    for value in (float("nan"), float("inf")):
        spoilt = picture.clone()
        spoilt[0, face[1] - 4, face[0] + 10] = value
        assert len(detector.detect(spoilt)) == 1


def test_values_out_of_range_neither_make_nor_hide_faces(detector, astronaut):
    spot = astronaut.clone()
    spot[:, 400:410, 400:410] = 65504  # as an HDR picture may hold
    spot[:, 420:430, 400:410] = -1e6
    found, expected = detector.detect(spot), detector.detect(spot.clamp(0, 1))
    assert len(found) == 1
    assert torch.equal(found.box, expected.box)
    assert torch.equal(found.landmarks, expected.landmarks)


def test_tiles_change_nothing_in_a_picture_that_is_seen_in_full(detector, astronaut):
    plain, tiled = detector.detect(astronaut), detector.detect(astronaut, tile=128)
    assert torch.equal(plain.box, tiled.box)


def test_chunks_are_reported_and_can_be_interrupted(detector, astronaut):
    seen: list[tuple[int, int]] = []
    images = astronaut[:, ::4, ::4].expand(3, -1, -1, -1)
    detector.detect(images, batch=2, angles=(0, 180), on_chunk=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]

    class StopError(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise StopError

    with pytest.raises(StopError):
        detector.detect(images, on_chunk=stop)


def test_no_face_gives_no_faces(detector):
    faces = detector.detect(torch.full((2, 40, 70, 3), 0.5))
    assert len(faces) == 0
    assert faces.frames == 2
    assert faces.image_size == (40, 70)
    assert len(detector.detect(torch.zeros(0, 40, 70, 3))) == 0


def test_any_picture_size_works(detector):
    for height, width in ((1, 1), (7, 300), (33, 65)):
        detector.detect(torch.rand(1, height, width, 3))


@pytest.mark.parametrize(
    ("images", "options", "words"),
    [
        (torch.zeros(8, 8, 3), {}, "shape"),
        (torch.zeros(1, 8, 8, 4), {}, "shape"),
        (torch.zeros(1, 8, 8, 3, dtype=torch.uint8), {}, "float"),
        (torch.zeros(1, 8, 8, 3), {"threshold": 1.5}, "threshold"),
        (torch.zeros(1, 8, 8, 3), {"batch": 0}, "batch"),
        (torch.zeros(1, 8, 8, 3), {"angles": (45,)}, "angles"),
        (torch.zeros(1, 8, 8, 3), {"angles": ()}, "angles"),
        (torch.zeros(1, 8, 8, 3), {"tile": 64}, "Tiles of 64 px"),
    ],
)
def test_wrong_arguments_are_named(detector, images, options, words):
    with pytest.raises(PoseFRError, match=words):
        detector.detect(images, **options)


def test_names(tmp_path):
    assert detector_names()[:3] == ["bundled", "mobile0.25", "resnet50"]
    (tmp_path / "my_RetinaFace.safetensors").touch()
    (tmp_path / "detection_Resnet50_Final.pth").touch()
    (tmp_path / "yolo.pth").touch()
    (tmp_path / "RetinaFace_folder.pth").mkdir()
    assert detector_names([tmp_path, tmp_path / "absent"])[3:] == ["my_RetinaFace.safetensors"]


def test_the_bundled_file_is_small_and_says_what_it_is(detector):
    from safetensors import safe_open

    from posefr.detection.releases import BUNDLED

    assert os.path.getsize(BUNDLED) <= 2 * 2**20
    with safe_open(BUNDLED, framework="pt") as file:
        metadata = file.metadata()
    assert metadata["architecture"] == "mobile0.25"
    assert "non-commercial" in metadata["licence"]


def test_candidates_agree_with_facexlibs_own_decoding(astronaut):
    """Ours against facexlib's priors and decoding, on the answers of random weights."""
    from facexlib.detection.retinaface_utils import PriorBox, batched_decode, batched_decode_landm

    from posefr.detection.inference import network_input
    from posefr.detection.priors import decode_boxes, decode_landmarks, prior_boxes

    torch.manual_seed(3)
    network = build_network("mobile0.25")
    picture = astronaut[:, :301, :203].permute(0, 3, 1, 2)
    with torch.inference_mode():
        boxes, _, landmarks = network(network_input(picture))
    theirs = PriorBox(network.cfg, image_size=(301, 203)).forward()[None]
    scale = torch.tensor([203.0, 301.0])
    ours = prior_boxes(301, 203)
    their_boxes = batched_decode(boxes, theirs, [0.1, 0.2]) * scale.repeat(2)
    their_landmarks = batched_decode_landm(landmarks, theirs, [0.1, 0.2]) * scale.repeat(5)
    torch.testing.assert_close(decode_boxes(boxes, ours), their_boxes, atol=1e-2, rtol=1e-4)
    torch.testing.assert_close(decode_landmarks(landmarks, ours).flatten(-2), their_landmarks, atol=1e-2, rtol=1e-4)
    bgr = picture.flip(1) * 255 - torch.tensor([104.0, 117.0, 123.0]).view(1, 3, 1, 1)
    torch.testing.assert_close(network_input(picture), bgr)
