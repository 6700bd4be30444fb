"""The only file that talks to ComfyUI: device, offload, progress, interruption, memory, folders, notes on a node.

Every call works without a host too (command line, tests): networks stay where they were put, progress goes nowhere.
The host's modules are looked up among those already imported and never imported from here: inside ComfyUI they are all
there before any pack loads, and elsewhere importing them would parse a command line that is not theirs.
"""

from __future__ import annotations

import io
import math
import sys
import tempfile
import uuid
import weakref
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .devices import desk_of

__all__ = [
    "DETECTOR_FOLDERS",
    "PARSER_FOLDERS",
    "RESTORER_FOLDERS",
    "Hosted",
    "Stage",
    "adopt",
    "folders",
    "forget",
    "hand_over",
    "keep",
    "keep_while",
    "load",
    "loading_device",
    "note",
    "progress",
    "register_folders",
    "same_again",
    "stop_if_interrupted",
    "temporary_file",
    "video",
    "video_source",
    "with_smaller_batches",
]

OWN_FOLDER = "posefr"
# Our own key comes first where we write nothing; downloads go to the first, so that other packs find them too.
DETECTOR_FOLDERS = ("facedetection", "facexlib", OWN_FOLDER)
PARSER_FOLDERS = ("facexlib", "face_parsing", OWN_FOLDER)
RESTORER_FOLDERS = (OWN_FOLDER, "facerestore_models")

_STEPS = 1000  # resolution of the progress bar; a stage is a share of it
_PREVIEW_SIDE = 512  # px, of the picture that a node shows while it runs
_KEPT_OF_A_KIND = 2
_PATCHER = "_posefr_patcher"


class _HasNetwork(Protocol):
    @property
    def network(self) -> nn.Module: ...


Model = TypeVar("Model", bound=_HasNetwork)
Result = TypeVar("Result")


@dataclass(frozen=True)
class Hosted(Generic[Model]):
    """A detector or restorer and the host's patcher that moves its network between memory and the compute device.

    Attributes:
        model: the detector or restorer.
        patcher: None outside ComfyUI.
        moved_by_others: whether nodes that know nothing of the patcher move the network too.
    """

    model: Model
    patcher: Any = None
    moved_by_others: bool = False

    @property
    def device(self) -> torch.device | None:
        """Where pictures are worked on beside the network; None outside ComfyUI."""
        return None if self.patcher is None else desk_of(self.patcher.load_device)


def _host(module: str) -> Any:
    """A module of the host, or None outside ComfyUI."""
    return sys.modules.get(module)


def loading_device() -> torch.device | None:
    """Where a network is to be loaded before the host moves it; None outside ComfyUI: the loader decides."""
    management = _host("comfy.model_management")
    return None if management is None else management.unet_offload_device()


def adopt(model: Model, owner: Any = None) -> Hosted[Model]:
    """Give a model's network to the host, which from now on decides where it is.

    Args:
        model: a detector or restorer.
        owner: what holds the network, where another pack loaded it. Its patcher is used, or it gets one, which then
            lives as long as the network: the host takes a network that outlives its patcher for a leak.
    """
    management, patchers = _host("comfy.model_management"), _host("comfy.model_patcher")
    if management is None or patchers is None:
        return Hosted(model)
    of_host = getattr(owner, "patcher", None)
    patcher = of_host or getattr(owner, _PATCHER, None)
    if patcher is None:
        patcher = getattr(patchers, "CoreModelPatcher", patchers.ModelPatcher)(
            model.network,
            load_device=management.get_torch_device(),
            offload_device=management.unet_offload_device(),
        )
        if owner is not None:
            setattr(owner, _PATCHER, patcher)
    # Older hosts give upscale models no patcher: their own node takes the network to the device and back.
    return Hosted(model, patcher, moved_by_others=owner is not None and of_host is None)


_kept: dict[str, dict[Hashable, Any]] = {}
# The host's caches hold on to what a node handed on, also when it has dropped the node: what is still there is used.
_made: weakref.WeakValueDictionary[tuple[str, Hashable], Any] = weakref.WeakValueDictionary()
_nodes = 0


def keep(kind: str, key: Callable[[], Hashable], make: Callable[[], Result]) -> Result:
    """What `make` made for this key before, or makes now. Of each kind the two that were used last are kept.

    The key is asked for again after it was made, since that may fetch the file that the key tells of.
    """
    kept = _kept.setdefault(kind, {})
    known = key()
    made = kept.pop(known, None) or _made.get((kind, known)) or make()
    known = key()
    kept[known] = _made[kind, known] = made
    while len(kept) > _KEPT_OF_A_KIND:
        kept.pop(next(iter(kept)))
    return made


