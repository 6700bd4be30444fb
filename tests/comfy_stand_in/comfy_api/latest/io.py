"""Stand-in: sockets, widgets and the schema of a node."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Hidden(str, Enum):
    unique_id = "UNIQUE_ID"
    prompt = "PROMPT"
    extra_pnginfo = "EXTRA_PNGINFO"


class NumberDisplay(str, Enum):
    slider = "slider"


@dataclass
class _Input:
    id: str
    optional: bool = False
    tooltip: str | None = None
    lazy: bool | None = None
    extra_dict: dict | None = None


@dataclass
class _WidgetInput:
    id: str
    optional: bool = False
    default: Any = None
    tooltip: str | None = None
    advanced: bool | None = None


@dataclass
class _Output:
    display_name: str | None = None
    tooltip: str | None = None
    is_output_list: bool = False


class _Socket:
    """A type of socket; `Input` and `Output` make one, as in the host."""

    io_type: str
    Input: type = _Input
    Output: type = _Output


def Custom(io_type):
    return type(io_type, (_Socket,), {"io_type": io_type})


Image = Custom("IMAGE")
Mask = Custom("MASK")
Video = Custom("VIDEO")
UpscaleModel = Custom("UPSCALE_MODEL")


class MultiType:
    @dataclass
    class Input(_Input):
        types: list[type] = field(default_factory=list)


class Int(_Socket):
    io_type = "INT"

    @dataclass
    class Input(_WidgetInput):
        min: int | None = None
        max: int | None = None
        step: int | None = None
        control_after_generate: bool | None = None


class Float(_Socket):
    io_type = "FLOAT"

    @dataclass
    class Input(_WidgetInput):
        min: float | None = None
        max: float | None = None
        step: float | None = None
        display_mode: NumberDisplay | None = None


class String(_Socket):
    io_type = "STRING"

    @dataclass
    class Input(_WidgetInput):
        pass


class Boolean(_Socket):
    io_type = "BOOLEAN"

    @dataclass
    class Input(_WidgetInput):
        pass


class Combo(_Socket):
    io_type = "COMBO"

    @dataclass
    class Input(_WidgetInput):
        options: list[str] | None = None


@dataclass
class Schema:
    node_id: str
    display_name: str | None = None
    category: str = "sd"
    inputs: list = field(default_factory=list)
    outputs: list = field(default_factory=list)
    hidden: list = field(default_factory=list)
    description: str = ""
    search_aliases: list[str] = field(default_factory=list)
    is_output_node: bool = False
    is_input_list: bool = False


class NodeOutput:
    def __init__(self, *args, ui=None):
        self.args, self.ui = args, ui


@dataclass
class _HiddenHolder:
    unique_id: str


class ComfyNode:
    hidden: _HiddenHolder
