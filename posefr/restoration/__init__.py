"""Restoration of aligned face crops: PoseFR's network, and foreign ones through spandrel."""

from .cost import Cost, cost_of
from .foreign import restorer_from
from .restorer import Restorer, load_restorer, restorer_names, restorer_stamp

__all__ = ["Cost", "Restorer", "cost_of", "load_restorer", "restorer_from", "restorer_names", "restorer_stamp"]
