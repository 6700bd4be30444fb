"""Other projects' restorers: their published files are read, and run with the right size, frame, range and fidelity."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from foreign_networks import WRAPPED, build, publish
from torch import nn
from torch.nn import Linear

from posefr.detection import ensure_torchvision
from posefr.errors import PoseFRError
from posefr.restoration import load_restorer, restorer_from

ensure_torchvision()


@pytest.fixture
def folder(tmp_path):
    """A folder whose large files go at once, not after three more runs of the tests."""
    yield tmp_path
    for path in tmp_path.iterdir():
        path.unlink()


@pytest.fixture(scope="module")
def faces() -> torch.Tensor:
    """Two smooth pictures [2, 512, 512, 3]."""
    small = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return nn.functional.interpolate(small, (512, 512), mode="bicubic").clamp(0, 1).permute(0, 2, 3, 1)


def _directly(network: nn.Module, faces: torch.Tensor, **options) -> torch.Tensor:
    """What the network itself makes of the faces, by the range -1..1 that its authors feed it."""
    with torch.inference_mode():
        output = network(faces.permute(0, 3, 1, 2) * 2 - 1, **options)[0]
    return ((output + 1) / 2).clamp(0, 1).permute(0, 2, 3, 1)


def _half(network: nn.Module) -> nn.Module:
    """The network with its weights as rounded as they are in the file."""
    return network.half().float()


def test_gfpgan(folder, faces):
    network = build("GFPGAN")
    restorer = load_restorer(publish("GFPGAN", folder, network), device="cpu")
    assert (restorer.size, restorer.frame) == (512, "template5")
    assert restorer.provenance == {"architecture": "GFPGAN", "file": "GFPGAN.pth"}
    restored = restorer.restore(faces[:1])
    assert restored.shape == (1, 512, 512, 3)
    assert restored.isfinite().all()
    assert restored.std() > 0.01


def test_gfpgans_noise_follows_the_seed_and_not_the_batch(faces):
    network = build("GFPGAN", full=False)
    restorer = restorer_from(network, "bare")
    stored = {name: buffer.clone() for name, buffer in network.named_buffers()}
    together = restorer.restore(faces, seed=3)
    alone = torch.cat([restorer.restore(faces[i : i + 1], seed=3) for i in (0, 1)])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)
    assert (restorer.restore(faces, seed=4) - together).abs().max() > 1e-3
    assert all(torch.equal(buffer, stored[name]) for name, buffer in network.named_buffers())
    still = _directly(network, faces, randomize_noise=False)
    assert 0 < (still - together).abs().mean() < 0.1  # the same but for the noise


def test_restoreformer(folder, faces):
    network = build("RestoreFormer")
    restorer = load_restorer(publish("RestoreFormer", folder, network), device="cpu")
    assert (restorer.size, restorer.frame) == (512, "template5")
    assert restorer.provenance["architecture"] == "RestoreFormer"
    expected = _directly(_half(network), faces[:1])
    torch.testing.assert_close(restorer.restore(faces[:1], fidelity=0.1), expected, atol=1e-4, rtol=0)


def test_codeformers_fidelity_is_ours(folder, faces):
    network = build("CodeFormer")
    restorer = load_restorer(publish("CodeFormer", folder, network), device="cpu")
    assert (restorer.size, restorer.frame) == (512, "template5")
    assert restorer.provenance["architecture"] == "CodeFormer"
    own = restorer.restore(faces[:1], fidelity=0.0)
    torch.testing.assert_close(own, _directly(_half(network), faces[:1], weight=0), atol=1e-4, rtol=0)
    seen = []
    restorer.network.register_forward_pre_hook(lambda module, given, options: seen.append(options), with_kwargs=True)
    restorer.network.encoder.blocks[0].register_forward_pre_hook(_stop)  # a second pass would take long
    with pytest.raises(_Stop):
        restorer.restore(faces[:1], fidelity=0.9)
    assert seen == [{"weight": 0.9}]


class _Stop(Exception):
    pass


def _stop(*_):
    raise _Stop


class CodeFormer(nn.Module):
    """Takes what the authors' own CodeFormer takes, and answers with it."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.asked: list[tuple] = []

    def forward(self, x, w=0, detach_16=True, code_only=False, adain=False):
        self.asked.append((w, adain, float(x.min()), float(x.max())))
        return x * self.scale, None, None


