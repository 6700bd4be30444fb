"""Stand-in: the part of the V3 node API that the nodes use."""

import shutil
from abc import ABC, abstractmethod

from . import io, ui

__all__ = ["ComfyExtension", "InputImpl", "io", "ui"]


class ComfyExtension(ABC):
    @abstractmethod
    async def get_node_list(self): ...


class InputImpl:
    class VideoFromFile:
        def __init__(self, file, *, start_time=0, duration=0):
            self._file, self._window = file, (float(start_time), float(duration))

        def get_stream_source(self):
            return self._file

        def get_active_trim_window(self):
            return self._window

        def save_to(self, path):
            shutil.copyfile(self._file, path)
