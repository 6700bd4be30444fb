"""Weights in several files: written small enough, read as one, joined, and complained about when one is missing."""

from __future__ import annotations

import pytest
import torch
from networks import SMALL, awake

from posefr.errors import PoseFRError
from posefr.restoration import load_restorer, restorer_names
from posefr.restoration.checkpoint import load_network, save_network
from posefr.restoration.network import PoseFRNet
from posefr.restoration.shards import read_tensors, shard_base, written_path
from posefr.training.__main__ import main


@pytest.fixture
def network() -> PoseFRNet:
    return awake(PoseFRNet(SMALL)).half().float()


def equal(network: PoseFRNet, other: PoseFRNet) -> bool:
    return all(
        torch.equal(a, b) for a, b in zip(network.state_dict().values(), other.state_dict().values(), strict=True)
    )


def test_shards_are_small_enough_and_any_of_them_loads_all(network, tmp_path):
    first = save_network(network, tmp_path / "own.safetensors", {"note": "a test"}, shard_mib=0.05)
    paths = sorted(tmp_path.iterdir())
    assert len(paths) > 2
    assert first == paths[0]
    assert first.name == f"own-00001-of-{len(paths):05d}.safetensors"
    assert all(path.stat().st_size <= 0.05 * 2**20 for path in paths)
    for path in (paths[0], paths[-1]):
        loaded, provenance = load_network(path)
        assert equal(loaded, network)
        assert provenance == {"note": "a test"}


def test_one_file_is_enough_for_small_weights_and_older_shards_go(network, tmp_path):
    path = tmp_path / "own.safetensors"
    save_network(network, path, {}, shard_mib=0.05)
    other = tmp_path / "own-00001-of-other.safetensors"
    other.write_bytes(b"")
    count = len(list(tmp_path.iterdir()))
    save_network(network, path, {}, shard_mib=0.1)
    assert 2 < len(list(tmp_path.iterdir())) < count
    assert save_network(network, path, {}, shard_mib=15) == path
    assert sorted(tmp_path.iterdir()) == [other, path]
    assert written_path(path) == path
    first = save_network(network, path, {}, shard_mib=0.1)
    assert not path.exists(), "nobody takes the older weights for these"
    assert written_path(path) == first


def test_joined_weights_are_the_same(network, tmp_path, capsys):
    first = save_network(network, tmp_path / "own.safetensors", {"note": "a test"}, shard_mib=0.05)
    assert main(["join", str(first)]) == 0
    joined = tmp_path / "own.safetensors"
    assert capsys.readouterr().out.strip() == str(joined)
    assert equal(load_network(joined)[0], network)
    assert load_network(joined)[1] == {"note": "a test"}
    assert main(["join", str(joined)]) == 1
    assert "not called as a shard" in capsys.readouterr().err


def test_a_missing_and_a_broken_shard_are_named(network, tmp_path):
    first = save_network(network, tmp_path / "own.safetensors", {}, shard_mib=0.05)
    second = sorted(tmp_path.iterdir())[1]
    whole = second.read_bytes()
    second.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PoseFRError, match=f"{second.name} is not a readable"):
        load_network(first)
    second.unlink()
    with pytest.raises(PoseFRError, match=f"{second.name} should lie beside it"):
        load_network(first)


def test_a_shard_of_other_weights_is_refused(network, tmp_path):
    for folder in ("one", "two"):
        save_network(network, tmp_path / folder / "own[1].safetensors", {"note": folder}, shard_mib=0.05)
    first, second, *_ = sorted((tmp_path / "one").iterdir())
    assert written_path(tmp_path / "one" / "own[1].safetensors") == first
    second.write_bytes((tmp_path / "two" / second.name).read_bytes())
    with pytest.raises(PoseFRError, match="belongs to other weights than the files beside it"):
        load_network(first)


def test_a_tensor_larger_than_a_shard_is_refused(network, tmp_path):
    with pytest.raises(PoseFRError, match=r"alone takes .* MiB; shards of 0\.01 MiB"):
        save_network(network, tmp_path / "own.safetensors", {}, shard_mib=0.01)
    assert not list(tmp_path.iterdir())


def test_shards_are_picked_as_one_restorer(network, tmp_path):
    save_network(network, tmp_path / "own.safetensors", {}, shard_mib=0.05)
    names = [name for name in restorer_names([tmp_path]) if name.startswith("own")]
    assert names == ["own.safetensors"]
    restorer = load_restorer("own.safetensors", folders=[tmp_path], device="cpu")
    assert equal(restorer.network, network)
    assert shard_base(tmp_path / "own.safetensors") is None
    assert len(read_tensors(sorted(tmp_path.iterdir())[1])) == len(network.state_dict())
