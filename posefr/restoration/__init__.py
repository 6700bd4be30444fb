"""Restoration of aligned face crops: PoseFR's network, and foreign ones through spandrel."""

from .restorer import Restorer, load_restorer, restorer_names

__all__ = ["Restorer", "load_restorer", "restorer_names"]
