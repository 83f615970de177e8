"""Networks by name: download, resume, hash, and the bundle that comes of it; served from this machine."""

from __future__ import annotations

import hashlib
import http.server
import threading
from pathlib import Path

import pytest

from perception_rt.cli import bundle_get
from perception_rt.cli.main import main
from perception_rt.model import zoo
from perception_rt.model.runtime import resolve_bundle
from perception_rt.types import BundleError

DATA = bytes(range(256)) * 4000
FASTESTDET = Path(__file__).parents[3] / "shared/data/models/FastestDet.onnx"


class Server(http.server.ThreadingHTTPServer):
    """Serves one file; `ranges` says whether it can resume, `cut` how many bytes it sends at most."""

    def __init__(self, data: bytes, ranges: bool = True, cut: int | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.data, self.ranges, self.cut, self.starts = data, ranges, cut, []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request, client_address):
        """Say nothing of a client that hung up: some tests do."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/network.onnx"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        data, start = self.server.data, 0
        asked = self.headers.get("Range")
        if asked and self.server.ranges:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(data):
                self.send_error(416)
                return
        self.server.starts.append(start)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start:][: self.server.cut])

    def log_message(self, *args):
        pass


@pytest.fixture
def serve():
    servers = []

    def start(*args, **options) -> Server:
        servers.append(Server(*args, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def entry(url: str, data: bytes = DATA, **changed) -> zoo.ZooEntry:
    fields = {"name": "network", "url": url, "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    return zoo.ZooEntry(**(fields | {"licence": "MIT", "homepage": "", "note": "a network"} | changed))


def test_a_file_is_downloaded_once_with_progress(serve, tmp_path):
    server, seen = serve(DATA), []
    path = zoo.download(entry(server.url), tmp_path, lambda *now: seen.append(now))
    assert path.read_bytes() == DATA
    assert seen[-1] == (len(DATA), len(DATA))
    assert zoo.download(entry(server.url), tmp_path) == path
    assert server.starts == [0]
    assert [file.name for file in tmp_path.iterdir()] == ["network.onnx"]


def test_an_interrupted_download_resumes(serve, tmp_path):
    server = serve(DATA, cut=300_000)
    with pytest.raises(BundleError, match="cannot be downloaded"):
        zoo.download(entry(server.url), tmp_path)
    assert (tmp_path / "network.onnx.part").stat().st_size == 300_000
    server.cut = None
    assert zoo.download(entry(server.url), tmp_path).read_bytes() == DATA
    assert server.starts == [0, 300_000]


def test_a_server_that_cannot_resume_starts_anew(serve, tmp_path):
    server = serve(DATA, ranges=False)
    (tmp_path / "network.onnx.part").write_bytes(b"x" * 1000)
    assert zoo.download(entry(server.url), tmp_path).read_bytes() == DATA


@pytest.mark.parametrize("size", [None, len(DATA)])
def test_a_part_that_is_longer_than_the_file_is_dropped(serve, tmp_path, size):
    server = serve(DATA)
    (tmp_path / "network.onnx.part").write_bytes(b"x" * (len(DATA) + 10))
    assert zoo.download(entry(server.url, size=size), tmp_path).read_bytes() == DATA


def test_another_file_than_the_hash_says_is_refused_and_removed(serve, tmp_path):
    server = serve(DATA[::-1])
    with pytest.raises(BundleError, match="is another file: sha256"):
        zoo.download(entry(server.url), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_part_of_another_file_does_not_last(serve, tmp_path):
    """The next attempt starts anew, so that a damaged part cannot block a network for ever."""
    server = serve(DATA)
    (tmp_path / "network.onnx.part").write_bytes(b"x" * 1000)
    with pytest.raises(BundleError, match="is another file"):
        zoo.download(entry(server.url), tmp_path)
    assert zoo.download(entry(server.url), tmp_path).read_bytes() == DATA


@pytest.mark.parametrize("size", [len(DATA) - 1, 10])
def test_a_longer_file_than_published_is_not_received(serve, tmp_path, size):
    server = serve(DATA)
    with pytest.raises(BundleError, match="expected at most"):
        zoo.download(entry(server.url, size=size), tmp_path)


def test_without_a_network_one_line_says_what_to_do(tmp_path):
    with pytest.raises(
        BundleError, match=r"network: http://127.0.0.1:9/x cannot be downloaded: .*--from FILE"
    ):
        zoo.download(entry("http://127.0.0.1:9/x"), tmp_path)


def test_a_full_disk_is_said_before_the_download(serve, tmp_path, monkeypatch):
    server = serve(DATA)
    monkeypatch.setattr(zoo.shutil, "disk_usage", lambda _: zoo.shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(BundleError, match="do not fit on the disk"):
        zoo.download(entry(server.url), tmp_path)


def test_every_entry_is_pinned():
    for one in zoo.ZOO.values():
        assert one.url.startswith("https://")
        assert len(one.sha256) == 64
        assert one.size < 100e6
        assert one.licence in ("Apache-2.0", "BSD-3-Clause", "MIT")


def test_torchvision_weights_by_their_own_name():
    found = zoo.find_entry("SSDLite320_MobileNet_V3_Large_Weights.COCO_V1")
    assert found == zoo.find_entry("ssdlite320_mobilenet_v3_large")
    assert found.url.endswith(f"-{found.sha256}.pth")
    assert len(found.sha256) == 8
    older, newer = (zoo.find_entry(f"ResNet50_Weights.IMAGENET1K_V{version}").name for version in (1, 2))
    assert (older, newer) == ("resnet50_imagenet1k_v1", "resnet50")
    with pytest.raises(BundleError, match="no_such_net: not a known network; known are fastestdet"):
        zoo.find_entry("no_such_net")


def test_torchvision_weights_of_swag_keep_their_own_licence():
    for name in ("RegNet_Y_16GF_Weights.IMAGENET1K_SWAG_E2E_V1", "vit_h_14"):  # all of the latter are SWAG's
        assert zoo.find_entry(name).licence == "CC-BY-NC-4.0"
    assert zoo.find_entry("vit_b_16").licence == "BSD-3-Clause"


@pytest.mark.skipif(not FASTESTDET.is_file(), reason="the published file is not here")
def test_get_makes_a_bundle_that_is_found_by_its_name(serve, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    server = serve(FASTESTDET.read_bytes())
    monkeypatch.setitem(zoo.ZOO, "fastestdet", zoo.ZOO["fastestdet"]._replace(url=server.url))
    with pytest.raises(BundleError, match="bundle get"):
        resolve_bundle("fastestdet")
    assert main(["bundle", "get", "fastestdet"]) == 0
    out = capsys.readouterr().out
    assert "1.0 MB, licence BSD-3-Clause" in out
    assert resolve_bundle("fastestdet").parent == tmp_path / "perception_rt/zoo"
    assert main(["bundle", "show", "fastestdet"]) == 0
    assert "BSD-3-Clause" in capsys.readouterr().out


@pytest.mark.skipif(not FASTESTDET.is_file(), reason="the published file is not here")
def test_a_demo_gets_a_pretrained_network_once(serve, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "summary.json").write_text("of an earlier run")
    demo = ["demo", "--bundle", "fastestdet", "--out", str(tmp_path)]
    offline = zoo.ZOO["fastestdet"]._replace(url="http://127.0.0.1:9/x")
    monkeypatch.setitem(zoo.ZOO, "fastestdet", offline)
    assert main(demo) == 2
    said = capsys.readouterr()
    assert "\n" not in said.err.strip()  # the bar leaves a blank line
    assert "cannot be downloaded" in said.err
    assert "bundle get fastestdet --from FILE" in said.err
    assert (tmp_path / "summary.json").read_text() == "of an earlier run"

    server = serve(FASTESTDET.read_bytes())
    monkeypatch.setitem(zoo.ZOO, "fastestdet", offline._replace(url=server.url))
    monkeypatch.setattr("perception_rt.cli.demo.session.run_demo", lambda args: 0)
    assert main(demo) == main(demo) == 0
    assert capsys.readouterr().out.count("1.0 MB, licence BSD-3-Clause") == 1
    assert server.starts == [0]
    assert main([*demo[:2], "no_such_net", *demo[3:]]) == 2
    assert "no_such_net: no such file, nor a shipped bundle" in capsys.readouterr().err
    assert main([*demo, "--lidar-bundle", "/nonexistent.pt"]) == 2


def test_a_demo_finds_weights_by_the_name_that_torchvision_gives_them(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked = []
    monkeypatch.setattr(bundle_get, "get", asked.append)
    weights = "ResNet50_Weights.IMAGENET1K_V1"
    assert bundle_get.get_missing(weights) == "resnet50_imagenet1k_v1"
    folder = tmp_path / "perception_rt/zoo"
    folder.mkdir(parents=True)
    (folder / "resnet50_imagenet1k_v1.pt").touch()
    assert bundle_get.get_missing(weights) == "resnet50_imagenet1k_v1"
    assert asked == [weights]
    with pytest.raises(BundleError, match=r"ResNet50_Weights\.V9: no such file, nor weights"):
        bundle_get.get_missing("ResNet50_Weights.V9")
    assert bundle_get.get_missing("sim_camera") == "sim_camera"


def test_get_from_a_file_checks_its_hash(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "other.onnx").write_bytes(b"no network")
    assert main(["bundle", "get", "fastestdet", "--from", str(tmp_path / "other.onnx")]) == 2
    assert "is another file than fastestdet" in capsys.readouterr().err
    assert main(["bundle", "get", "fastestdet", "--from", str(tmp_path / "none.onnx")]) == 2
    assert "no such file" in capsys.readouterr().err
    assert main(["bundle", "get"]) == 2
    assert main(["bundle", "get", "--list"]) == 0
    assert "deimv2_femto" in capsys.readouterr().out
