"""The only file that talks to ComfyUI: device, offload, progress, interruption, memory, folders, notes on a node.

Every call works without a host too (command line, tests): networks stay where they were put, progress goes nowhere.
The host's modules are looked up among those already imported and never imported from here: inside ComfyUI they are all
there before any pack loads, and elsewhere importing them would parse a command line that is not theirs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

__all__ = [
    "DETECTOR_FOLDERS",
    "PARSER_FOLDERS",
    "RESTORER_FOLDERS",
    "Hosted",
    "adopt",
    "folders",
    "hand_over",
    "load",
    "loading_device",
    "note",
    "progress",
    "register_folders",
    "stop_if_interrupted",
    "with_smaller_batches",
]

OWN_FOLDER = "posefr"
# Our own key comes first where we write nothing; downloads go to the first, so that other packs find them too.
DETECTOR_FOLDERS = ("facedetection", "facexlib", OWN_FOLDER)
PARSER_FOLDERS = ("facexlib", "face_parsing", OWN_FOLDER)
RESTORER_FOLDERS = (OWN_FOLDER, "facerestore_models")

_STEPS = 1000  # resolution of the progress bar; a stage is a share of it


class _HasNetwork(Protocol):
    @property
    def network(self) -> nn.Module: ...


Model = TypeVar("Model", bound=_HasNetwork)
Result = TypeVar("Result")


@dataclass(frozen=True)
class Hosted(Generic[Model]):
    """A detector or restorer and the host's patcher that moves its network between memory and the compute device."""

    model: Model
    patcher: Any = None


def _host(module: str) -> Any:
    """A module of the host, or None outside ComfyUI."""
    return sys.modules.get(module)


def loading_device() -> torch.device | None:
    """Where a network is to be loaded before the host moves it; None outside ComfyUI: the loader decides."""
    management = _host("comfy.model_management")
    return None if management is None else management.unet_offload_device()


def adopt(model: Model) -> Hosted[Model]:
    """Give a model's network to the host, which from now on decides where it is."""
    management, patchers = _host("comfy.model_management"), _host("comfy.model_patcher")
    if management is None or patchers is None:
        return Hosted(model)
    patcher = getattr(patchers, "CoreModelPatcher", patchers.ModelPatcher)
    return Hosted(
        model,
        patcher(
            model.network,
            load_device=management.get_torch_device(),
            offload_device=management.unet_offload_device(),
        ),
    )


def load(hosted: Hosted[Model], memory: float) -> Model:
    """Have the host bring the network onto the compute device and leave `memory` bytes free beside it."""
    if hosted.patcher is not None:
        management = _host("comfy.model_management")
        management.load_models_gpu([hosted.patcher], memory_required=memory, force_full_load=True)
    return hosted.model


def stop_if_interrupted() -> None:
    """Raise the host's own exception when the user pressed stop."""
    management = _host("comfy.model_management")
    if management is not None:
        management.throw_exception_if_processing_interrupted()


def progress(stages: int = 1) -> list[Callable[[int, int], None]]:
    """One `on_chunk(done, total)` per stage, all filling one bar on the node; each call stops if interrupted."""
    utils = _host("comfy.utils")
    bar = None if utils is None else utils.ProgressBar(_STEPS)

    def stage(index: int) -> Callable[[int, int], None]:
        def on_chunk(done: int, total: int) -> None:
            stop_if_interrupted()
            if bar is not None and total > 0:
                bar.update_absolute(round(_STEPS * (index + done / total) / stages))

        return on_chunk

    return [stage(index) for index in range(stages)]


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


def note(node_id: str | None, text: str) -> None:
    """Show a line of text on a node in the front end."""
    server = getattr(getattr(_host("server"), "PromptServer", None), "instance", None)
    if node_id is not None and server is not None and hasattr(server, "send_progress_text"):
        server.send_progress_text(text, node_id)
