"""Write docs/reference/nodes.md and docs/figures/*.svg from the code of the nodes.

Each component is set up on a host that records which topics it opens, so the pages cannot differ from what
runs. Usage: ``python docs/generate.py [FOLDER]``.
"""

from __future__ import annotations

import html
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from perception_rt.component.component import Component
from perception_rt.component.graph import class_of
from perception_rt.component.parameters import NODE_PARAMETERS, Parameter, resolve
from perception_rt.model.bundle import ProgramSource, save_network
from perception_rt.model.importers import import_torchvision, save_checked
from perception_rt.model.manifest import DecoderSpec, ImageSpec
from perception_rt.model.task import CLASSIFY, SEGMENT
from perception_rt.model.torchscript import module_bytes, trace_module
from perception_rt.realtime.ledger import Outcome
from perception_rt.realtime.worker import Worker
from perception_rt.types import TransformError

NODES = ("camera_detector", "camera_classifier", "camera_segmenter", "lidar_detector", "fusion",
         "object_tracker", "vehicle_state", "sensor_health")  # fmt: skip
# Defaults leave these inputs out; the pages show them.
SHOWN: dict[str, dict[str, Any]] = {
    "fusion": {"image_topic": "camera/image_raw"},
    "vehicle_state": {
        "odometry_topic": "odom", "imu_topic": "imu", "fix_topic": "fix", "twist_topic": "twist",
    },
}  # fmt: skip


def save_classifier(path: Path) -> None:
    """Write a bundle with random weights."""
    save_checked(path, import_torchvision("squeezenet1_1"), None, name="random")


def save_segmenter(path: Path) -> None:
    """Write a bundle that tells red, green and blue."""
    network = trace_module(torch.nn.AvgPool2d(4), torch.zeros(1, 3, 64, 96))
    save_network(
        path,
        [ProgramSource("torchscript", module_bytes(network), ("images",), ("logits",))],
        decoder=DecoderSpec("semantic"),
        name="colours",
        classes=("red", "green", "blue"),
        input_spec=ImageSpec((64, 96), "stretch", "bilinear", "rgb"),
        licence="Apache-2.0",
        score_threshold=0.0,
        nms_threshold=1.0,
        task=SEGMENT.name,
    )


WITHOUT_BUNDLE = {CLASSIFY.node: save_classifier, SEGMENT.node: save_segmenter}  # the package brings none
GRAPH = {"camera_detector": (250, 60), "lidar_detector": (250, 180), "fusion": (500, 120),
         "object_tracker": (750, 120), "vehicle_state": (500, 240)}  # fmt: skip
WAY = ("subscription", "codec: check", "mailbox", "scheduler tick", "codec: decode", "bundle",
       "codec: encode", "publish", "ledger")  # fmt: skip


class Topic(NamedTuple):
    """A topic that a node opens; `name` as the node gives it."""

    name: str
    message_type: str


class RecordingOutput:
    """A publisher without subscribers."""

    def publish(self, data: bytes) -> None:
        """Do nothing."""

    def get_subscription_count(self) -> int:
        """Return 0."""
        return 0


class RecordingInput(NamedTuple):
    """A subscription without messages."""

    topic: str
    lost: int = 0
    reliability: str = "best_effort"
    publisher_count: int = 0


