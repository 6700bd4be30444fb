"""The stand-in that the fast tests use promises nothing that a real ComfyUI does not have."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

STAND_IN = Path(__file__).resolve().parents[1] / "comfy_stand_in"
MODULES = ["comfy.model_management", "comfy.model_patcher", "comfy.utils", "comfy_api.latest", "folder_paths", "server"]

# Prints {"module:Outer.inner": [[parameter, required], ...] or null} for every public name of the stand-in.
LIST = """
import enum, importlib, inspect, json, sys

def parameters(value):
    if not callable(value) or (isinstance(value, type) and issubclass(value, (BaseException, enum.Enum))):
        return None
    return [[p.name, p.default is p.empty and p.kind is not p.VAR_POSITIONAL]
            for p in inspect.signature(value).parameters.values()]

def walk(owner, path):
    for name in dir(owner):
        value = getattr(owner, name)
        if name.startswith("_") or name in (*getattr(owner, "FOR_TESTS", ()), "FOR_TESTS"):
            continue
        if isinstance(owner, type) and not callable(value):
            continue
        of_stand_in = getattr(value, "__module__", owner.__name__) in names or inspect.ismodule(value)
        if not of_stand_in or (inspect.ismodule(value) and value.__name__ not in names):
            continue
        found[path + name] = parameters(value)
        if isinstance(value, type) and issubclass(value, enum.Enum):
            found.update({f"{path}{name}.{member}": None for member in value.__members__})
        elif isinstance(value, type) or inspect.ismodule(value):
            walk(value, f"{path}{name}.")

sys.path.insert(0, sys.argv[1])
found, names = {}, [*sys.argv[2:], "comfy_api.latest.io", "comfy_api.latest.ui"]
for module in sys.argv[2:]:
    walk(importlib.import_module(module), module + ":")
print(json.dumps(found))
"""

# Reads that list and prints what a real ComfyUI lacks of it.
COMPARE = """
import importlib, inspect, json, sys
folder, expected, sys.argv[1:] = sys.argv[1], json.load(sys.stdin), ["--cpu"]
sys.path.insert(0, folder)
import comfy.options
comfy.options.enable_args_parsing()
missing = []
for path, parameters in expected.items():
    module, names = path.split(":")
    value = importlib.import_module(module)
    try:
        for name in names.split("."):
            value = getattr(value, name)
    except AttributeError:
        missing.append(path)
        continue
    if parameters is None:
        continue
    real = inspect.signature(value).parameters
    taken = list(real)
    anything = any(p.kind is p.VAR_KEYWORD for p in real.values())
    anywhere = any(p.kind is p.VAR_POSITIONAL for p in real.values())
    for place, (name, required) in enumerate(parameters):
        by_place = anywhere or (place < len(taken) and taken[place] == name)
        if not (by_place if required else anything or name in taken):
            missing.append(f"{path}({name}) of {taken}")
print("\\n" + json.dumps(missing))
"""


def _run(python: str, code: str, *arguments: str, given: str = "", folder: Path = STAND_IN) -> str:
    done = subprocess.run([python, "-c", code, *arguments], input=given, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_a_real_comfyui_has_every_name_and_parameter_of_the_stand_in(comfyui):
    version = re.search(r"(\d+)\.(\d+)", (comfyui.folder / "comfyui_version.py").read_text())
    if (int(version[1]), int(version[2])) < (0, 17):
        pytest.skip("the stand-in is ComfyUI 0.17 or newer; the other tests here cover the fallbacks for older ones")
    promised = _run(sys.executable, LIST, str(STAND_IN), *MODULES)
    assert len(json.loads(promised)) > 30
    missing = _run(comfyui.python, COMPARE, str(comfyui.folder), given=promised, folder=comfyui.folder)
    assert json.loads(missing) == []
