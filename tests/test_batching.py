"""Batches: every item once and in order, none too large, and few sizes on a CPU."""

from __future__ import annotations

import pytest
import torch

from posefr.batching import batches
from posefr.errors import PoseFRError

DEVICES = (torch.device("cpu"), torch.device("meta"))


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("largest", [1, 6, 8])
@pytest.mark.parametrize("count", [0, 1, 7, 8, 23])
def test_every_item_comes_once_and_in_order(count, largest, device):
    parts = list(batches(count, largest, device))
    assert [item for part in parts for item in range(count)[part]] == list(range(count))
    assert all(part.stop - part.start <= largest for part in parts)


def test_a_cpu_sees_powers_of_two_alone():
    sizes = {part.stop - part.start for count in range(1, 40) for part in batches(count, 8, DEVICES[0])}
    assert sizes == {1, 2, 4, 8}


def test_a_batch_of_none_is_refused():
    with pytest.raises(PoseFRError, match="batch is 0"):
        list(batches(3, 0, DEVICES[0]))


def test_another_device_takes_as_many_at_once_as_it_may():
    assert [part.stop - part.start for part in batches(23, 8, DEVICES[1])] == [8, 8, 7]
