"""A real ComfyUI with the pack in it, for the host tests, the browser tests, the soak and the pictures.

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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NEEDED = "needs a real ComfyUI: set COMFYUI_DIR to a checkout and COMFYUI_PYTHON to its Python"


@dataclass(frozen=True)
class ComfyUI:
    folder: Path
    python: str


def from_environment() -> ComfyUI | None:
    """What COMFYUI_DIR and COMFYUI_PYTHON name; None if the first is not set."""
    if "COMFYUI_DIR" not in os.environ:
        return None
    folder = Path(os.environ["COMFYUI_DIR"])
    assert (folder / "main.py").is_file(), f"COMFYUI_DIR is {folder}, which holds no main.py"
    return ComfyUI(folder, os.environ.get("COMFYUI_PYTHON", sys.executable))


class Server:
    """A running ComfyUI."""

    def __init__(self, base: Path, port: int, process: subprocess.Popen[bytes]) -> None:
        self.base, self.url, self.process = base, f"http://127.0.0.1:{port}", process
        self.log_of_start = ""

    def ask(self, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
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


@contextmanager
def running(
    comfyui: ComfyUI,
    base: Path,
    *,
    nodes: Mapping[str, str] | None = None,
    extra_paths: str = "",
    pack: Path | None = None,
) -> Iterator[Server]:
    """Run ComfyUI on the CPU, on the loopback alone, until the block ends.

    Args:
        base: an existing folder, which gets custom_nodes, input, output, models and server.log.
        nodes: sources of further nodes, by the name of their file in custom_nodes.
        extra_paths: the text of an extra_model_paths.yaml.
        pack: the pack, if it is in base/custom_nodes already; otherwise this checkout is linked there.
    """
    for folder in ("custom_nodes", "input", "output", "temp", "user/default", "models"):
        (base / folder).mkdir(parents=True, exist_ok=True)
    # no first-run dialogue in the front end, and text on the nodes however small they are shown
    settings = {"Comfy.TutorialCompleted": True, "LiteGraph.Canvas.MinFontSizeForLOD": 0}
    (base / "user" / "default" / "comfy.settings.json").write_text(json.dumps(settings))
    if pack is None:
        (base / "custom_nodes" / "ComfyUI-PoseFR").symlink_to(ROOT, target_is_directory=True)
    for name, source in (nodes or {}).items():
        (base / "custom_nodes" / name).write_text(source)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [comfyui.python, "main.py", "--cpu", "--listen", "127.0.0.1", "--port", str(port)]
    command += ["--base-directory", str(base), "--database-url", "sqlite:///:memory:"]
    command += ["--disable-auto-launch", "--disable-api-nodes"]
    if extra_paths:
        (base / "extra.yaml").write_text(extra_paths)
        command += ["--extra-model-paths-config", str(base / "extra.yaml")]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}
    with open(base / "server.log", "wb") as log:
        process = subprocess.Popen(command, cwd=comfyui.folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
    server = Server(base, port, process)
    try:
        for _ in range(600):
            assert process.poll() is None, f"ComfyUI ended while starting:\n{server.log()[-3000:]}"
            try:
                server.ask("/system_stats")
                break
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.3)
        server.log_of_start = server.log()
        yield server
    finally:
        process.terminate()
        process.wait(30)
