"""Training: losses, discriminator, data, and a run that learns, stops on time and resumes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from fakes import FakeDetector
from networks import SMALL, awake

from posefr.errors import PoseFRError
from posefr.layout import channels_last
from posefr.restoration.checkpoint import load_network, save_network
from posefr.restoration.network import CONFIGURATIONS, PoseFRNet
from posefr.training.__main__ import main
from posefr.training.card import write_card
from posefr.training.data import FaceCrops, PairLoader, load_crops
from posefr.training.degradation import SEVERITIES
from posefr.training.journal import plot_losses, read_log
from posefr.training.processes import Processes
from posefr.training.recipe import LOSSES, Recipe
from posefr.training.refining import SquarePool, refine_a_quarter
from posefr.training.start import start_network
from posefr.training.trainer import _Trainer, train

CPU = Processes(torch.device("cpu"))


@pytest.fixture
def detector(monkeypatch) -> FakeDetector:
    fake = FakeDetector()

    def load(name, *, device=None):
        fake.device = device
        return fake

    monkeypatch.setattr("posefr.detection.load_detector", load)
    return fake


@pytest.fixture
def crops() -> FaceCrops:
    rng = np.random.default_rng(0)
    images = [
        cv2.resize(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8), (64, 64), interpolation=cv2.INTER_CUBIC)
        for _ in range(6)
    ]
    points = np.array([[24, 30], [40, 30], [32, 38], [26, 46], [38, 46]], np.float32)
    return FaceCrops(np.stack(images), np.ones(6), np.stack([points] * 6))


def test_pairs_are_degraded_targets_and_clean_ones_are_their_own(crops):
    for clean in (0.0, 1.0):
        loader = PairLoader(crops, batch=4, seed=0, clean=clean, workers=1)
        batch = next(iter(loader))
        loader.close()
        assert batch["degraded"].shape == batch["target"].shape == (4, 3, 64, 64)
        assert torch.equal(batch["degraded"], batch["target"]) == (clean == 1.0)


def test_degradations_are_drawn_from_the_severities_asked_for(crops):
    errors = []
    for names in (["mild"], ["mild", "severe"], ["severe"]):
        severities = [SEVERITIES[name] for name in names]
        # Of several workers now one is first, now another.
        loader = PairLoader(crops, batch=32, seed=0, severities=severities, clean=0.0, workers=1)
        batch = next(iter(loader))
        loader.close()
        errors.append((batch["degraded"] - batch["target"]).abs().mean((1, 2, 3)))
    mild, mixed, severe = errors
    assert mild.max() < severe.min()
    assert (mixed <= mild.max()).any()
    assert (mixed >= severe.min()).any()


def test_favoured_photos_are_drawn_so_many_times_as_often(crops):
    crops.files = np.array(["good/a.png", "good/b.png", "soft/a.png", "soft/b.png", "soft/c.png", "a.png"])
    crops.scale[3:5] = 0.5, 3.0  # enlarged; more than twice as large as its crop, which keeps even its colours
    odds = crops.odds({"good/*": 4, "soft/*": 0.5})
    np.testing.assert_allclose(odds / odds[5], [4, 4, 0.5, 0.125, 2, 1])
    crops.images[:] = np.arange(6, dtype=np.uint8)[:, None, None, None]
    loader = PairLoader(crops, batch=64, seed=0, clean=1.0, workers=1, favour={"good/a*": 1e6})
    batch = next(iter(loader))
    loader.close()
    assert batch["target"].unique().tolist() == [0.0]


def test_a_second_degradation_is_of_the_same_face_in_the_same_colours(crops):
    loader = PairLoader(crops, batch=16, seed=0, clean=0.5, workers=1, twice=True)
    batch = next(iter(loader))
    loader.close()
    assert set(batch) == {"degraded", "target", "second", "landmarks"}
    assert not torch.equal(batch["second"], batch["degraded"])
    own = (batch["second"].mean((2, 3)) - batch["target"].mean((2, 3))).abs().amax(1)
    other = (batch["second"].mean((2, 3)) - batch["target"].roll(1, 0).mean((2, 3))).abs().amax(1)
    assert own.max() < 0.06 < other.median()


def test_landmarks_are_mirrored_with_their_faces(crops):
    # The left eye of these faces is marked red, whichever way they are turned.
    images = np.zeros_like(crops.images)
    images[:, 28:33, 22:27] = (255, 0, 0)
    marked = FaceCrops(images, crops.scale, crops.landmarks.copy())
    marked.landmarks[:, 0] = (24.5, 30.5)
    loader = PairLoader(marked, batch=16, seed=0, clean=1.0, workers=1)
    batch = next(iter(loader))
    loader.close()
    seen = set()
    for face, points in zip(batch["target"], batch["landmarks"], strict=True):
        rows, columns = np.nonzero(face[0].numpy() > 0.2)
        centre = np.array([columns.mean() + 0.5, rows.mean() + 0.5])
        eye = np.linalg.norm(points.numpy() - centre, axis=1).argmin()
        assert np.linalg.norm(points[eye].numpy() - centre) < 0.1
        assert points[0, 0] < points[1, 0], "left stays left in the picture"
        seen.add(int(eye))
    assert seen == {0, 1}


def test_crops_come_from_a_manifests_landmarks_and_are_cached(tmp_path):
    photo = np.zeros((200, 200, 3), np.uint8)
    photo[90:100, 75:85] = photo[90:100, 115:125] = 255  # two eyes, centred at (80, 95) and (120, 95)
    cv2.imwrite(str(tmp_path / "a.png"), photo)
    points = {"left_eye": (80, 95), "right_eye": (120, 95), "nose": (100, 115), "left_mouth": (85, 135),
              "right_mouth": (115, 135)}  # fmt: skip
    header = ["file"] + [f"{point}_{axis}" for point in points for axis in "xy"]
    values = ["a.png"] + [str(v) for xy in points.values() for v in xy]
    (tmp_path / "manifest.csv").write_text(",".join(header) + "\n" + ",".join(values) + "\n")
    crops = load_crops(tmp_path, 64, cache=tmp_path / "cache.npz")
    assert crops.images.shape == (1, 64, 64, 3)
    # 2 * max(2 * 40, 1.8 * 40) = 160 px of the photo are 64 px of the crop.
    assert crops.scale[0] == pytest.approx(160 / 64)
    rows, columns = np.nonzero(crops.images[0, ..., 0] > 128)
    assert columns.mean() + 0.5 == pytest.approx(32, abs=0.3), "the eyes' middle is the crop's"
    assert rows.mean() + 0.5 == pytest.approx(32 - 0.1 * 40 * 64 / 160, abs=0.5)
    (tmp_path / "a.png").unlink()
    kept = load_crops(tmp_path, 64, cache=tmp_path / "cache.npz")
    assert np.array_equal(kept.images, crops.images)
    assert np.array_equal(kept.landmarks, crops.landmarks)
    assert list(kept.files) == list(crops.files) == ["a.png"]
    assert crops.landmarks[0, 0] == pytest.approx((32 - 20 * 64 / 160, 32 - 0.1 * 40 * 64 / 160))


def test_kept_crops_of_another_folder_or_damaged_ones_are_refused(crops, tmp_path):
    cache = tmp_path / "cache.npz"
    np.savez(cache, images=crops.images, scale=crops.scale, folder=str(tmp_path / "old"))
    with pytest.raises(PoseFRError, match=r"cache\.npz holds the faces of .*old, not those of"):
        load_crops(tmp_path / "new", 64, cache)
    assert len(load_crops(tmp_path / "old", 64, cache)) == 6
    cache.write_bytes(cache.read_bytes()[:3000])
    with pytest.raises(PoseFRError, match=r"cannot be read .*; delete it"):
        load_crops(tmp_path / "old", 64, cache)


def test_a_manifest_may_be_of_other_columns_and_tells_its_bad_lines(tmp_path, detector):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((128, 128, 3), np.uint8))
    (tmp_path / "broken.png").write_bytes(b"nothing")
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("file,yaw\na.png,3\n")
    assert len(load_crops(tmp_path, 64, device="cpu")) == 2, "the detector finds them"
    assert detector.device == "cpu", "it looks where training runs"
    points = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
    header = ",".join(["file", *(f"{point}_{axis}" for point in points for axis in "xy")])
    manifest.write_text(header + "\na.png,50,50,70,50,60,60,53,70,67,70\na.png,50,50\n", encoding="utf-8-sig")
    with pytest.raises(PoseFRError, match=r"manifest\.csv, line 3: the landmarks of a\.png are not ten numbers"):
        load_crops(tmp_path, 64)
    manifest.write_text(header + "\n" + "a.png,50,50,70,50,60,60,53,70,67,70\n" * 2, encoding="utf-8-sig")
    assert list(load_crops(tmp_path, 64).files) == ["a.png", "a.png"]
    manifest.write_text("file,source\nJosé.png,mine\n", encoding="cp1252")
    with pytest.raises(PoseFRError, match=r"manifest\.csv is not in UTF-8"):
        load_crops(tmp_path, 64)


def test_hidden_photos_are_not_trained_with(tmp_path, detector):
    for name in ("a.png", ".trash/b.png", "in/.c.png", "in/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), np.zeros((128, 128, 3), np.uint8))
    (tmp_path / "folder.png").mkdir()
    assert [Path(name).as_posix() for name in load_crops(tmp_path, 64).files] == [
        "a.png",
        "a.png",
        "in/d.png",
        "in/d.png",
    ]


def test_a_folder_without_faces_is_refused(tmp_path):
    with pytest.raises(PoseFRError, match="No photo with a face"):
        load_crops(tmp_path, 64)


@pytest.mark.parametrize("adversarial", [0.0, 0.01])
def test_a_run_writes_weights_log_and_samples_and_resumes(crops, tmp_path, adversarial):
    recipe = Recipe(steps=2, batch=2, adversarial=adversarial, workers=1, log_every=1, sample_every=1)
    path = train(PoseFRNet(SMALL), crops, recipe, tmp_path, CPU, note="a test")
    network, provenance = load_network(path)
    assert network.config == SMALL
    assert provenance["steps"] == 2
    assert provenance["note"] == "a test"
    assert list(tmp_path.glob("sample-64-*.png"))
    lines = read_log(tmp_path / "log.jsonl")
    assert [line["step"] for line in lines] == [1, 2]
    assert all(np.isfinite(line["pixel"]) for line in lines)
    assert ("discriminator" in lines[0]) == bool(adversarial)
    assert cv2.imread(str(tmp_path / "loss.png")).std() > 5
    train(network, crops, recipe, tmp_path, CPU)
    assert load_network(path)[1]["steps"] == 4


def test_every_loss_has_its_weight_and_its_line(crops, tmp_path):
    recipe = Recipe(steps=1, batch=2, workers=1, log_every=1, adversarial=0.01, features=0.1, region=0.2,
                    consistency=0.1, latent=0.1, grid=0.1, pattern=0.1, detail=0.1, structure=0.1)  # fmt: skip
    train(PoseFRNet(SMALL), crops, recipe, tmp_path, CPU)
    line = read_log(tmp_path / "log.jsonl")[0]
    assert line["images"] == 4, "both degradations count"
    names = {"pixel", "pyramid", "adversarial", "features", "region", "consistency", "latent", "discriminator", "r1",
             "grid", "pattern", "detail", "structure"}  # fmt: skip
    assert names <= set(line)
    assert all(np.isfinite(line[name]) for name in names)


@pytest.mark.parametrize(
    "name", ["features", "region", "consistency", "latent", "adversarial", "grid", "pattern", "detail", "structure"]
)
def test_each_loss_moves_the_network(crops, tmp_path, name):
    network = awake(PoseFRNet(SMALL))
    start = {key: value.clone() for key, value in network.state_dict().items()}
    nothing = Recipe(steps=1, batch=2, workers=1, pixel=0.0, pyramid=1e-30, detail=0.0, structure=0.0, grid=0.0,
                     pattern=0.0, faithful=0.0)  # fmt: skip
    train(network, crops, nothing, tmp_path / "nothing", CPU)
    still = max((value - start[key]).abs().max() for key, value in network.state_dict().items())
    train(network, crops, replace(nothing, **{name: 1.0}), tmp_path / name, CPU)
    moved = max((value - start[key]).abs().max() for key, value in network.state_dict().items())
    assert still == 0 < moved


def test_a_run_at_fidelity_1_alone_leaves_what_is_free_as_it_is(crops, tmp_path):
    network = awake(PoseFRNet(SMALL))
    start = {key: value.clone() for key, value in network.state_dict().items()}
    train(network, crops, Recipe(steps=2, batch=2, workers=1, faithful=1.0, bf16=True), tmp_path, CPU)
    after = network.state_dict()
    free = [key for key in start if key.startswith(("free.", "fidelity_latent."))]
    assert free
    assert all(torch.equal(start[key], after[key]) for key in free)
    assert not torch.equal(start["mean_latent"], after["mean_latent"])
    assert all(torch.isfinite(value).all() for value in after.values())


def test_training_what_is_free_alone_leaves_fidelity_1_as_it_is(crops, tmp_path):
    network = channels_last(awake(PoseFRNet(SMALL))).eval()  # as training has it: another layout rounds otherwise
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before = [network(images, fidelity).image for fidelity in (1.0, 0.0)]
    recipe = Recipe(steps=2, batch=2, workers=1, faithful=0.0, free_only=True, free_pixel=0.5, judged_size=32,
                    adversarial=0.1, features=0.1, learning_rate=0.01)  # fmt: skip
    train(network, crops, recipe, tmp_path, CPU)
    network.eval()
    with torch.no_grad():
        after = [network(images, fidelity).image for fidelity in (1.0, 0.0)]
    torch.testing.assert_close(before[0], after[0], atol=1e-5, rtol=0)
    assert (before[1] - after[1]).abs().max() > 1e-4


def test_training_the_refinements_alone_leaves_the_rest_as_it_is(crops, tmp_path):
    network = awake(PoseFRNet(SMALL))
    start = {key: value.clone() for key, value in network.state_dict().items()}
    recipe = Recipe(steps=40, batch=1, workers=1, log_every=10, refine_only=True, learning_rate=0.02)
    train(network, crops, recipe, tmp_path, CPU)
    gains = [line["refined_db"] for line in read_log(tmp_path / "log.jsonl")]
    assert gains[-1] > gains[0] + 0.1
    moved = {key for key, value in network.state_dict().items() if not torch.equal(value, start[key])}
    assert moved == {key for key in start if key.startswith("refinements.")}


def test_squares_of_restored_faces_lie_on_their_targets():
    network = PoseFRNet(SMALL).eval()  # its output is its input
    pool = SquarePool(network)
    target = torch.rand(3, 3, 64, 64)
    pool.add((target + 0.1).clamp(0, 1), target)
    after, before = pool.error(3)
    assert after == before, "the refinement is silent still"
    assert 0.7 < before < 1.4, "the error is about the same everywhere"
    for _ in range(100):
        pool.add(target, target)  # the first faces leave
    assert pool.error(3)[1] < 1e-3


def test_a_refinement_looks_at_a_quarter_of_a_face_while_it_is_trained():
    refinement = awake(PoseFRNet(SMALL)).refinements["64"]
    features = torch.rand(2, refinement.features.in_channels, 16, 16)
    seen = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64), features
    whole = refinement(*seen)
    refine_a_quarter(refinement)
    corners = set()
    for _ in range(8):
        part = refinement(*seen)
        spoken = (part != 0).any(dim=1).any(dim=0).nonzero()
        (top, left), (bottom, right) = spoken.amin(dim=0).tolist(), spoken.amax(dim=0).tolist()
        assert (bottom - top, right - left) == (15, 15), "32 px less the border"
        middle = (..., slice(top + 4, bottom - 3), slice(left + 4, right - 3))
        torch.testing.assert_close(part[middle], whole[middle])
        corners.add((top, left))
    assert len(corners) > 1
    assert torch.equal(refinement.eval()(*seen), whole)


def test_the_priors_convolutions_have_a_learning_rate_of_their_own(crops, tmp_path):
    network = awake(PoseFRNet(SMALL))
    start = {key: value.clone() for key, value in network.state_dict().items()}
    # Adam's first step is as large as the rate, for every weight that has a gradient.
    rate = Recipe(steps=1, batch=2, workers=1, learning_rate=0.05, prior_rate=8.0)
    train(network, crops, rate, tmp_path, CPU)
    moved = {key: (value - start[key]).abs().max().item() for key, value in network.state_dict().items()}
    block, step = "prior.blocks.64.", moved["decoder.view.64.weight"]
    assert step > 0
    for name, share in (("conv.weight", 8), ("up.weight", 8), ("to_rgb.weight", 1), ("conv.bias", 1)):
        assert moved[block + name] == pytest.approx(share * step, rel=0.05), name


def test_a_run_with_orthogonal_steps_learns_and_goes_on(crops, tmp_path):
    torch.manual_seed(0)
    recipe = Recipe(steps=10, batch=2, workers=1, log_every=5, muon=True, prior_rate=4.0, faithful=1.0,
                    refine_quarter=True, learning_rate=0.01)  # fmt: skip
    train(awake(PoseFRNet(SMALL)), crops, recipe, tmp_path, CPU)
    path = train(PoseFRNet(SMALL), crops, replace(recipe, steps=5), tmp_path, CPU)
    gains = [line["gain_db"] for line in read_log(tmp_path / "log.jsonl")]
    assert gains[-1] > gains[0] + 0.5
    assert load_network(path)[1]["steps"] == 15
    state = torch.load(tmp_path / "state.pt", weights_only=True)["optimizer"]
    kinds = {group["orthogonal"]: group["params"][0] for group in state["param_groups"]}
    assert set(state["state"][kinds[True]]) == {"momentum", "step"}
    assert "exp_avg_sq" in state["state"][kinds[False]]


def test_a_state_without_a_discriminators_optimiser_resumes(crops, tmp_path):
    recipe = Recipe(steps=1, batch=2, workers=1, adversarial=0.01)
    path = train(PoseFRNet(SMALL), crops, recipe, tmp_path, CPU)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    del state["judge_optimizer"]
    torch.save(state, tmp_path / "state.pt")
    train(PoseFRNet(SMALL), crops, recipe, tmp_path, CPU)
    assert load_network(path)[1]["steps"] == 2


def test_a_run_of_a_network_with_other_parts_is_refused_in_one_sentence(crops, tmp_path):
    recipe = Recipe(steps=1, batch=2, workers=1)
    train(PoseFRNet(replace(SMALL, filters=False)), crops, recipe, tmp_path, CPU)
    with pytest.raises(PoseFRError, match=r"state\.pt is of a network with other parts"):
        train(PoseFRNet(SMALL), crops, recipe, tmp_path, CPU)


def test_a_run_does_not_go_on_with_other_parts_or_rates(crops, tmp_path):
    recipe = Recipe(steps=1, batch=2, workers=1)
    train(PoseFRNet(SMALL), crops, recipe, tmp_path, CPU)
    for change in ({"free_only": True}, {"refine_only": True}, {"prior_rate": 10.0}, {"muon": True}):
        with pytest.raises(PoseFRError, match=r"trained other parts, or some of them at another rate"):
            train(PoseFRNet(SMALL), crops, replace(recipe, **change), tmp_path, CPU)


def test_the_average_goes_on_where_a_run_stopped(crops, tmp_path):
    recipe = Recipe(steps=40, batch=2, workers=1, learning_rate=0.01)
    path = train(awake(PoseFRNet(SMALL)), crops, recipe, tmp_path, CPU, note="first")

    def averaged_and_raw() -> tuple[torch.Tensor, torch.Tensor]:
        state = torch.load(tmp_path / "state.pt", weights_only=True)
        return tuple(state[name]["encoder.mix.weight"] for name in ("averaged", "network"))

    before, _ = averaged_and_raw()
    train(PoseFRNet(SMALL), crops, replace(recipe, steps=1), tmp_path, CPU, note="second")
    after, raw = averaged_and_raw()
    torch.testing.assert_close(after - before, (raw - before) * (1 - 41 / 50), rtol=1e-3, atol=1e-6)
    assert load_network(path)[1]["note"] == "first, second"


def test_what_is_stopped_by_hand_goes_on_later(crops, tmp_path, monkeypatch):
    taken = []

    def stopped(self: PairLoader) -> Iterator[dict[str, torch.Tensor]]:
        for _ in range(2):
            taken.append(self._queue.get())
            yield taken[-1]
        raise KeyboardInterrupt

    monkeypatch.setattr(PairLoader, "__iter__", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(PoseFRNet(SMALL), crops, Recipe(batch=2, workers=1), tmp_path, CPU)
    assert load_network(tmp_path / "network.safetensors")[1]["steps"] == 2


def test_what_is_stopped_while_samples_are_drawn_is_saved(crops, tmp_path, monkeypatch):
    def stopped(self: _Trainer, batch: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_Trainer, "_draw", stopped)
    with pytest.raises(KeyboardInterrupt):
        train(PoseFRNet(SMALL), crops, Recipe(batch=2, workers=1, steps=2), tmp_path, CPU)
    assert torch.load(tmp_path / "state.pt", weights_only=True)["steps"] == 2


def test_a_run_is_saved_between_its_samples(crops, tmp_path, monkeypatch):
    saved = []
    save = _Trainer._save

    def counted(self: _Trainer) -> Path:
        saved.append(self.steps)
        return save(self)

    monkeypatch.setattr(_Trainer, "_save", counted)
    monkeypatch.setattr("posefr.training.trainer.SAVED_EVERY", 0.0)
    train(PoseFRNet(SMALL), crops, Recipe(batch=2, workers=1, steps=3), tmp_path, CPU)
    assert saved == [1, 2, 3, 3]


def test_a_run_does_not_go_on_from_other_weights(crops, tmp_path):
    recipe = Recipe(steps=1, batch=2, workers=1)
    train(PoseFRNet(SMALL), crops, recipe, tmp_path, CPU, note="from one.safetensors")
    train(PoseFRNet(SMALL), crops, recipe, tmp_path, CPU, note="from one.safetensors, again")
    with pytest.raises(PoseFRError, match=r"a run that did not start from two\.safetensors; leave that out"):
        train(PoseFRNet(SMALL), crops, recipe, tmp_path, CPU, note="from two.safetensors")


def test_an_error_while_faces_are_degraded_is_raised_and_not_waited_for(crops):
    crops.images = crops.images[:0]  # the odds still are those of six
    with pytest.raises(ValueError, match="positive integer"):
        next(iter(PairLoader(crops, batch=2, seed=0, workers=2)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": "l7"}, "one of relative, psnr; found 'l7'"),
        ({"severities": "mild, awful"}, "mild, medium, severe, training; found 'awful'"),
        ({"favour": "ffhq"}, "patterns and positive numbers, as in .*; found 'ffhq'"),
        ({"favour": "ffhq*=-1"}, "positive numbers"),
        ({"favour": "ffhq*=2"}, "without the names"),
        ({"identity_weight": 0.1}, "--identity"),
        ({"latent": 0.1, "batch": 1}, "at least 2"),
        ({"workers": 0}, "--workers must be at least 1; found 0"),
        ({"sample_every": 0}, "--sample-every must be at least 1"),
        ({"minutes": 0.0}, "--minutes must be more than 0"),
        ({"judged_size": 128, "adversarial": 0.1}, "from 8 to the faces' 64 px; found 128"),
        ({"judged_size": 48, "features": 0.1}, "a power of two from 8 to the faces' 64 px; found 48"),
        ({"free_only": True, "faithful": 1.0}, "--faithful must be less than 1"),
        ({"free_only": True, "refine_only": True, "faithful": 0.0}, "--refine-only and --free-only exclude each other"),
        ({"refine_quarter": True, "refine_only": True}, "--refine-only and --refine-quarter exclude each other"),
        ({"refine_only": True, "consistency": 0.1}, "--refine-only and --consistency exclude each other"),
        ({"judged_size": 32}, "--judged-size is of the discriminator, which only --adversarial or --features train"),
    ],
)
def test_a_recipe_that_cannot_be_followed_is_refused(crops, tmp_path, change, message):
    with pytest.raises(PoseFRError, match=message):
        train(PoseFRNet(SMALL), crops, Recipe(**change), tmp_path, CPU)


def test_a_pattern_that_no_photo_matches_is_refused(crops, tmp_path):
    crops.files = np.array(["a.png"] * len(crops))
    with pytest.raises(PoseFRError, match=r"No photo's name matches 'ffhq\*'"):
        train(PoseFRNet(SMALL), crops, Recipe(favour="ffhq*=2"), tmp_path, CPU)


def test_losses_that_need_landmarks_say_so(crops, tmp_path):
    with pytest.raises(PoseFRError, match=r"delete faces-64\.npz"):
        train(PoseFRNet(SMALL), FaceCrops(crops.images, crops.scale), Recipe(region=1.0), tmp_path, CPU)


def test_the_log_skips_a_line_that_was_cut_off_and_the_plot_shows_what_there_is(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 9, "size": 64, "blur": 1}\n')  # of the size that a run grew from
    with log.open("a") as file:
        file.write('{"step": 1, "pixel": 0.5}\n{"step": 2, "pixel": 0.4, "r1": 3}\n{"step": 3, "pi')
    assert [line["step"] for line in read_log(log)] == [9, 1, 2]
    plot_losses(log, tmp_path / "loss.png")
    assert cv2.imread(str(tmp_path / "loss.png")).shape == (200, 720, 3)
    plot_losses(tmp_path / "absent.jsonl", tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


@pytest.mark.parametrize("loss", LOSSES)
def test_a_trained_network_takes_noise_away(crops, tmp_path, loss):
    torch.manual_seed(0)
    network = PoseFRNet(SMALL)
    train(network, crops, Recipe(steps=80, batch=4, learning_rate=4e-3, loss=loss, workers=1), tmp_path, CPU)
    target = torch.from_numpy(crops.images).permute(0, 3, 1, 2).float() / 255
    noisy = (target + 0.06 * torch.randn(target.shape)).clamp(0, 1)
    with torch.no_grad():
        restored = network.eval()(noisy).image
    assert (restored - target).square().mean() < 0.9 * (noisy - target).square().mean()


def test_a_run_stops_after_its_minutes_and_leaves_a_line_a_plot_and_a_sheet(crops, tmp_path):
    path = train(PoseFRNet(SMALL), crops, Recipe(minutes=0.02, batch=1, workers=1), tmp_path, CPU)
    assert 0 < load_network(path)[1]["minutes"] < 1
    assert len(read_log(tmp_path / "log.jsonl")) == 1
    assert (tmp_path / "loss.png").exists()
    assert len(list(tmp_path.glob("sample-*.png"))) == 1


def test_a_run_starts_from_a_smaller_checkpoint_grown(crops, tmp_path):
    recipe = Recipe(steps=1, batch=2, workers=1)
    path = train(PoseFRNet(SMALL), crops, recipe, tmp_path, CPU)
    assert start_network(SMALL.at(128), path).config.size == 128
    assert start_network(SMALL, None).config == SMALL


def test_a_checkpoint_does_not_shrink(crops, tmp_path):
    path = train(PoseFRNet(SMALL.at(128)), enlarged(crops), Recipe(steps=1, batch=1, workers=1), tmp_path, CPU)
    with pytest.raises(PoseFRError, match="128 px and cannot shrink to 64 px"):
        start_network(SMALL, path)


def enlarged(crops: FaceCrops) -> FaceCrops:
    return FaceCrops(crops.images.repeat(2, 1).repeat(2, 2), crops.scale, crops.landmarks * 2)


def test_the_command_trains_at_rising_sizes_and_goes_on_where_it_stopped(crops, tmp_path, monkeypatch):
    monkeypatch.setitem(CONFIGURATIONS, "posefr-256", SMALL.at(128))
    for size, faces in ((64, crops), (128, enlarged(crops))):
        np.savez(tmp_path / f"faces-{size}.npz", images=faces.images, scale=faces.scale, landmarks=faces.landmarks)
    options = ["--faces", str(tmp_path), "--out", str(tmp_path), "--size", "64,128", "--steps", "2", "--batch", "1",
               "--workers", "1", "--device", "cpu", "--log-every", "1"]  # fmt: skip
    assert main(options) == 0
    network, provenance = load_network(tmp_path / "network.safetensors")
    assert network.config.size == 128
    assert [(line["step"], line["size"]) for line in read_log(tmp_path / "log.jsonl")] == [(1, 64), (1, 128)]
    assert provenance["recipe"]["steps"] == 1
    card = (tmp_path / "network.md").read_text()
    assert "6 faces of the folder" in card
    assert "`--minutes 30.0 --steps 1 --batch 1 --log-every 1 --workers 1`" in card
    assert "1 steps of 1 faces, 1 in all" in card
    assert "licence is not known" in card
    assert main(options) == 0
    assert read_log(tmp_path / "log.jsonl")[-1]["step"] == 3, "the size that is left has all the steps"
    assert read_log(tmp_path / "log.jsonl")[-1]["size"] == 128


def test_a_run_that_is_stopped_leaves_a_card_and_knows_what_it_started_from(crops, tmp_path, monkeypatch, capsys):
    """Each run's weights have the same name; another file of that name is another start."""
    monkeypatch.setitem(CONFIGURATIONS, "posefr-256", SMALL)
    starts = []
    for name in ("a", "b"):
        torch.manual_seed(ord(name))
        starts.append(tmp_path / name / "network.safetensors")
        save_network(awake(PoseFRNet(SMALL)), starts[-1], {})
    out = tmp_path / "out"
    out.mkdir()
    np.savez(out / "faces-64.npz", images=crops.images, scale=crops.scale)
    options = ["--faces", str(tmp_path), "--out", str(out), "--device", "cpu", "--batch", "1", "--workers", "1"]

    def stopped(self: _Trainer, batch: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(_Trainer, "_draw", stopped)
        assert main([*options, "--steps", "2", "--weights", str(starts[0])]) == 130
    assert "the same command goes on" in capsys.readouterr().err
    licence = "Training started from network.safetensors ("
    assert licence in (out / "network.md").read_text()
    assert main([*options, "--steps", "1"]) == 0
    assert licence in (out / "network.md").read_text(), "a run that goes on keeps what it started from"
    assert "3 steps of 1 faces" in (out / "network.md").read_text()
    assert main([*options, "--steps", "1", "--weights", str(starts[0])]) == 0
    capsys.readouterr()
    assert main([*options, "--steps", "1", "--weights", str(starts[1])]) == 1
    assert "a run that did not start from network.safetensors (" in capsys.readouterr().err


def test_a_device_that_is_not_there_and_a_file_that_is_not_are_told(crops, tmp_path, capsys):
    assert main(["--faces", str(tmp_path), "--out", str(tmp_path), "--device", "gpu"]) == 1
    assert "error: The device 'gpu' cannot be used here" in capsys.readouterr().err
    assert main(["--faces", str(tmp_path), "--out", str(tmp_path), "--weights", str(tmp_path / "none")]) == 1
    assert "none cannot be read (" in capsys.readouterr().err


def test_a_run_that_goes_on_takes_the_rate_of_its_discriminator_and_counts_its_faces(crops, tmp_path):
    recipe = Recipe(steps=2, batch=2, workers=1, adversarial=0.1, judged_size=32, faithful=0.0)
    train(PoseFRNet(SMALL), crops, recipe, tmp_path, CPU)
    with pytest.raises(PoseFRError, match="saw squares of another size; leave --judged-size as it was"):
        train(PoseFRNet(SMALL), crops, replace(recipe, judged_size=0), tmp_path, CPU)
    other = replace(recipe, steps=1, batch=3, discriminator_rate=1e-6)
    trainer = _Trainer(PoseFRNet(SMALL), crops, other, tmp_path, CPU, "", None, 0)
    assert [group["lr"] for group in trainer.judge.optimizer.param_groups] == [1e-6]
    path = train(PoseFRNet(SMALL), crops, other, tmp_path, CPU)
    assert load_network(path)[1]["images"] == 2 * 2 + 3
    kept = torch.load(tmp_path / "state.pt", weights_only=True)["judge"]
    train(PoseFRNet(SMALL), crops, Recipe(steps=1, batch=2, workers=1), tmp_path, CPU)
    left = torch.load(tmp_path / "state.pt", weights_only=True)["judge"]
    assert all(torch.equal(left[name], kept[name]) for name in kept), "kept for a run that trains it again"


def test_a_card_counts_the_licences_of_a_manifest(tmp_path):
    (tmp_path / "manifest.csv").write_text("file,source,licence\na,x,CC0\nb,x,CC0\nc,y,MIT\nd\n")
    provenance = {"recipe": asdict(Recipe(bf16=True)), "steps": 3, "images": 24, "minutes": 0.5,
                  "note": "from posefr-256.safetensors (0123abcd), a test"}  # fmt: skip
    weights = tmp_path / "own-00001-of-00002.safetensors"
    path = write_card(weights, tmp_path, 3, provenance, tmp_path / "absent.jsonl", CPU)
    assert path.name == "own.md"
    card = path.read_text()
    assert "--restorer own-00001-of-00002.safetensors" in card
    assert "Training started from posefr-256.safetensors (0123abcd); what its licence asks for holds here too." in card
    assert "- photos: 1, licence not told\n- x: 2, licence CC0\n- y: 1, licence MIT" in card
    assert "`--bf16`" in card
    assert "3 steps of 8 faces, 24 in all, in 0.5 minutes" in card
    assert "Note: from posefr-256.safetensors (0123abcd), a test." in card


def test_the_command_says_what_is_wrong_in_one_line(tmp_path, capsys):
    assert main(["--faces", str(tmp_path), "--out", str(tmp_path / "out"), "--size", "64"]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: No photo with a face was found in")
    np.savez(tmp_path / "faces-100.npz", images=np.zeros((1, 100, 100, 3), np.uint8), scale=np.ones(1))
    assert main(["--faces", str(tmp_path), "--out", str(tmp_path), "--size", "100"]) == 1
    assert "power of two" in capsys.readouterr().err


def test_a_run_of_another_size_is_not_written_over(crops, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(CONFIGURATIONS, "posefr-256", SMALL)
    path = train(PoseFRNet(SMALL), crops, Recipe(steps=1, batch=2, workers=1), tmp_path, CPU)
    kept = path.read_bytes()
    for sizes in ("128", "128,256"):
        assert main(["--faces", str(tmp_path), "--out", str(tmp_path), "--size", sizes]) == 1
        assert "holds a run for 64 px" in capsys.readouterr().err
    assert path.read_bytes() == kept
    other = tmp_path / "other"
    options = ["--faces", str(tmp_path), "--out", str(other), "--size", "128", "--weights", str(path)]
    monkeypatch.setitem(CONFIGURATIONS, "posefr-256", replace(SMALL, size=128))
    assert main(options) == 1
    assert "error: No photo with a face" in capsys.readouterr().err
