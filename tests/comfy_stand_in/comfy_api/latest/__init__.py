"""Stand-in: the part of the V3 node API that the nodes use."""

from abc import ABC, abstractmethod

from . import io, ui

__all__ = ["ComfyExtension", "io", "ui"]


class ComfyExtension(ABC):
    @abstractmethod
    async def get_node_list(self): ...