@dataclass(frozen=True)
class _Latest:
    images: weakref.ref[Tensor]
    models: tuple[weakref.ref[Any], ...]
    settings: tuple[Any, ...]
    result: Any

    def was_for(self, images: Tensor, models: Sequence[Any], settings: tuple[Any, ...]) -> bool:
        made_by = [model() for model in self.models]
        return self.images() is images and made_by == [*models] and self.settings == settings


_latest: _Latest | None = None


def same_again(images: Tensor, models: Sequence[Any], settings: tuple[Any, ...], make: Callable[[], Result]) -> Result:
    """What `make` made the last time, if that was for these very images, models and settings, or what it makes now.

    For a node of several steps, so that a change of the last one's settings does not repeat the first. The host hands
    on the same tensor as long as nothing before the node has changed. With it goes what was made of it; models are not
    kept by this.
    """
    global _latest
    if _latest is not None and _latest.was_for(images, models, settings):
        return _latest.result
    _latest = None  # before there is something new to hold
    result = make()
    _latest = _Latest(weakref.ref(images, _let_latest_go), tuple(map(weakref.ref, models)), settings, result)
    return result


def _let_latest_go(images: weakref.ref[Tensor]) -> None:
    global _latest
    if _latest is not None and _latest.images is images:
        _latest = None


def keep_while(node: Any) -> None:
    """What is kept stays until the last of the nodes that this was called with is gone.

    The host holds an instance of each node of its workflow, and drops it when the workflow changes or when it is asked
    to free its memory. So networks go when it drops what it keeps itself.
    """
    global _nodes
    _nodes += 1
    weakref.finalize(node, _let_go).atexit = False


def _let_go() -> None:
    global _nodes
    _nodes -= 1
    if _nodes == 0:
        forget()


def forget() -> None:
    """Let go of all that is kept here. What the host still holds is found again."""
    global _latest
    _kept.clear()
    _latest = None


def load(hosted: Hosted[Model], memory: float) -> Model:
    """Have the host bring the network onto the compute device and leave `memory` bytes free beside it."""
    if hosted.patcher is not None:
        management = _host("comfy.model_management")
        management.load_models_gpu([hosted.patcher], memory_required=memory, force_full_load=True)
        # With --novram the host leaves a network of plain torch layers where it is, and it may take one for loaded
        # that another node has taken away. Where it streams weights as they are needed, it has moved what it must.
        streams = getattr(hosted.patcher, "is_dynamic", lambda: False)()
        if hosted.moved_by_others or not streams:
            hosted.model.network.to(hosted.patcher.load_device)
    return hosted.model


def stop_if_interrupted() -> None:
    """Raise the host's own exception when the user pressed stop."""
    management = _host("comfy.model_management")
    if management is not None:
        management.throw_exception_if_processing_interrupted()


class Stage:
    """A share of a node's progress bar. Called as `stage(done, total)` it fills, and stops if the user asked for it."""

    def __init__(self, bar: Any, start: float, share: float) -> None:
        self._bar, self._start, self._share = bar, start, share
        self._at = start
        self._preview: Any = None

    def standing(self) -> Stage:
        """A stage that stays where this one is: it shows faces and stops, and does not fill."""
        return Stage(self._bar, self._at, 0.0)

    def show(self, faces: Tensor) -> None:
        """Show faces [n, S, S, 3], 0..1, on the node with the next step of the bar."""
        if self._bar is not None and len(faces):
            self._preview = ("JPEG", _contact_sheet(faces), _PREVIEW_SIDE)

    def __call__(self, done: int, total: int) -> None:
        stop_if_interrupted()
        if total > 0:
            self._at = self._start + self._share * done / total
        if self._bar is not None and total > 0:
            self._bar.update_absolute(round(_STEPS * self._at), preview=self._preview)
        self._preview = None