class RecordingHost:
    """Records the topics that a component opens."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.inputs: list[Topic] = []
        self.outputs: list[Topic] = []

    def get_name(self) -> str:
        """Return the node's name."""
        return self._name

    def now_ns(self) -> int:
        """Return 0: nothing is timed here."""
        return 0

    def resolve_topic_name(self, topic: str) -> str:
        """Return the absolute name."""
        return f"/{self._name}{topic[1:]}" if topic.startswith("~") else "/" + topic.lstrip("/")

    def create_publisher(
        self, message_type: str, topic: str, depth: int, *, latched: bool = False, is_result: bool = False
    ) -> RecordingOutput:
        """Record an output."""
        self.outputs.append(Topic(topic, message_type))
        return RecordingOutput()

    def create_subscription(
        self, message_type: str, topic: str, receive: Callable[[bytes], None], reliability: str
    ) -> RecordingInput:
        """Record an input."""
        self.inputs.append(Topic(topic, message_type))
        return RecordingInput(topic)

    def create_timer(self, period_s: float, call: Callable[[], None]) -> None:
        """Do nothing: no time passes."""

    def transforms(self) -> RecordingHost:
        """Record that the node reads transforms."""
        self.inputs += [Topic("/tf", "tf2_msgs/msg/TFMessage"), Topic("/tf_static", "tf2_msgs/msg/TFMessage")]
        return self

    def lookup(self, target: str, source: str, stamp_ns: int) -> np.ndarray:
        """Raise TransformError: no transform is known."""
        raise TransformError(target, source, "none is known here")

    def make_worker(self, pipeline: Any, scheduler: Any, mailbox: Any) -> Worker[Any]:
        """Return a real worker, on which the model is loaded."""
        return Worker(pipeline.process, scheduler, mailbox, self)

    def info(self, text: str) -> None:
        """Do nothing."""

    def warn(self, stream: str, error: Exception) -> None:
        """Do nothing."""


class Page(NamedTuple):
    """What the pages say of a node."""

    name: str
    component: type[Component]
    inputs: list[Topic]
    outputs: list[Topic]


def inspect_node(name: str) -> Page:
    """Set a node's component up and take its topics down."""
    kind: type[Component] = class_of("perception_rt.component", name)
    host = RecordingHost(name)
    with tempfile.TemporaryDirectory() as folder:
        values = SHOWN.get(name, {})
        if name in WITHOUT_BUNDLE:
            values = {"bundle": str(Path(folder, "random.pt"))}
            WITHOUT_BUNDLE[name](Path(values["bundle"]))
        component = kind(host, resolve(kind.PARAMETERS, values))
        try:
            component.setup()
        finally:
            component.stop()
            component.teardown()
    return Page(name, kind, sorted(set(host.inputs)), sorted(set(host.outputs)))


def nodes_page(pages: list[Page]) -> str:
    """Return the reference of all nodes in Markdown."""
    lines = ["# Topics and parameters", "",
             "Generated from the code by `docs/generate.py`. `~` is the node's own name.",
             "*Live* parameters can be changed while the node runs.", ""]  # fmt: skip
    for page in pages:
        doc = sys.modules[page.component.__module__].__doc__ or ""
        lines += [f"## {page.name}", "", sentence(doc.partition(":")[2].split("\n\n")[0]), ""]
        lines += ["| direction | topic | type |", "|---|---|---|"]
        lines += [f"| in | `{topic.name}` | `{topic.message_type}` |" for topic in page.inputs]
        lines += [f"| out | `{topic.name}` | `{topic.message_type}` |" for topic in page.outputs]
        lines += ["| out | `/diagnostics` | `diagnostic_msgs/msg/DiagnosticArray` |", ""]
        lines += ["| parameter | default | allowed | |", "|---|---|---|---|"]
        lines += [parameter_row(parameter) for parameter in page.component.PARAMETERS] + [""]
    lines += ["## Every node", "", "| parameter | default | allowed | |", "|---|---|---|---|"]
    lines += [*map(parameter_row, NODE_PARAMETERS), ""]
    lines += ["## States of a message", "", "Every message that a node receives ends in exactly one of:", ""]
    lines += [f"* `{outcome.value}`" for outcome in Outcome]
    return "\n".join(lines) + "\n"


def sentence(text: str) -> str:
    """Return a text with a capital at its beginning."""
    text = " ".join(text.split())
    return text[:1].upper() + text[1:]


def parameter_row(parameter: Parameter) -> str:
    """Return a row of the table of parameters."""
    allowed = ", ".join(f"`{choice}`" for choice in parameter.choices)
    if parameter.bounds:
        allowed = f"{parameter.bounds[0]:g} to {parameter.bounds[1]:g}"
    live = "*live*; " if parameter.live else ""
    text = parameter.description.replace("|", "\\|")
    return f"| `{parameter.name}` | `{parameter.default!r}` | {allowed} | {live}{text} |"


