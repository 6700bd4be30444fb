"""Makes every picture of the README and of the help pages, and the thumbnails of the example workflows.

    python docs/pictures.py

makes all that the library alone can make. With COMFYUI_DIR and COMFYUI_PYTHON set (see tests/comfyui_server.py) it also
runs the example workflows in that ComfyUI for their thumbnails, and with the package playwright and a Chromium it takes
the screenshot of the README. Run it again whenever the bundled weights change. Every face is the astronaut of
scikit-image (public domain).
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import comfyui_server  # noqa: E402
import examples  # noqa: E402
import front_end  # noqa: E402
import numpy as np  # noqa: E402
import photos  # noqa: E402
import torch  # noqa: E402
from PIL import Image, ImageDraw, ImageFont  # noqa: E402

import posefr  # noqa: E402
from posefr.demo import make_worse  # noqa: E402
from posefr.drawing import draw_faces  # noqa: E402
from posefr.faces import Faces  # noqa: E402
from posefr.geometry import Crops  # noqa: E402
from posefr.imagefiles import Picture  # noqa: E402
from posefr.report import face_records  # noqa: E402

README, HELP, EXAMPLES = ROOT / "docs" / "images", ROOT / "web" / "docs" / "images", ROOT / "example_workflows"
DARK, LIGHT = (24, 24, 24), (240, 240, 240)
GAP, TITLE = 6, 28  # px
Panel = tuple[str, Image.Image]
MADE: list[tuple[Path, Callable[[], Image.Image]]] = []


def picture(path: Path) -> Callable[[Callable[[], Image.Image]], Callable[[], Image.Image]]:
    """Registers what makes the picture at `path`."""

    def register(make: Callable[[], Image.Image]) -> Callable[[], Image.Image]:
        MADE.append((path, make))
        return make

    return register


# What the pictures are made of


def tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image.convert("RGB"), np.float32) / 255).unsqueeze(0)


def pillow(image: torch.Tensor) -> Image.Image:
    return Image.fromarray((image.clamp(0, 1) * 255).round().byte().numpy())


def worse(image: Image.Image) -> Image.Image:
    """What `posefr demo` makes of a good photo: half the size, noise, JPEG, enlarged again."""
    return Image.fromarray(make_worse(Picture(np.asarray(image))).pixels)


@lru_cache
def detector() -> posefr.detection.Detector:
    return posefr.load_detector("bundled")


@lru_cache
def restorer() -> posefr.restoration.Restorer:
    return posefr.load_restorer("posefr-256")


def found(image: Image.Image) -> Faces:
    return posefr.select_faces(detector().detect(tensor(image)), order="left_to_right")


def restored(image: Image.Image, **options: object) -> Image.Image:
    images = posefr.restore_images(tensor(image), detector=detector(), restorer=restorer(), **options)
    return pillow(images[0])


def cut(image: Image.Image, faces: Faces | None = None) -> Crops:
    faces = found(image) if faces is None else faces
    return posefr.crop_faces(tensor(image), faces, size=restorer().size, frame=restorer().frame)


def face_area(image: Image.Image, index: int = 0, factor: float = 2.2) -> tuple[int, int, int, int]:
    """A square around a face, `factor` times as large as its box, moved down where it would leave the image."""
    faces = found(image)
    x0, y0, x1, y1 = faces.box[index].tolist()
    side = round(factor * float(faces.size[index]))
    left, top = round((x0 + x1 - side) / 2), max(0, round((y0 + y1 - side) / 2))
    return left, top, left + side, top + side


def enlarged(image: Image.Image, area: tuple[int, int, int, int], size: int) -> Image.Image:
    return image.crop(area).resize((size, size), Image.Resampling.BICUBIC)


def marked(image: Image.Image, faces: Faces | None = None) -> Image.Image:
    """As Preview Faces shows it."""
    return pillow(draw_faces(tensor(image), found(image) if faces is None else faces)[0])


def boxed(image: Image.Image, faces: Faces | None = None) -> Image.Image:
    whole = image.copy()
    for box in (found(image) if faces is None else faces).box.tolist():
        ImageDraw.Draw(whole).rectangle(box, outline=(255, 80, 60), width=3)
    return whole


# How they are put together


def sheet(*rows: Sequence[Panel], height: int | None = None) -> Image.Image:
    """Rows of pictures, each under its title, all scaled to the same height (or the first one's)."""
    drawn = []
    for row in rows:
        tall = height or row[0][1].height
        scaled = [(title, image.resize((round(image.width * tall / image.height), tall))) for title, image in row]
        width = sum(image.width + GAP for _, image in scaled) + GAP
        strip = Image.new("RGB", (width, tall + TITLE + GAP), DARK)
        pen, font = ImageDraw.Draw(strip), ImageFont.load_default(size=15)
        left = GAP
        for title, image in scaled:
            pen.text((left, TITLE // 2), title, font=font, anchor="lm", fill=LIGHT)
            strip.paste(image, (left, TITLE))
            left += image.width + GAP
        drawn.append(strip)
    whole = Image.new("RGB", (max(s.width for s in drawn), sum(s.height for s in drawn)), DARK)
    top = 0
    for strip in drawn:
        whole.paste(strip, (0, top))
        top += strip.height
    return whole


def split(before: Image.Image, after: Image.Image) -> Image.Image:
    """The left half of one picture and the right half of the other, with a line between them."""
    whole, middle = before.copy(), before.width // 2
    whole.paste(after.crop((middle, 0, after.width, after.height)), (middle, 0))
    ImageDraw.Draw(whole).line((middle, 0, middle, before.height), fill=(255, 255, 255), width=2)
    return whole


def beside(images: Sequence[torch.Tensor]) -> Image.Image:
    return pillow(torch.cat(list(images), 1))


@lru_cache
def portrait() -> Image.Image:
    return worse(photos.astronaut())


@lru_cache
def good_group() -> Image.Image:
    """The group as a help page shows it, so that what is drawn on it stays legible."""
    image = photos.group()
    return image.resize((680, round(680 * image.height / image.width)), Image.Resampling.LANCZOS)


@lru_cache
def group() -> Image.Image:
    return worse(photos.group())


# The README


@picture(README / "before_after.jpg")
def before_after() -> Image.Image:
    area, size = face_area(photos.astronaut()), 300
    shown = [
        ("input: half size, noise, JPEG", portrait()),
        ("restored", restored(portrait())),
        ("the photo before that", photos.astronaut()),
    ]
    return sheet([(title, enlarged(image, area, size)) for title, image in shown])


@picture(README / "settings.jpg")
def settings() -> Image.Image:
    area, size = face_area(photos.astronaut()), 220
    by_fidelity = [(f"fidelity {f:g}", restored(portrait(), fidelity=f)) for f in (0.0, 0.3, 0.5, 1.0)]
    by_strength = [(f"strength {s:g}", restored(portrait(), strength=s)) for s in (0.0, 0.3, 0.5, 1.0)]
    rows = [[(title, enlarged(image, area, size)) for title, image in row] for row in (by_fidelity, by_strength)]
    return sheet(*rows)


# The help pages


@picture(HELP / "PoseFRRestoreFacesInImage.jpg")
def restore_faces_in_image() -> Image.Image:
    return sheet([("image", group())], [("image, restored", restored(group()))], height=260)


@picture(HELP / "PoseFRRestoreFacesInVideo.jpg")
def restore_faces_in_video() -> Image.Image:
    frames = torch.stack([tensor(worse(Image.fromarray(frame)))[0] for frame in photos.pan(frames=9)])
    out = posefr.restore_images(frames, detector=detector(), restorer=restorer(), video=True)
    rows = [
        [(f"frame {i}{title}", pillow(pictures[i, :240, 60:300])) for i in (0, 4, 8)]
        for pictures, title in ((frames, ""), (out, ", restored and steadied"))
    ]
    return sheet(*rows)


@picture(HELP / "PoseFRLoadDetector.jpg")
def load_detector() -> Image.Image:
    return sheet([("what the bundled detector finds", marked(good_group()))])


@picture(HELP / "PoseFRLoadRestorer.jpg")
def load_restorer() -> Image.Image:
    crops = cut(portrait())
    return sheet([("crop", pillow(crops.images[0])), ("posefr-256", pillow(restorer().restore(crops.images)[0]))])


@picture(HELP / "PoseFRDetectFaces.jpg")
def detect_faces() -> Image.Image:
    return sheet([("image", good_group())], [("faces: boxes, landmarks, confidence, pose", marked(good_group()))])


@picture(HELP / "PoseFRSelectFaces.jpg")
def select_faces() -> Image.Image:
    kept = posefr.select_faces(found(good_group()), order="left_to_right", indices="0,2")
    return sheet(
        [("faces, left_to_right", marked(good_group()))],
        [('indices "0,2" keeps these', boxed(good_group(), kept))],
    )


@picture(HELP / "PoseFRPreviewFaces.jpg")
def preview_faces() -> Image.Image:
    by_area = posefr.select_faces(found(good_group()), order="area")
    return sheet([("order area", marked(good_group(), by_area))], [("order left_to_right", marked(good_group()))])


@picture(HELP / "PoseFRFaceReport.jpg")
def face_report() -> Image.Image:
    """The first lines of the report beside the face that they are about."""
    image = photos.astronaut()
    faces = found(image)
    record = face_records(faces)[0]
    lines = [f"{key}: {json.dumps(value)}" for key, value in record.items() if not isinstance(value, (list, dict))]
    page = Image.new("RGB", (260, 260), (40, 40, 40))
    ImageDraw.Draw(page).text((12, 12), "\n".join(lines), font=ImageFont.load_default(size=15), fill=LIGHT, spacing=8)
    shown = marked(image, faces).crop((60, 0, 400, 340))
    return sheet([("faces", shown), ("what the report says of one", page)], height=260)


@picture(HELP / "PoseFRCropFaces.jpg")
def crop_faces() -> Image.Image:
    turned = photos.astronaut().rotate(28, Image.Resampling.BICUBIC, center=(225, 130), fillcolor=photos.GROUND)
    faces = posefr.select_faces(found(turned), order="confidence", limit=1)
    shown = marked(turned, faces).crop((90, 0, 390, 300))
    return sheet([("image", shown), ("crop: upright, 256 px", pillow(cut(turned, faces).images[0]))], height=256)


@picture(HELP / "PoseFRRestoreFaces.jpg")
def restore_faces() -> Image.Image:
    crops = cut(group())
    out = restorer().restore(crops.images)
    return sheet([("images", beside(crops.images))], [("restored", beside(out))], height=220)


@picture(HELP / "PoseFRPasteFaces.jpg")
def paste_faces() -> Image.Image:
    area = face_area(photos.astronaut(), factor=2.6)
    crops = cut(portrait())
    faces = restorer().restore(crops.images)
    masks, images = [], []
    for mask in ("ellipse", "box", "hull"):
        out, covered = posefr.paste_faces(
            tensor(portrait()), crops, faces, mask=mask, feather=8, color_match="mean_std"
        )
        images.append((f"mask {mask}", enlarged(pillow(out[0]), area, 220)))
        masks.append(("what is replaced", enlarged(pillow(covered[0].unsqueeze(-1).expand(-1, -1, 3)), area, 220)))
    return sheet(images, masks)


@picture(HELP / "PoseFRTrackFaces.jpg")
def track_faces() -> Image.Image:
    clip = photos.pan(frames=12)
    frames = torch.from_numpy(clip).float() / 255
    faces = posefr.smooth_faces(posefr.track_faces(detector().detect(frames)))
    shown = draw_faces(frames, faces)[::4, :260, 20:320]
    return sheet([(f"frame {4 * i}", pillow(image)) for i, image in enumerate(shown)], height=220)


@picture(HELP / "PoseFRFacePartsMask.jpg")
def face_parts_mask() -> Image.Image:
    """A drawing that tells which part is which; the networks that find them are not bundled."""
    colours = {
        "hat": (214, 120, 90),
        "hair": (120, 84, 60),
        "skin": (240, 205, 175),
        "glasses": (70, 140, 220),
        "neck": (205, 165, 135),
    }
    whole = Image.new("RGB", (420, 340), (235, 235, 235))
    pen, font = ImageDraw.Draw(whole), ImageFont.load_default(size=17)
    pen.rounded_rectangle((55, 70, 245, 270), 80, fill=colours["hair"])
    pen.polygon([(110, 240), (190, 240), (200, 300), (250, 340), (50, 340), (100, 300)], fill=colours["neck"])
    pen.ellipse((75, 75, 225, 275), fill=colours["skin"])
    pen.pieslice((60, 15, 240, 195), 180, 360, fill=colours["hat"])
    pen.rectangle((40, 100, 260, 116), fill=colours["hat"])
    for left in (88, 158):
        pen.rounded_rectangle((left, 140, left + 54, 176), 10, outline=colours["glasses"], width=8)
        pen.ellipse((left + 21, 152, left + 33, 164), fill=DARK)
    pen.line((142, 155, 158, 155), fill=colours["glasses"], width=8)
    pen.line((150, 172, 146, 205, 156, 205), fill=DARK, width=3)
    pen.arc((115, 205, 185, 245), 20, 160, fill=DARK, width=4)
    for row, (name, colour) in enumerate(colours.items()):
        pen.rectangle((300, 70 + 40 * row, 322, 92 + 40 * row), fill=colour)
        pen.text((332, 81 + 40 * row), name, font=font, anchor="lm", fill=DARK)
    return whole


@picture(HELP / "PoseFRFacesToBoxes.jpg")
def faces_to_boxes() -> Image.Image:
    return sheet([("faces", marked(good_group()))], [("boxes", boxed(good_group()))])


@picture(HELP / "PoseFRFacesFromBoxes.jpg")
def faces_from_boxes() -> Image.Image:
    return sheet([("boxes", boxed(good_group()))], [("faces: with eyes, nose and mouth", marked(good_group()))])


# The thumbnails, from the pictures that the workflows saved


def thumbnail(name: str, before: np.ndarray, after: np.ndarray, previewed: Image.Image | None) -> Image.Image:
    """512 px square, from what went in and what came out, [frames, height, width, 3]."""
    old, new = ([Image.fromarray(frame.astype(np.uint8)) for frame in frames] for frames in (before, after))
    if name == "choose_faces_by_index" and previewed is not None:
        whole = Image.new("RGB", (512, 512), DARK)
        for top, image in ((32, previewed), (264, new[0])):
            whole.paste(image.resize((512, round(512 * image.height / image.width))), (0, top))
        return whole
    if len(old) > 1:
        whole = Image.new("RGB", (512, 512), DARK)
        for place, frame in enumerate((0, 2, 4, 6)):
            area = face_area(photos.astronaut(), factor=2.0)
            area = tuple(v - shift for v, shift in zip(area, (40 + 6 * frame, 2 * frame) * 2, strict=True))
            both = split(enlarged(old[frame], area, 254), enlarged(new[frame], area, 254))
            whole.paste(both, (place % 2 * 258, place // 2 * 258))
        return whole
    index = {"restore_faces_step_by_step": 2, "restore_small_faces_after_sampler": 1}.get(name, 0)
    area = face_area(photos.group(), index, factor=2.4)
    return split(enlarged(old[0], area, 512), enlarged(new[0], area, 512))


def run_examples(server: comfyui_server.Server) -> None:
    offers = server.ask("/object_info")
    for name in examples.NAMES:
        workflow = examples.ready(name, offers)
        entry = server.run(workflow)
        by_kind = {node["class_type"]: number for number, node in workflow.items()}
        saver = next(number for kind, number in by_kind.items() if kind.startswith("Save"))
        saved = photos.read_frames(server.pictures(entry, saver)[0])
        before = photos.read_frames(server.base / "input" / examples.source(name))
        preview = by_kind.get("PoseFRPreviewFaces")
        previewed = Image.open(server.pictures(entry, preview)[0]).convert("RGB") if preview else None
        write(EXAMPLES / f"{name}.jpg", thumbnail(name, before, saved, previewed))


def take_screenshot(server: comfyui_server.Server) -> None:
    chromium = front_end.browser_path()
    if chromium is None:
        print("no screenshot: it needs a Chromium, which CHROMIUM names or the search path has")
        return
    draw_icon()
    with tempfile.TemporaryDirectory() as folder:
        view = {"width": 2000, "height": 1000}
        with front_end.open_front_end(server.url, Path(folder), chromium, view) as page:
            page.load(examples.read("restore_faces_step_by_step"))
            page.set("LoadImage", "image", "group.png")
            page.run()
            page.page.wait_for_timeout(2000)
            page.fit()
            shot = Image.open(page.shot("nodes")).convert("RGB").crop(page.graph_area())
        write(README / "nodes.jpg", shot)


def draw_icon() -> None:
    """The icon as PNG, since not every place that shows it takes SVG."""
    from playwright.sync_api import sync_playwright

    svg = (README / "icon.svg").read_text(encoding="utf-8")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=front_end.browser_path(), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 400, "height": 400})
        page.set_content(f"<style>body {{ margin: 0; background: transparent }}</style>{svg}")
        page.screenshot(path=README / "icon.png", omit_background=True)
        browser.close()


def write(path: Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=85, optimize=True)
    print(f"{path.relative_to(ROOT)}  {image.width}x{image.height}, {path.stat().st_size / 1024:.0f} KiB")


def main() -> None:
    for path, make in MADE:
        write(path, make())
    comfyui = comfyui_server.from_environment()
    if comfyui is None:
        print(f"no thumbnails and no screenshot: they {comfyui_server.NEEDED.replace('needs', 'need', 1)}")
        return
    with tempfile.TemporaryDirectory() as folder:
        examples.prepare(Path(folder), group())
        with comfyui_server.running(comfyui, Path(folder)) as server:
            run_examples(server)
            take_screenshot(server)


if __name__ == "__main__":
    main()