def _contact_sheet(faces: Tensor) -> Any:
    """The faces [n, S, S, 3] in rows, as a PIL image of `_PREVIEW_SIDE` px at most."""
    from PIL import Image

    columns = math.ceil(math.sqrt(len(faces)))
    rows = math.ceil(len(faces) / columns)
    side = min(faces.shape[1], _PREVIEW_SIDE // columns)
    small = F.interpolate(
        faces.detach().float().cpu().permute(0, 3, 1, 2), (side, side), mode="bilinear", antialias=True
    )
    sheet = torch.zeros(rows * columns, 3, side, side)
    sheet[: len(faces)] = small
    sheet = sheet.view(rows, columns, 3, side, side).permute(0, 3, 1, 4, 2).reshape(rows * side, columns * side, 3)
    return Image.fromarray((sheet.clamp(0, 1) * 255).round().byte().numpy())


def progress(stages: int = 1) -> list[Stage]:
    """Stages that fill one bar on the node, one after the other, an equal share each."""
    utils = _host("comfy.utils")
    bar = None if utils is None else utils.ProgressBar(_STEPS)
    return [Stage(bar, index / stages, 1 / stages) for index in range(stages)]


def _out_of_memory(error: Exception) -> bool:
    management = _host("comfy.model_management")
    if management is not None and hasattr(management, "is_oom") and management.is_oom(error):
        return True
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        words in said for words in ("out of memory", "can't allocate memory", "not enough memory")
    )


def with_smaller_batches(run: Callable[[int], Result], batch: int) -> tuple[Result, int]:
    """Call `run(batch)`; while memory runs out, halve the batch and call it again.

    Returns its result and the batch that fitted. With a batch of 1 the error goes on to the host, which unloads models
    and says so.
    """
    while True:
        try:
            return run(batch), batch
        except Exception as error:
            if batch <= 1 or not _out_of_memory(error):
                raise
        batch //= 2
        management = _host("comfy.model_management")
        if management is not None:
            management.soft_empty_cache()
        elif torch.cuda.is_available():
            torch.cuda.empty_cache()


def hand_over(images: Tensor) -> Tensor:
    """Images or masks as the host wants them between nodes: on its device, in its dtype."""
    management = _host("comfy.model_management")
    if management is None:
        return images
    dtype = management.intermediate_dtype() if hasattr(management, "intermediate_dtype") else torch.float32
    return images.to(management.intermediate_device(), dtype)


def register_folders() -> None:
    """Make models/posefr known to the host, in addition to what extra_model_paths.yaml says."""
    paths = _host("folder_paths")
    if paths is None:
        return
    known, extensions = paths.folder_names_and_paths.get(OWN_FOLDER, ([], set()))
    default = str(Path(paths.models_dir) / OWN_FOLDER)
    paths.folder_names_and_paths[OWN_FOLDER] = (
        [*known, *([] if default in known else [default])],
        set(extensions) | set(paths.supported_pt_extensions),
    )


def folders(names: Sequence[str]) -> list[Path]:
    """The folders behind some of the host's model folder names, asked anew each time; [] outside ComfyUI.

    Other packs replace the shared names as they load. So what is registered now comes first, models/<name> after it.
    """
    paths = _host("folder_paths")
    if paths is None:
        return []
    found: list[Path] = []
    for name in names:
        registered = paths.folder_names_and_paths.get(name, ([],))[0]
        found += [Path(path) for path in (*registered, str(Path(paths.models_dir) / name))]
    return list(dict.fromkeys(found))


def video_source(video: Any) -> tuple[str | io.BytesIO, float, float]:
    """A VIDEO as a file's path or its bytes, and the part of it that is meant: start and duration in seconds, of which
    a duration of 0 is all that follows."""
    window = getattr(video, "get_active_trim_window", None)
    if window is not None:
        return (video.get_stream_source(), *window())
    made = temporary_file(".mp4")  # older hosts do not tell what they cut off, and write into files alone
    made.parent.mkdir(parents=True, exist_ok=True)
    video.save_to(str(made))
    return str(made), 0.0, 0.0


def temporary_file(suffix: str) -> Path:
    """A name for a file that the host deletes when it starts or ends."""
    paths = _host("folder_paths")
    folder = Path(tempfile.gettempdir() if paths is None else paths.get_temp_directory())
    return folder / f"posefr-{uuid.uuid4().hex}{suffix}"


def video(path: Path) -> Any:
    """A file as the host's VIDEO."""
    api = _host("comfy_api.latest")
    return path if api is None else api.InputImpl.VideoFromFile(str(path))


def note(node_id: str | None, text: str) -> None:
    """Show a line of text on a node in the front end."""
    server = getattr(getattr(_host("server"), "PromptServer", None), "instance", None)
    if node_id is not None and server is not None and hasattr(server, "send_progress_text"):
        server.send_progress_text(text, node_id)