def test_the_authors_own_codeformer_is_run_as_its_authors_run_it(faces):
    network = CodeFormer()
    restored = restorer_from(network, "bare").restore(faces, fidelity=0.3)
    ((w, adain, least, most),) = network.asked
    assert (w, adain) == (0.3, True)
    assert -1 <= least < -0.5
    assert 0.5 < most <= 1
    torch.testing.assert_close(restored, faces, atol=1e-6, rtol=0)


def test_codeformer_without_the_package_that_reads_it_says_what_to_install(folder, monkeypatch):
    path = publish("CodeFormer", folder)
    monkeypatch.setitem(sys.modules, "spandrel_extra_arches", None)
    with pytest.raises(
        PoseFRError, match=r"CodeFormer\.pth is a CodeFormer network.*spandrel_extra_arches: install it"
    ):
        load_restorer(path, device="cpu")


def test_an_upscaler_sees_faces_smaller_by_its_factor_and_gives_512_px(folder, faces):
    network = build("Compact")
    seen = []
    descriptor = _descriptor(network)
    descriptor.model.register_forward_hook(lambda module, given, output: seen.append((given[0].shape, output.shape)))
    restorer = restorer_from(descriptor, "upscaler")
    assert (restorer.size, restorer.frame) == (512, "ffhq")
    restored = restorer.restore(faces)
    assert restored.shape == (2, 512, 512, 3)
    assert seen == [((1, 3, 128, 128), (1, 3, 512, 512))] * 2
    small = nn.functional.interpolate(faces.permute(0, 3, 1, 2), (128, 128), mode="bicubic", antialias=True)
    with torch.inference_mode():
        expected = network(small.clamp(0, 1)).clamp(0, 1).permute(0, 2, 3, 1)
    torch.testing.assert_close(restored, expected, atol=1e-5, rtol=0)
    from_file = load_restorer(publish("Compact", folder, network), device="cpu").restore(faces[:1])
    torch.testing.assert_close(from_file, restored[:1], atol=1e-2, rtol=0)


def _descriptor(network: nn.Module):
    from spandrel import ModelLoader

    return ModelLoader("cpu").load_from_state_dict(network.state_dict())


@pytest.mark.parametrize("kind", ["GFPGAN", "RestoreFormer"])
def test_a_loaded_descriptor_is_the_same_restorer_as_its_file(kind):
    descriptor = _descriptor(build(kind))
    restorer = restorer_from(descriptor, "connected")
    assert restorer.network is descriptor.model
    assert (restorer.size, restorer.frame) == (512, "template5")
    assert restorer.provenance == {"architecture": kind}


def test_what_is_no_restorer_is_refused_by_name():
    from spandrel.architectures.Compact import Compact

    grey = _descriptor(Compact(num_in_ch=1, num_out_ch=1, num_feat=8, num_conv=1, upscale=2, act_type="prelu"))
    for model, found in ((Linear(1, 1), "a Linear"), (None, "a NoneType"), ("GFPGAN", "a str"), (grey, "a Compact")):
        with pytest.raises(PoseFRError, match=f"the connected model is {found}.*; choose weights of PoseFR, GFPGAN"):
            restorer_from(model)


@pytest.mark.parametrize("kind", WRAPPED)
def test_a_file_that_lacks_a_tensor_is_refused_by_name(kind, folder):
    path = publish(kind, folder)
    stored = torch.load(path, weights_only=True)
    weights = stored[WRAPPED[kind]]
    weights.pop(next(name for name in reversed(weights) if name.endswith("bias")))
    torch.save(stored, path)
    with pytest.raises(PoseFRError, match=rf"{kind}\.pth") as raised:
        load_restorer(path, device="cpu")
    assert "\n" not in str(raised.value)


def test_a_plain_state_without_a_wrapper_is_read_too(folder):
    path = Path(folder / "plain.pth")
    torch.save(build("Compact").state_dict(), path)
    assert load_restorer(path, device="cpu").provenance == {"architecture": "Compact", "file": "plain.pth"}