def svg(width: int, height: int, parts: list[str]) -> str:
    """Return an SVG document that is readable on light and dark pages."""
    style = (
        "<style>text{font:13px sans-serif;text-anchor:middle;fill:#222}.topic{font-size:11px;fill:#555}"
        "rect.page{fill:#fff}rect.box{fill:#e8f1fa;stroke:#0072b2}path{fill:none;stroke:#555}"
        "</style><defs><marker id='a' markerWidth='8' markerHeight='8' refX='7' refY='4' orient='auto'>"
        "<path d='M0,0L8,4L0,8' style='fill:#555'/></marker></defs>"
    )
    body = "\n".join(parts)
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}'>{style}"
        f"<rect class='page' width='{width}' height='{height}'/>\n{body}\n</svg>\n"
    )


def box(x: int, y: int, text: str, width: int = 140) -> str:
    """Return a labelled box around a centre."""
    return (
        f"<rect class='box' x='{x - width // 2}' y='{y - 18}' width='{width}' height='36' rx='5'/>"
        f"<text x='{x}' y='{y + 5}'>{html.escape(text)}</text>"
    )


def arrow(x0: int, y0: int, x1: int, y1: int, text: str = "") -> str:
    """Return an arrow with a label above its middle."""
    label = f"<text class='topic' x='{(x0 + x1) // 2}' y='{(y0 + y1) // 2 - 6}'>{html.escape(text)}</text>"
    return f"<path d='M{x0},{y0}L{x1},{y1}' marker-end='url(#a)'/>{label if text else ''}"


def graph_figure(pages: list[Page]) -> str:
    """Return the figure of nodes and topics: an edge for each input that another node publishes."""
    pages = [page for page in pages if page.name in GRAPH]  # sensor_health watches the same topics
    publisher = {}
    for page in pages:
        for topic in page.outputs:
            publisher[topic.name.replace("~", page.name)] = page.name
    parts = [box(*GRAPH[page.name], page.name) for page in pages]
    for page in pages:
        x, y = GRAPH[page.name]
        sensors = [topic.name.lstrip("/") for topic in page.inputs if topic.name not in publisher]
        sensors = [name for name in sensors if name not in ("tf", "tf_static")]
        for topic in page.inputs:
            if topic.name in publisher:
                x0, y0 = GRAPH[publisher[topic.name]]
                parts.append(arrow(x0 + 70, y0, x - 70, y, topic.name.rpartition("/")[2]))
        if sensors:
            above = y < 100 or page.name == "fusion"
            parts.append(f"<text class='topic' x='{x}' y='{y - 26 if above else y + 34}'>"
                         f"{html.escape(', '.join(sensors))}</text>")  # fmt: skip
        results = [t.name for t in page.outputs if t.name[2:] in ("tracks", "predictions", "odometry")]
        if results:
            parts.append(arrow(x + 70, y, x + 130, y))
            parts.append(f"<text class='topic' x='{x + 90}' y='{y - 26}'>{', '.join(results)}</text>")
    return svg(930, 300, parts)


def way_figure() -> str:
    """Return the figure of a frame's way, with the thread that each step runs on."""
    parts = []
    for number, step in enumerate(WAY):
        x = 80 + number * 130
        parts.append(box(x, 70, step, 110))
        if number:
            parts.append(arrow(x - 75, 70, x - 55, 70))
    parts.append("<text class='topic' x='210' y='30'>executor's thread</text>")
    parts.append("<text class='topic' x='790' y='30'>worker's thread</text>")
    return svg(80 + len(WAY) * 130, 120, parts)


def main(folder: Path) -> None:
    """Write all generated files below a folder."""
    pages = [inspect_node(name) for name in NODES]
    for name in ("reference", "figures"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "reference" / "nodes.md").write_text(nodes_page(pages))
    (folder / "figures" / "graph.svg").write_text(graph_figure(pages))
    (folder / "figures" / "frame.svg").write_text(way_figure())


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
