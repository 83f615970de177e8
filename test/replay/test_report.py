"""The report of real detections on a simulated drive, as a browser shows it."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from perception_rt.cli.main import main
from perception_rt.codec import DetectionEncoder
from perception_rt.codec.cdr import CdrReader
from perception_rt.replay.bag import Bag
from perception_rt.replay.bag_writer import BagWriter
from perception_rt.replay.budget import BudgetResult
from perception_rt.replay.report import write_index, write_report
from perception_rt.replay.score import Places, load_truth, score
from perception_rt.types import Detections2D
from test import drives
from test.replayed import make_run

WIDTHS = (390, 1366)
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run", "--disable-dev-shm-usage",
    "--enable-logging=stderr", "--log-level=0", "--virtual-time-budget=20000",
)  # fmt: skip
LOOK = """<!doctype html><title>look</title><body><pre id=found></pre><script>
const height = part => part.getBoundingClientRect().height;
const frame = document.createElement("iframe");
frame.style = "border: 0; width: {width}px; height: 900px";
frame.onload = () => {
  const page = frame.contentDocument, root = page.documentElement;
  const images = [...page.images], scrubber = page.getElementById("scrubber");
  if (scrubber) {
    const data = JSON.parse(page.getElementById("timeline-data").textContent);
    const stream = data.streams.find(stream => stream.o.includes(1));  // one with a superseded message
    scrubber.value = stream.t[stream.o.indexOf(1)];
    scrubber.dispatchEvent(new Event("input"));
  }
  const spot = page.querySelector("#moment .spot") || page.querySelector(".spot");
  if (spot) spot.click();
  setTimeout(() => { document.getElementById("found").textContent = JSON.stringify({
    width: root.scrollWidth,
    fetched: frame.contentWindow.performance.getEntriesByType("resource").map(entry => entry.name),
    broken: images.filter(image => !image.complete || !image.naturalWidth).length,
    images: images.length,
    small: [...page.querySelectorAll("svg text")].filter(text => height(text) < 8).length,
    shown: page.querySelectorAll("#moment img").length,
    told: [...page.querySelectorAll(".row-now")].map(part => part.textContent),
    charts: page.querySelectorAll("svg").length,
    low: [...page.querySelectorAll("figure")].filter(f => f.offsetParent && height(f) < 40).length,
    spots: page.querySelectorAll(".spot").length,
    opened: [...page.querySelectorAll(".life[open]")].map(life => life.id),
    asked: spot && spot.hash.slice(1),
  }); }, 100);
};
frame.src = "{page}";
document.body.append(frame);
</script>"""


class Page(HTMLParser):
    """Addresses, ids, headings and pictures of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.pictures: list[dict] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        named = dict(attrs)
        self.tags.append(tag)
        self.addresses += [named[key] for key in ("src", "href", "srcset", "data", "action") if key in named]
        self.ids += [named["id"]] if "id" in named else []
        self.pictures += [named] if tag == "img" else []


