"""What `import posefr` may cost: no connection, no detection or model library, no absolute import of itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

PROBE = """
import socket, sys

def refuse(*args, **kwargs):
    raise AssertionError("a connection was tried")

socket.socket.connect = socket.socket.connect_ex = socket.create_connection = socket.getaddrinfo = refuse
import posefr
{use}
print(*(m for m in {heavy!r} if m in sys.modules))
"""


def _loaded(use: str, heavy: list[str]) -> list[str]:
    """Which of the modules `heavy` a fresh interpreter has loaded after importing posefr and running `use`."""
    code = PROBE.format(use=use, heavy=heavy)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_import_alone_loads_neither_torch_nor_anything_heavy():
    assert _loaded("", ["torch", "numpy", "cv2", "PIL", "facexlib", "torchvision", "spandrel", "skimage"]) == []


@pytest.mark.parametrize(
    "use", ["[getattr(posefr, n) for n in posefr.__all__]", "import posefr.cli, posefr.imagefiles"]
)
def test_using_every_public_name_opens_no_connection_and_loads_no_network_library(use):
    assert _loaded(use, ["facexlib", "torchvision", "spandrel", "skimage", "numba"]) == []


def test_an_unknown_name_is_an_attribute_error():
    import posefr

    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = posefr.nonsense
    assert set(posefr.__all__) <= set(dir(posefr))


@pytest.mark.parametrize("path", sorted((ROOT / "posefr").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_library_imports_itself_relatively(path):
    """ComfyUI imports a cloned pack under the folder's name, without installing it: `import posefr` fails there."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        assert not [n for n in names if n.split(".")[0] == "posefr"], f"{path.name}:{node.lineno}"
