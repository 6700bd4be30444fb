"""A real ComfyUI for the tests in this folder.

COMFYUI_DIR names its checkout, COMFYUI_PYTHON the Python that has its requirements and ours (default: this one).
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class ComfyUI:
    folder: Path
    python: str


@pytest.fixture(scope="session")
def comfyui() -> ComfyUI:
    if "COMFYUI_DIR" not in os.environ:
        pytest.skip("needs a real ComfyUI: set COMFYUI_DIR to a checkout and COMFYUI_PYTHON to its Python")
    folder = Path(os.environ["COMFYUI_DIR"])
    assert (folder / "main.py").is_file(), f"COMFYUI_DIR is {folder}, which holds no main.py"
    return ComfyUI(folder, os.environ.get("COMFYUI_PYTHON", sys.executable))


class Server:
    """A running ComfyUI."""

    def __init__(self, base: Path, port: int, process: subprocess.Popen[bytes]) -> None:
        self.base, self.url, self.process = base, f"http://127.0.0.1:{port}", process

    def ask(self, path: str, body: object = None) -> dict:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or b"null")

    def log(self) -> str:
        return (self.base / "server.log").read_text(errors="replace")

    def queue(self, workflow: dict) -> str:
        return self.ask("/prompt", {"prompt": workflow})["prompt_id"]

    def result(self, prompt: str, limit: float = 300.0) -> dict:
        """The history entry of a prompt once it has ended, well or not."""
        end = time.monotonic() + limit
        while time.monotonic() < end:
            history = self.ask(f"/history/{prompt}")
            if prompt in history:
                return history[prompt]
            time.sleep(0.1)
        raise TimeoutError(f"prompt {prompt} did not end within {limit:.0f} s; the log ends:\n{self.log()[-3000:]}")

    def run(self, workflow: dict) -> dict:
        entry = self.result(self.queue(workflow))
        assert entry["status"]["status_str"] == "success", entry["status"]["messages"]
        return entry

    def pictures(self, entry: dict, node: str) -> list[Path]:
        return [self.base / i["type"] / i["subfolder"] / i["filename"] for i in entry["outputs"][node]["images"]]


# A node for tests alone: a restorer that runs out of memory with more than two faces at a time.
TIGHT = """
import dataclasses
import torch

class Tight:
    def __init__(self, inner):
        self.inner = inner

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def restore(self, crops, *, batch, **options):
        if batch > 2:
            raise torch.cuda.OutOfMemoryError("forced by a test")
        return self.inner.restore(crops, batch=batch, **options)

class TightRestorer:
    INPUT_TYPES = classmethod(lambda cls: {"required": {"restorer": ("POSEFR_RESTORER",)}})
    RETURN_TYPES = ("POSEFR_RESTORER",)
    FUNCTION = "wrap"
    CATEGORY = "tests"

    def wrap(self, restorer):
        return (dataclasses.replace(restorer, model=Tight(restorer.model)),)

NODE_CLASS_MAPPINGS = {"TestTightRestorer": TightRestorer}
"""


# Where the user keeps models outside ComfyUI's own folder.
EXTRA_PATHS = """
elsewhere:
    base_path: {base}/elsewhere
    facedetection: detectors
    posefr: restorers
"""


@pytest.fixture(scope="session")
def server(comfyui, tmp_path_factory):
    base = tmp_path_factory.mktemp("comfyui")
    for folder in (
        "custom_nodes",
        "input",
        "output",
        "temp",
        "user/default",
        "models",
        "elsewhere/detectors",
        "elsewhere/restorers",
    ):
        (base / folder).mkdir(parents=True)
    (base / "custom_nodes" / "ComfyUI-PoseFR").symlink_to(ROOT, target_is_directory=True)
    (base / "custom_nodes" / "tight_restorer.py").write_text(TIGHT)
    (base / "extra.yaml").write_text(EXTRA_PATHS.format(base=base))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [comfyui.python, "main.py", "--cpu", "--listen", "127.0.0.1", "--port", str(port)]
    command += ["--base-directory", str(base), "--database-url", "sqlite:///:memory:"]
    command += ["--extra-model-paths-config", str(base / "extra.yaml")]
    command += ["--disable-auto-launch", "--disable-api-nodes"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}
    with open(base / "server.log", "wb") as log:
        process = subprocess.Popen(command, cwd=comfyui.folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
    running = Server(base, port, process)
    try:
        for _ in range(600):
            assert process.poll() is None, f"ComfyUI ended while starting:\n{running.log()[-3000:]}"
            try:
                running.ask("/system_stats")
                break
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.3)
        yield running
    finally:
        process.terminate()
        process.wait(30)
