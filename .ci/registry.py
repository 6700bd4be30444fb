"""What the registry and the community check, on what would be published: `comfy node validate` and comfy-test.

    COMFYUI_DIR=... COMFYUI_PYTHON=... python .ci/registry.py

The commands comfy (of comfy-cli) and comfy-test have to be on the search path or beside this Python. `comfy node pack`
says which files are published; they are put into a ComfyUI, which comfy-test then drives.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import comfyui_server  # noqa: E402
import examples  # noqa: E402

PLACES = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def tool(name: str) -> str:
    found = shutil.which(name, path=PLACES)
    if found is None:
        raise SystemExit(f".ci/registry.py needs {name}: pip install comfy-cli comfy-test")
    return found


def main() -> int:
    comfyui = comfyui_server.from_environment()
    if comfyui is None:
        raise SystemExit(f".ci/registry.py {comfyui_server.NEEDED}.")
    with tempfile.TemporaryDirectory() as folder:
        clone, base = Path(folder) / "clone", Path(folder) / "base"
        subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
        comfy = [tool("comfy"), "--skip-prompt", "--no-json"]
        subprocess.run([*comfy, "node", "validate"], cwd=clone, check=True)
        subprocess.run([*comfy, "node", "pack"], cwd=clone, check=True)
        pack = base / "custom_nodes" / "ComfyUI-PoseFR"
        with zipfile.ZipFile(clone / "node.zip") as packed:
            packed.extractall(pack)
        examples.prepare(base)
        with comfyui_server.running(comfyui, base, pack=pack) as server:
            # comfy-test looks for workflows in this folder, which is not published: the template browser would show
            # every example twice. Its level "validation" (0.4.15) reads neither combos of nodes like ours nor notes nor
            # the second widget of seeds in files of the front end, so it gets them in the form that the server takes,
            # where it checks no values; the server does when they run.
            (pack / "workflows").mkdir()
            offers = server.ask("/object_info")
            for name in examples.NAMES:
                ready = examples.ready(name, offers)
                (pack / "workflows" / f"{name}.json").write_text(json.dumps(ready, indent=1))
            environment = {**os.environ, "COMFY_TEST_LOGS_DIR": str(base)}
            command = [tool("comfy-test"), "run", "--server-url", server.url]
            return subprocess.run(command, cwd=pack, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