def without_cars(run: Path, folder: Path) -> Path:
    """A copy of a run in which every other message of the camera's boxes is empty."""
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("bag"))
    empty, cameras = DetectionEncoder(("car",)), 0
    with Bag(run / "bag") as bag, BagWriter(folder / "bag") as writer:
        for message in bag.messages():
            data = message.data
            cameras += message.topic == "/camera_detector/detections"
            if message.topic == "/camera_detector/detections" and cameras % 2:
                stamp_ns, frame_id = CdrReader(data).header()
                data = empty.encode(Detections2D.empty(), stamp_ns, frame_id)
            writer.write(message.topic, message.message_type, message.log_ns, data)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Detections and tracks of a drive, scored by its truth, and the report."""
    folder = tmp_path_factory.mktemp("report")
    bag = drives.write_drive(folder / "drive", seconds=1.0)
    made = make_run(folder / "run", bag, drives.IMAGE, drives.POINTS)
    with Bag(bag) as recording:
        truths = [
            truth for topic in (drives.TRUTH, drives.TRUTH_3D) for truth in load_truth(topic, recording)
        ]
        places = Places.of(recording)
    metrics = json.loads((made / "metrics.json").read_text())
    metrics["scores"] = score(made / "bag", truths, metrics, places)
    (made / "metrics.json").write_text(json.dumps(metrics))
    info = {"bag": str(bag), "device": "cpu", "speed": 1.5, "exit_code": 0}
    checks = [BudgetResult("age_p99", 35.0, "<= 60", True), BudgetResult("ap50", 0.1, ">= 0.6", False)]
    write_report(made, bag, info, checks, truths, without_cars(made, folder / "other"))
    (made / "run.json").write_text(json.dumps(info))
    write_index(folder, [made])
    return made


def test_the_page_needs_nothing_else(run):
    page = Page((run / "report.html").read_text())
    outside = [address for address in page.addresses if not address.startswith(("data:", "#"))]
    assert outside == []
    assert page.tags.count("script") == 2  # inline: the timeline's data and its program
    anchors = [address[1:] for address in page.addresses if address.startswith("#")]
    assert anchors
    assert set(anchors) <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)
    assert (run / "report.html").stat().st_size < 5e6
    assert "url(" not in (run / "report.html").read_text()


def test_every_picture_says_what_it_shows(run):
    page = Page((run / "report.html").read_text())
    assert len(page.pictures) >= 12
    assert all(picture["alt"].strip() for picture in page.pictures)
    shown = " ".join(picture["alt"] for picture in page.pictures).lower()  # "Best, oldest output": one moment
    for word in (
        "best",
        "worst",
        "oldest output",
        "superseded",
        "car",
        "/object_tracker/tracks",
        "no output",
    ):
        assert word in shown
    assert "from above /object_tracker/tracks</figcaption>" in (run / "report.html").read_text()
    headings = [tag for tag in page.tags if tag in ("h1", "h2", "h3", "h4")]
    assert headings.count("h1") == 1
    assert all(int(b[1]) - int(a[1]) <= 1 for a, b in pairwise(headings))


def test_the_page_tells_what_the_metrics_say(run):
    text = (run / "report.html").read_text()
    metrics = json.loads((run / "metrics.json").read_text())
    assert "1 of 2 checks failed: ap50" in text
    for bundle in metrics["bundles"].values():
        assert bundle["sha256"] in text
    for output in metrics["outputs"].values():
        assert output["sha256"] in text
    for topic, scores in metrics["scores"].items():
        assert topic in text
        if "as_seen" in scores:
            assert f"{scores['as_seen']['ap50']:.3f}" in text


def test_objects_have_a_life_that_pictures_lead_to(run):
    text = (run / "report.html").read_text()
    page = Page(text)
    lives = [name for name in page.ids if name.startswith("object-")]
    assert lives
    assert {address[1:] for address in page.addresses if address.startswith("#object-")} <= set(lives)
    assert "predicted" in text
    assert "Path from above" in text


def test_another_run_stands_beside_it(run):
    text = (run / "report.html").read_text()
    part = text[text.index('id="beside"') : text.index('id="objects"')]
    assert "The other run is other." in part
    assert "/camera_detector: /camera/image_raw" in part
    assert "messages differ" in part
    assert part.count("<figcaption>this run") == part.count("<figcaption>the other") >= 1
    assert "The same objects in all" in part, "the lidar's boxes are equal"


def test_the_same_run_gives_the_same_page(run, tmp_path):
    again = shutil.copytree(run, tmp_path / "run")
    bag = run.parent / "drive"
    info = json.loads((run / "run.json").read_text())
    pages = []
    for _ in range(2):
        write_report(again, bag, info)
        pages.append((again / "report.html").read_bytes())
    assert pages[0] == pages[1]


def test_the_main_plots_are_a_picture(run):
    picture = cv2.imread(str(run / "report.png"))
    assert picture.shape[1] > 1200
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50


def test_a_report_without_the_recording_has_no_pictures(run, tmp_path):
    again = shutil.copytree(run, tmp_path / "run")
    write_report(again)
    page = Page((again / "report.html").read_text())
    assert page.pictures == []
    assert "#pictures" not in page.addresses


@pytest.fixture(scope="module")
def chromium() -> str:
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    return path


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["run/report.html", "index.html"])
def test_a_browser_shows_it_without_complaint_and_without_a_network(chromium, run, tmp_path, name, width):
    folder = run.parent
    (folder / "look.html").write_text(LOOK.replace("{width}", str(width)).replace("{page}", name))
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        server.asked = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/look.html"
        command = [chromium, *FLAGS, f"--user-data-dir={tmp_path}", "--dump-dom", address]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        server.shutdown()
    found = json.loads(shown.stdout.partition('<pre id="found">')[2].partition("</pre>")[0])
    assert found["width"] <= width
    assert [fetched for fetched in found["fetched"] if not fetched.startswith("data:")] == []
    assert sorted(path for path in server.asked if path != "/favicon.ico") == sorted(
        ["/look.html", f"/{name}"]
    )
    assert (found["broken"], found["small"], found["low"]) == (0, 0, 0)
    if "report" in name:
        assert found["images"] >= 12
        assert found["charts"] >= 10
        assert found["shown"] >= 2
        assert any("superseded: message" in told for told in found["told"])
        assert found["spots"] >= 2
        assert found["opened"] == [found["asked"]]
        assert all(told[0].isdigit() for told in found["told"])
    assert [line for line in shown.stderr.splitlines() if "CONSOLE" in line] == []


class Quiet(SimpleHTTPRequestHandler):
    """Serves files, and remembers which."""

    def log_message(self, *_: object) -> None:
        self.server.asked.append(self.path)


def test_the_verdict_of_a_street_depends_on_the_threshold(shared_data, tmp_path):
    """FastestDet at its own threshold raises no alarm; at one far too low the camera detector is named."""
    bundle = tmp_path / "fastestdet.pt"
    onnx = str(shared_data / "models" / "FastestDet.onnx")
    assert main(["bundle", "export", "onnx", onnx, "--decoder", "fastestdet", "--out", str(bundle)]) == 0
    config = tmp_path / "camera.yaml"
    config.write_text(
        f"camera_detector:\n  ros__parameters:\n    bundle: {bundle}\n"
        "    image_topics: [/camera/front/image_raw]\n"
    )
    found = []
    for threshold in ("-1.0", "0.1"):
        out = tmp_path / f"out{threshold}"
        arguments = ["--config", str(config), "--out", str(out), "--inference", "fixed:20", "--no-report"]
        arguments += ["-p", f"camera_detector:score_threshold:={threshold}"]
        assert main(["replay", str(shared_data / "bags" / "kitti_city"), *arguments]) == 0
        found.append(json.loads((out / "run.json").read_text())["findings"])
    assert found[0] == []
    assert any(line.startswith("/camera_detector/detections: ") for line in found[1])


def test_the_report_opens_in_the_browser(tmp_path, monkeypatch, capsys):
    bag = drives.write_drive(tmp_path / "drive", seconds=0.2)
    config = tmp_path / "camera.yaml"
    config.write_text(f"camera_detector:\n  ros__parameters:\n    image_topics: [{drives.IMAGE}]\n")
    command = ["replay", str(bag), "--config", str(config), "--out", str(tmp_path / "out"), "--open"]
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda address: bool(opened.append(address)))
    assert main(command) in (0, 3)
    assert opened == [(tmp_path / "out" / "report.html").resolve().as_uri()]
    assert "no browser found: open " in capsys.readouterr().err
    assert main([*command, "--no-report"]) == 2
