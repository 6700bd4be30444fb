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
    with pytest.raises(PoseFRError, match="A face crop is square"):
        parser.parse(crops.images[:, 1:])


def label_map(size: int = 512) -> Tensor:
    """[size, size] BiSeNet's classes as on a portrait: hair around the skin, brows, eyes, nose, lips, ears, neck."""
    at = (torch.arange(size) + 0.5) / size
    v, u = torch.meshgrid(at, at, indexing="ij")
    labels = torch.zeros(size, size, dtype=torch.int64)

    def ellipse(number: int, x: float, y: float, across: float, down: float) -> None:
        labels[((u - x) / across) ** 2 + ((v - y) / down) ** 2 < 1] = number

    ellipse(17, 0.5, 0.42, 0.40, 0.40)  # hair
    labels[(v > 0.75) & ((u - 0.5).abs() < 0.17)] = 14  # neck
    labels[v > 0.95] = 16  # cloth
    for number, x in ((7, 0.19), (8, 0.81)):  # ears
        ellipse(number, x, 0.52, 0.04, 0.09)
    ellipse(1, 0.5, 0.55, 0.30, 0.36)  # skin
    for number, x, y, across, down in (
        (2, 0.38, 0.40, 0.08, 0.02), (3, 0.62, 0.40, 0.08, 0.02), (4, 0.38, 0.46, 0.05, 0.025),
        (5, 0.62, 0.46, 0.05, 0.025), (10, 0.5, 0.58, 0.06, 0.09), (11, 0.5, 0.735, 0.07, 0.01),
        (12, 0.5, 0.72, 0.10, 0.02), (13, 0.5, 0.755, 0.09, 0.02),
    ):  # fmt: skip
        ellipse(number, x, y, across, down)
    return labels


@pytest.mark.parametrize("degrees", [0.0, 20.0])
def test_a_portraits_parts_are_pasted_without_a_seam_and_nothing_else_changes(degrees: float) -> None:
    """The skin with all that is in it is one closed patch; hair, neck and background keep every bit."""
    parser = Parser("bisenet", Painter(0.485, 0.229), "bisenet")
    labels = label_map()
    skin = parser.parse((labels / 32.0)[None, :, :, None].expand(-1, -1, -1, 3), ["skin"])
    angle = torch.deg2rad(torch.tensor(degrees))
    turn = torch.tensor([[angle.cos(), angle.sin()], [-angle.sin(), angle.cos()]])
    points = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.2], [-0.8, 2.2], [0.8, 2.2]]) - torch.tensor([0.0, 0.22])
    points = (points * 200 / 8) @ turn + 120
    images = torch.full((1, 240, 240, 3), 0.3)
    faces = Faces.make(torch.zeros(1), torch.tensor([[60.0, 60, 180, 180]]), points[None], torch.ones(1), (240, 240), 1)
    crops = crop_faces(images, faces, 256)
    out, covered = paste_faces(
        images, crops, torch.full((1, 256, 256, 3), 0.6), mask=skin, mask_space="crop", feather=4
    )
    centres = torch.stack(torch.meshgrid(torch.arange(240) + 0.5, torch.arange(240) + 0.5, indexing="xy"), dim=-1)
    u, v = (((centres - 120) @ turn.T / 200 + 0.5) * 512).long().unbind(-1)
    inside = (u >= 0) & (u < 512) & (v >= 0) & (v < 512)
    seen = torch.where(inside, labels[v.clamp(0, 511), u.clamp(0, 511)], 0)
    covered, out = covered[0], out[0, :, :, 0]
    for number in (4, 5, 10, 12, 13):  # eyes, nose and lips lie well inside the skin
        assert covered[seen == number].min() > 0.95
    assert covered[(seen == 1)].mean() > 0.7
    # A px of the image is 2.6 of the label map: its border is known to one px.
    far = -torch.nn.functional.max_pool2d(-((seen == 17) | (seen == 0) | (seen == 16)).float()[None], 5, 1, 2)[0] == 1
    assert far.sum() > 10_000
    assert out[far].eq(torch.tensor(0.3)).all()
    slope = torch.maximum(out.diff(dim=0)[:, 1:].abs(), out.diff(dim=1)[1:].abs())
    ramp = (covered[1:, 1:] > 0.2) & (covered[1:, 1:] < 0.8)
    assert slope[covered[1:, 1:] < 0.02].max() < 0.6 * slope[ramp].max()
    assert slope.max() < 0.3 * torch.pi / 2 / (0.04 * 200) * 1.5


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
