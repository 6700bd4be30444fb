"""Where weights come from and what is said when they will not do. The only server is one of our own on 127.0.0.1."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
import textwrap
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from posefr.detection import detector_stamp, load_detector, releases
from posefr.detection.networks import build_network
from posefr.detection.releases import RELEASES, Release, download
from posefr.detection.weights import read_weights, write_weights
from posefr.errors import PoseFRError
from posefr.stamps import stamp_of

CONTENT = b"weights" * 100_000


@pytest.fixture(scope="module")
def address():
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/absent":
                self.send_error(404)
                return
            self.send_response(200)
            if self.path == "/broken":  # in the middle of a chunk
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                self.wfile.write(b"1000\r\nhalf of it")
                return
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT[: len(CONTENT) // 2] if self.path == "/short" else CONTENT)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def release(url: str, content: bytes = CONTENT) -> Release:
    return Release("mobile0.25", ("file.pth",), url, len(content), hashlib.sha256(content).hexdigest())


def test_a_download_is_checked_and_reports_progress(address, tmp_path):
    seen: list[tuple[int, int]] = []
    path = download(release(f"{address}/whole"), tmp_path / "new", lambda done, total: seen.append((done, total)))
    assert path == tmp_path / "new" / "file.pth"
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [p.name for p in path.parent.iterdir()] == ["file.pth"]
    assert stamp_of(path) == release(f"{address}/whole").stamp


@pytest.mark.parametrize(
    ("place", "content"),
    [
        ("whole", CONTENT[:-1] + b"?"),  # right size, wrong hash
        ("whole", CONTENT[:1000]),  # the server sends more
        ("short", CONTENT),
        ("broken", CONTENT),
        ("absent", CONTENT),
    ],
)
def test_a_wrong_download_leaves_nothing_behind(address, tmp_path, place, content):
    with pytest.raises(PoseFRError, match="by hand"):
        download(release(f"{address}/{place}", content), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_download_leaves_nothing_behind(address, tmp_path):
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(release(f"{address}/whole"), tmp_path, stop)
    assert list(tmp_path.iterdir()) == []


def test_a_picked_release_is_fetched_into_the_first_folder_once(address, tmp_path, monkeypatch):
    weights = tmp_path / "made.pth"
    torch.save(build_network("mobile0.25").state_dict(), weights)
    content = weights.read_bytes()
    monkeypatch.setitem(RELEASES, "mobile0.25", release(f"{address}/whole", content))
    monkeypatch.setattr(sys.modules[__name__], "CONTENT", content)
    folders = [tmp_path / "first", tmp_path / "second"]
    with pytest.raises(PoseFRError, match=r"not in .*first.*second"):
        load_detector("mobile0.25", folders=folders)
    absent = detector_stamp("mobile0.25", folders)
    assert load_detector("mobile0.25", folders=folders, download=True).name == "mobile0.25"
    assert (folders[0] / "file.pth").is_file()
    assert detector_stamp("mobile0.25", folders) == absent, "what was made with it is not made again"
    monkeypatch.setattr(releases, "_receive", None)  # a second fetch would fail
    load_detector("mobile0.25", folders=folders, download=True)


def test_the_hosts_folders_are_looked_into(tmp_path):
    network = build_network("mobile0.25")
    torch.save({f"module.{k}": v for k, v in network.state_dict().items()}, tmp_path / "mobilenet0.25_Final.pth")
    detector = load_detector("mobile0.25", folders=[tmp_path / "empty", tmp_path])
    for name, value in network.state_dict().items():
        assert torch.equal(detector.first_look.state_dict()[name], value)


def test_written_weights_come_back(tmp_path):
    torch.manual_seed(1)
    network, other = build_network("mobile0.25"), build_network("mobile0.25")
    write_weights(network, "mobile0.25", tmp_path / "w.safetensors", {"licence": "none"})
    read_weights(other, tmp_path / "w.safetensors", "mobile0.25")
    for name, value in network.state_dict().items():
        expected = value.half().float() if value.ndim == 4 else value
        assert torch.equal(other.state_dict()[name], expected)
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_files_that_will_not_do_are_named(tmp_path):
    whole = tmp_path / "whole.safetensors"
    write_weights(build_network("mobile0.25"), "mobile0.25", whole, {})
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole.read_bytes()[:-1000])
    text = tmp_path / "text.pth"
    text.write_text("not weights")
    pickled = tmp_path / "pickled.pth"
    pickled.write_bytes(pickle.dumps(Path("x")))
    empty = tmp_path / "empty.pth"
    empty.touch()
    for path in (cut, text, pickled, empty):
        with pytest.raises(PoseFRError, match=f"{path.name}.*fetch it again"):
            load_detector(path)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"conv.weight": torch.zeros(1)}, foreign)
    with pytest.raises(PoseFRError, match=r"foreign.safetensors is no face detector"):
        load_detector(foreign)
    state = build_network("mobile0.25").state_dict()
    state.pop("fpn.output1.0.weight")
    torch.save(state, tmp_path / "less.pth")
    with pytest.raises(PoseFRError, match=r"less.pth does not fit.*fpn.output1.0.weight"):
        load_detector(tmp_path / "less.pth")
    for odd in ({1: torch.zeros(1)}, {"a": torch.zeros(2).to_sparse()}, {"a": torch.zeros(1, device="meta")}):
        torch.save(odd, tmp_path / "odd.pth")
        with pytest.raises(PoseFRError, match=r"odd.pth holds no plain weights"):
            load_detector(tmp_path / "odd.pth")
    torch.save(build_network("mobile0.25").state_dict(), tmp_path / "MINE.PTH")
    assert load_detector(tmp_path / "MINE.PTH", device="cpu").network is not None
    with pytest.raises(PoseFRError, match="There is no detector file"):
        load_detector(tmp_path / "absent.pth")
    with pytest.raises(PoseFRError, match="There is no detector named 'yolo'"):
        load_detector("yolo")


def test_another_network_under_a_releases_name_is_told(tmp_path):
    torch.save(build_network("mobile0.25").state_dict(), tmp_path / "Resnet50_Final.pth")
    with pytest.raises(PoseFRError, match=r"holds a RetinaFace mobile0\.25, expected was resnet50"):
        load_detector("resnet50", folders=[tmp_path])


def run_python(code: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True, text=True, check=False, cwd=Path(__file__).resolve().parents[1],
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_detection_survives_a_torchvision_of_another_build():
    """Where torchvision's operators load, their library is hidden first, so that every machine tests the repair."""
    out = run_python(
        """
        import torch
        load = torch.ops.load_library
        def refuse(path):
            if "torchvision" in str(path):
                raise OSError("hidden for this test")
            return load(path)
        torch.ops.load_library = refuse
        try:
            import torchvision
        except RuntimeError as error:
            assert "operator torchvision::nms does not exist" in str(error), error
        else:
            raise SystemExit("the plain import was expected to fail")
        from posefr.detection import ensure_torchvision
        from posefr.detection.networks import build_network
        network = build_network("mobile0.25")
        print(tuple(network(torch.zeros(1, 3, 32, 32))[0].shape))
        ensure_torchvision()
        """
    )
    assert out == "(1, 42, 4)"


def test_a_working_torchvision_is_left_alone():
    out = run_python(
        """
        import sys, types
        sys.modules["torchvision"] = own = types.ModuleType("torchvision")
        from posefr.detection import torchvision_repair
        torchvision_repair.ensure_torchvision()
        print(sys.modules["torchvision"] is own, torchvision_repair._kept)
        """
    )
    assert out == "True []"
