"""Face detection: facexlib's RetinaFace networks behind one small interface."""

from __future__ import annotations

from .detector import Detector, detector_names, detector_stamp, load_detector
from .torchvision_repair import ensure_torchvision

__all__ = ["Detector", "detector_names", "detector_stamp", "ensure_torchvision", "load_detector"]
