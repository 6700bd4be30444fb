"""Face parsing: weights are found and checked, and the parts asked for are those of the network's own class order."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from posefr.compositing import paste_faces
from posefr.detection import ensure_torchvision
from posefr.errors import PoseFRError
from posefr.faces import Faces
from posefr.geometry import crop_faces
from posefr.parsing import PARSERS, PARTS, Parser, load_parser

# From facexlib's inference scripts, by number.
BISENET = {
    "skin": [1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12, 13],
    "glasses": [6],
    "hair": [17],
    "hat": [18],
    "neck": [14, 15],
}
PARSENET = {
    "skin": [1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 15],
    "glasses": [3],
    "hair": [13],
    "hat": [14],
    "neck": [16, 17],
}


class Painter(nn.Module):
    """Sees class 1 where the input's red is 1/32, class 2 where it is 2/32, and so on."""

    def __init__(self, mean: float, deviation: float) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.mean, self.deviation = mean, deviation

    def forward(self, pictures: Tensor) -> tuple[Tensor]:
        number = ((pictures[:, 0] * self.deviation + self.mean) * 32).round().long()
        return (50.0 * nn.functional.one_hot(number, 19).movedim(3, 1),)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds a BiSeNet with random weights under the release's name."""
    ensure_torchvision()
    from facexlib.parsing.bisenet import BiSeNet

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("parsing")
    torch.save(BiSeNet(num_class=19).state_dict(), folder / "parsing_bisenet.pth")
    return folder


@pytest.mark.parametrize(
    ("kind", "mean", "deviation", "numbers"), [("bisenet", 0.485, 0.229, BISENET), ("parsenet", 0.5, 0.5, PARSENET)]
)
def test_parts_are_those_of_the_networks_classes(kind: str, mean: float, deviation: float, numbers: dict) -> None:
    parser = Parser(kind, Painter(mean, deviation), kind)
    crops = (torch.arange(32).clamp_max(18) / 32)[None, None, :, None].expand(2, 32, -1, 3)  # a column for each class
    assert set(numbers) == set(PARTS)
    for part, classes in numbers.items():
        masks = parser.parse(crops, [part], batch=1)
        assert masks.shape == (2, 512, 512)
        middles = masks[1, 256, 8::16][:19]
        assert (middles > 0.99).nonzero()[:, 0].tolist() == sorted(classes)
        assert (middles < 0.01).sum() == 19 - len(classes)
    either = parser.parse(crops[:1], ["hair", "hat"])[0, 256, 8::16][:19]
    assert (either > 0.99).nonzero()[:, 0].tolist() == sorted(numbers["hair"] + numbers["hat"])


def test_a_network_from_the_hosts_folder_makes_a_mask_to_paste_with(weights: Path, tmp_path: Path) -> None:
    parser = load_parser(folders=[tmp_path, weights])
    images = torch.rand(1, 60, 60, 3, generator=torch.Generator().manual_seed(0))
    points = torch.tensor([[[25.0, 25.0], [35.0, 25.0], [30.0, 30.0], [26.0, 36.0], [34.0, 36.0]]])
    faces = Faces.make(torch.zeros(1), torch.tensor([[20.0, 15, 40, 42]]), points, torch.ones(1), (60, 60), 1)
    crops = crop_faces(images, faces, 64)
    done = []
    masks = parser.parse(crops.images, on_chunk=lambda *numbers: done.append(numbers))
    assert done == [(1, 1)]
    assert 0 < masks.mean() < 1
    covered = paste_faces(images, crops, crops.images, mask=masks, mask_space="crop", feather=0)[1]
    assert 0 < covered.max() <= masks.max() + 1e-6
    assert parser.parse(crops.images[:0]).shape == (0, 512, 512)


def test_what_is_missing_or_wrong_is_named(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(
        PoseFRError, match=r"parsing_bisenet.pth is not in .*; fetch https://github.com/xinntao/facexlib/"
    ):
        load_parser("bisenet", folders=[tmp_path], download=True)  # no checksum is known, so nothing is fetched
    with pytest.raises(PoseFRError, match=f"no face parser named 'sam'; pick {' or '.join(PARSERS)}"):
        load_parser("sam", folders=[tmp_path])
    with pytest.raises(PoseFRError, match="no face parser file"):
        load_parser(tmp_path / "absent.pth")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(PoseFRError, match=r"other.pth is no face parser; weights of facexlib's bisenet or parsenet"):
        load_parser(tmp_path / "other.pth")
    (tmp_path / "parsing_parsenet.pth").write_bytes((weights / "parsing_bisenet.pth").read_bytes())
    with pytest.raises(
        PoseFRError, match=r"parsing_parsenet.pth is no face parser; weights of facexlib's parsenet were"
    ):
        load_parser("parsenet", folders=[tmp_path])
    torch.save({"ffm.convblk.conv.weight": torch.zeros(1)}, tmp_path / "part.pth")
    with pytest.raises(PoseFRError, match=r"part.pth does not fit facexlib's bisenet"):
        load_parser(tmp_path / "part.pth")
    parser = Parser("painter", Painter(0.5, 0.5), "parsenet")
    for parts, found in (["teeth"], "'teeth'"), ([], "none"):
        with pytest.raises(PoseFRError, match=f"{found} was asked for; pick some of skin"):
            parser.parse(torch.zeros(1, 8, 8, 3), parts)
