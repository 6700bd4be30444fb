"""ComfyUI's own front end in a browser without a window: load a workflow, change it, press Run, look."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import examples

if TYPE_CHECKING:
    from playwright.sync_api import Page

VIEW = {"width": 1920, "height": 1080}
APP = "(window.comfyAPI?.app?.app || window.app)"
# Puts another node where VAE Decode hands on its image, and takes the sampler's part out of the graph.
REPLACE_SAMPLER = """
([app, kind, values, fedBy, gone]) => {
  const graph = app.graph;
  const decode = graph.nodes.find(node => node.type === 'VAEDecode');
  const made = LiteGraph.createNode(kind);
  graph.add(made);
  made.pos = [decode.pos[0], decode.pos[1]];
  for (const [name, value] of Object.entries(values)) {
    const widget = made.widgets.find(widget => widget.name === name);
    widget.value = value;
    widget.callback?.(value);
  }
  for (const node of [...graph.nodes])
    (node.inputs || []).forEach((input, place) => {
      if (input.link != null && node.getInputNode(place) === decode) made.connect(0, node, place);
    });
  if (fedBy) {
    const source = graph.nodes.find(node => node.type === fedBy[0]);
    source.connect(source.outputs.findIndex(output => output.name === fedBy[1]), made, 0);
  }
  for (const node of [...graph.nodes]) if (gone.includes(node.type)) graph.remove(node);
}
"""


def browser_path() -> str | None:
    """The Chromium that CHROMIUM names, or one on the search path."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


