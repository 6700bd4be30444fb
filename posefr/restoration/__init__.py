"""Restoration of aligned face crops: PoseFR's network, and foreign ones through spandrel."""

from .foreign import restorer_from
from .restorer import Restorer, file_stamp, load_restorer, restorer_names

__all__ = ["Restorer", "file_stamp", "load_restorer", "restorer_from", "restorer_names"]
