"""Checkpoints and the restorer's interface: strict loading, clear refusals, batches, foreign networks."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from networks import SMALL, awake
from safetensors.torch import load_file, save_file
from torch.nn import Conv2d

from posefr.errors import PoseFRError
from posefr.restoration import Cost, Restorer, cost_of, load_restorer, restorer_names
from posefr.restoration.checkpoint import load_network, read_metadata, save_network
from posefr.restoration.network import PoseFRNet


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    path = tmp_path / "small.safetensors"
    save_network(awake(PoseFRNet(SMALL)), path, {"steps": 3}, dtype=torch.float32)
    return path


def test_a_network_comes_back_as_it_was_saved(checkpoint):
    network, provenance = load_network(checkpoint)
    expected = awake(PoseFRNet(SMALL))
    assert network.config == SMALL
    assert provenance == {"steps": 3}
    stored = network.state_dict()
    for name in ("prior.blocks.8.conv.weight", "decoder.gains.32.weight"):
        assert stored[name].shape == expected.state_dict()[name].shape
    assert not list(checkpoint.parent.glob("*.partial"))
    image = torch.rand(1, 3, 64, 64)
    again, _ = load_network(checkpoint)
    with torch.no_grad():
        assert torch.equal(network.eval()(image).image, again.eval()(image).image)


def test_damaged_and_foreign_checkpoints_are_refused_by_name(checkpoint, tmp_path):
    tensors, metadata = load_file(checkpoint), read_metadata(checkpoint)

    def refused(match: str, path: Path) -> None:
        with pytest.raises(PoseFRError, match=match) as caught:
            load_network(path)
        assert path.name in str(caught.value)

    refused("no file", tmp_path / "absent.safetensors")
    truncated = tmp_path / "truncated.safetensors"
    truncated.write_bytes(checkpoint.read_bytes()[:5000])
    refused("truncated", truncated)
    other = tmp_path / "other.safetensors"
    save_file(tensors, other, {"format": "pt"})
    refused("not a PoseFR restorer", other)
    save_file({**tensors, "extra": torch.zeros(1)}, other, metadata)
    refused("does not fit", other)
    missing = dict(tensors)
    missing.pop("mean_latent")
    save_file(missing, other, metadata)
    refused("does not fit", other)
    save_file({**tensors, "mean_latent": torch.zeros(3)}, other, metadata)
    refused("does not fit", other)
    save_file(tensors, other, {**metadata, "configuration": '{"size": 100}'})
    refused("no usable PoseFR configuration", other)
    endless = json.loads(metadata["configuration"]) | {"blocks": {"4": 10**9, "8": -(10**9)}}
    save_file(tensors, other, {**metadata, "configuration": json.dumps(endless)})
    refused("no usable PoseFR configuration", other)


def test_restoring_takes_any_crop_size_and_any_number(checkpoint):
    restorer = load_restorer(checkpoint, device="cpu")
    assert (restorer.size, restorer.frame) == (64, "ffhq")
    assert restorer.restore(torch.zeros(0, 64, 64, 3)).shape == (0, 64, 64, 3)
    crops = torch.rand(5, 80, 80, 3)
    seen = []
    restored = restorer.restore(crops, batch=2, on_chunk=lambda done, total: seen.append((done, total)))
    assert restored.shape == (5, 64, 64, 3)
    assert 0 <= restored.min() <= restored.max() <= 1
    assert seen == [(2, 5), (4, 5), (5, 5)]
    torch.testing.assert_close(restored[3:4], restorer.restore(crops[3:4]), atol=1e-4, rtol=0)
    assert torch.equal(restored, restorer.restore(crops, batch=2)), "the same seed gives the same faces"


def test_bad_crops_are_refused_in_one_sentence(checkpoint):
    restorer = load_restorer(checkpoint, device="cpu")
    with pytest.raises(PoseFRError, match="shape"):
        restorer.restore(torch.zeros(1, 3, 64, 64))
    with pytest.raises(PoseFRError, match="A face crop is square, but these images are 80x64 px"):
        restorer.restore(torch.zeros(1, 64, 80, 3))
    with pytest.raises(PoseFRError, match="finite"):
        restorer.restore(torch.full((1, 64, 64, 3), float("nan")))
    with pytest.raises(PoseFRError, match="fidelity"):
        restorer.restore(torch.zeros(1, 64, 64, 3), fidelity=2)


def test_names_are_bundled_first_then_the_folders_files(checkpoint, tmp_path, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "far.pth").write_bytes(b"")
    (tmp_path / "linked").symlink_to(elsewhere, target_is_directory=True)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "other.pth").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("no model")
    for other in ("parsing_parsenet.pth", "my_RetinaFace.safetensors", "detection_Resnet50_Final.pth"):
        (tmp_path / other).write_bytes(b"")
    names = restorer_names([tmp_path, tmp_path / "absent"])
    assert names[0] == "posefr-256"
    assert names[1:] == ["linked/far.pth", "small.safetensors", "sub/other.pth"]
    assert load_restorer("small.safetensors", device="cpu", folders=[tmp_path]).size == 64
    with pytest.raises(PoseFRError, match="no restorer 'absent'"):
        load_restorer("absent", folders=[tmp_path])


def test_the_bundled_restorer_improves_a_noisy_face():
    skimage = pytest.importorskip("skimage.data")
    truth = torch.from_numpy(skimage.astronaut()[30:190, 145:305] / 255.0).float()[None]
    truth = torch.nn.functional.interpolate(truth.permute(0, 3, 1, 2), (256, 256), mode="bicubic").clamp(0, 1)
    truth = truth.permute(0, 2, 3, 1)
    noisy = (truth + 0.06 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    restored = load_restorer("posefr-256", device="cpu").restore(noisy, fidelity=1.0)
    assert (restored - truth).square().mean() < 0.5 * (noisy - truth).square().mean()


class _OneConvolution(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = Conv2d(3, 3, 3, padding=1)

    def forward(self, images):
        return self.convolution(images)


def test_the_cost_of_a_convolution_is_what_a_book_says():
    restorer = Restorer("one", 10, "ffhq", _OneConvolution(), lambda network, images, fidelity, seed: network(images))
    assert cost_of(restorer) == Cost(parameters=3 * 3 * 9 + 3, macs=10 * 10 * 3 * 3 * 9)


def test_the_bundled_restorer_costs_what_it_may():
    cost = cost_of(load_restorer("posefr-256", device="cpu"))
    assert cost.macs <= 3e9
    assert 2 * cost.parameters <= 24 * 2**20  # bytes in fp16


class _Malicious:
    def __reduce__(self):
        return (Path.touch, (Path("ran.txt"),))


def test_a_pickle_that_runs_code_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.pth"
    path.write_bytes(pickle.dumps({"params": _Malicious()}))
    with pytest.raises(PoseFRError, match=r"bad\.pth cannot be read"):
        load_restorer(path, device="cpu")
    assert not (tmp_path / "ran.txt").exists()


def test_unknown_networks_are_refused_by_name(tmp_path):
    path = tmp_path / "unknown.pth"
    torch.save({"some.weight": torch.zeros(3)}, path)
    with pytest.raises(PoseFRError, match=r"unknown\.pth holds no network that is known"):
        load_restorer(path, device="cpu")


def test_a_device_without_autocast_restores_in_float32(checkpoint, monkeypatch):
    """torch.autocast refuses devices that it does not know, such as DirectML's, even when it is switched off."""

    def refuse(*_, **__):
        raise AssertionError("Tried to use AMP")

    monkeypatch.setattr("posefr.restoration.restorer.autocast", refuse)
    restored = load_restorer(checkpoint).restore(torch.rand(1, 64, 64, 3))
    assert restored.shape == (1, 64, 64, 3)