class FrontEnd:
    """The page with ComfyUI's front end."""

    def __init__(self, page: Page, url: str, shots: Path) -> None:
        self.page, self.url, self.shots = page, url, shots
        self.ends: list[tuple[str, str]] = []  # (what, prompt id) of every run that ended
        self.error = ""  # what the last run that ended so failed with
        self.refused: list[str] = []  # what the server answered to a workflow that it did not take
        page.on("websocket", lambda socket: socket.on("framereceived", self._on_message))
        page.on("response", self._on_response)

    def _on_message(self, message: str | bytes) -> None:
        if isinstance(message, str):
            event = json.loads(message)
            if event["type"] in ("execution_success", "execution_error", "execution_interrupted"):
                self.ends.append((event["type"], event["data"]["prompt_id"]))
                self.error = event["data"].get("exception_message", "")

    def _on_response(self, response: Any) -> None:
        if response.url.endswith("/prompt") and response.request.method == "POST" and response.status != 200:
            self.refused.append(f"{response.status}: {response.text()[:1000]}")

    def open(self) -> None:
        """Load the page and wait until its default workflow stands: it comes late and would replace ours."""
        self.page.goto(self.url, wait_until="domcontentloaded")
        ready = f"() => {{ const app = {APP}; return !!(app && app.graph && app.graph.nodes.length); }}"
        self.page.wait_for_function(ready, timeout=120_000)
        self.page.wait_for_timeout(1000)
        for _ in range(2):
            self.page.keyboard.press("Escape")

    def command(self, name: str) -> None:
        self.page.evaluate(f"{APP}.extensionManager.command.execute('{name}')")

    def load(self, workflow: dict) -> None:
        for _ in range(5):
            self.page.evaluate(f"workflow => {APP}.loadGraphData(workflow)", workflow)
            self.page.wait_for_timeout(700)
            if self.page.evaluate(f"{APP}.graph.nodes.length") == len(workflow["nodes"]):
                break
        self.fit()

    def fit(self) -> None:
        self.command("Comfy.Canvas.FitView")
        self.page.wait_for_timeout(700)

    def graph_area(self, margin: int = 25) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of the nodes on the page, in px."""
        corners = """app => {
          const { offset, scale } = app.canvas.ds;
          const at = (x, y) => [(x + offset[0]) * scale, (y + offset[1]) * scale];
          const nodes = app.graph.nodes;
          const least = place => Math.min(...nodes.map(node => node.pos[place]));
          const most = place => Math.max(...nodes.map(node => node.pos[place] + node.size[place]));
          return [...at(least(0), least(1) - LiteGraph.NODE_TITLE_HEIGHT), ...at(most(0), most(1))];
        }"""
        left, top, right, bottom = self.page.evaluate(f"({corners})({APP})")
        return round(left) - margin, round(top) - margin, round(right) + margin, round(bottom) + margin

    def missing(self) -> list[str]:
        """Types of nodes in the graph that this ComfyUI does not have."""
        known = "node => !window.LiteGraph.registered_node_types[node.type]"
        return self.page.evaluate(f"{APP}.graph.nodes.filter({known}).map(node => node.type)")

    def set(self, kind: str, widget: str, value: Any) -> None:
        """Set a widget on every node of a type."""
        self.page.evaluate(
            f"""([kind, name, value]) => {{
              for (const node of {APP}.graph.nodes.filter(node => node.type === kind)) {{
                const widget = node.widgets.find(widget => widget.name === name);
                widget.value = value;
                widget.callback?.(value);
              }}
            }}""",
            [kind, widget, value],
        )

    def select(self, kind: str) -> None:
        """Click on the first node of a type."""
        self.page.evaluate(f"{APP}.canvas.selectNode({APP}.graph.nodes.find(node => node.type === '{kind}'))")
        self.page.wait_for_timeout(700)

    def numbers(self, kind: str) -> list[int]:
        """The ids of the nodes of a type."""
        return self.page.evaluate(f"{APP}.graph.nodes.filter(node => node.type === '{kind}').map(node => node.id)")

    def connect_picture(self, photo: str) -> None:
        """Put a Load Image before the only node of the graph, and a Save Image behind it."""
        self.page.evaluate(
            f"""photo => {{
              const graph = {APP}.graph, node = graph.nodes[0];
              const [load, save] = ['LoadImage', 'SaveImage'].map(kind => LiteGraph.createNode(kind));
              for (const made of [load, save]) graph.add(made);
              load.pos = [node.pos[0] - 400, node.pos[1]];
              save.pos = [node.pos[0] + node.size[0] + 100, node.pos[1]];
              load.widgets.find(widget => widget.name === 'image').value = photo;
              load.connect(0, node, node.inputs.findIndex(input => input.name === 'image'));
              node.connect(node.outputs.findIndex(output => output.name === 'image'), save, 0);
            }}""",
            photo,
        )

    def replace_sampler(self, name: str) -> None:
        """What `examples.without_sampler` does, to the graph of the example `name` that is loaded."""
        given = [*examples.INSTEAD_OF_SAMPLER[name], examples.SAMPLER]
        self.page.evaluate(f"given => ({REPLACE_SAMPLER})([{APP}, ...given])", given)

    def run(self, limit: float = 300.0) -> str:
        """Press Run and wait for the end; returns the prompt's id."""
        self.ends.clear()
        self.refused.clear()
        button = '[data-testid="queue-button"] button:visible, button:visible:has-text("Run")'
        self.page.locator(button).first.click()
        end = time.monotonic() + limit
        while not self.ends and not self.refused:
            assert time.monotonic() < end, f"the run did not end within {limit:.0f} s"
            self.page.wait_for_timeout(200)
        assert not self.refused, self.refused
        what, prompt = self.ends[0]
        assert what == "execution_success", f"{what}: {self.error}"
        return prompt

    def shot(self, name: str) -> Path:
        path = self.shots / f"{name}.png"
        self.page.screenshot(path=path)
        return path


@contextmanager
def open_front_end(url: str, shots: Path, chromium: str, view: dict[str, int] = VIEW) -> Iterator[FrontEnd]:
    """A browser with the front end of the server at `url`; nothing else is reachable from it."""
    from playwright.sync_api import sync_playwright

    host = urlsplit(url).netloc
    with sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=chromium, args=options)
        page = browser.new_context(viewport=view).new_page()

        def guard(route: Any) -> None:
            address = urlsplit(route.request.url)
            local = address.netloc == host or address.scheme in ("data", "blob")
            route.continue_() if local else route.abort()

        page.route("**/*", guard)
        front_end = FrontEnd(page, url, shots)
        front_end.open()
        yield front_end
        browser.close()
