"""PoseFR as ComfyUI imports it: the entry point of the nodes and the folder of their help pages."""

from .nodes import comfy_entrypoint

WEB_DIRECTORY = "./web"

__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
