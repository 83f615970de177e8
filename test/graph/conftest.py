"""Real rclpy over real topics, each test in a Context and a domain of its own."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed: run `make setup`")

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from lifecycle_msgs.srv import ChangeState, GetState  # noqa: E402
from rcl_interfaces.srv import SetParameters  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.qos import QoSProfile, ReliabilityPolicy  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image, PointCloud2  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402
from vision_msgs.msg import Detection2DArray, Detection3DArray  # noqa: E402

from perception_rt.codec.encode import encode_compressed, encode_image, encode_points  # noqa: E402
from perception_rt.model import bundle  # noqa: E402
from perception_rt.model.manifest import CloudSpec, ImageSpec  # noqa: E402
from perception_rt.node.run import Graph, make_executor, spin  # noqa: E402
from perception_rt.node.transport import transport_environment  # noqa: E402
from test.detectors import TallBox  # noqa: E402
from test.domains import claim_domain  # noqa: E402

from .models import Failing  # noqa: E402

os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ |= transport_environment()

TALL = 240  # rows from which `Failing` becomes slow


def wait_for(condition: Callable[[], object], timeout_s: float = 15.0) -> bool:
    """Whether `condition()` came true in time."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.005)
    return bool(condition())


def square(x: int = 10, y: int = 20, size: int = 30, shape: tuple[int, int] = (120, 160)) -> np.ndarray:
    """A black RGB image with one bright red square, which `BrightBox` finds."""
    image = np.zeros((*shape, 3), np.uint8)
    image[y : y + size, x : x + size, 0] = 255
    return image


def block(x: float = 10.0, n: int = 200) -> np.ndarray:
    """Ground, and a block of 4 x 2 x 1 m at (x, 0, 0), which `TallBox` finds: (N, 4) float32."""
    rng = np.random.default_rng(0)
    points = rng.uniform((x - 2, -1, -0.5, 0), (x + 2, 1, 0.5, 1), (n, 4))
    points[:2, :3] = [[x - 2, -1, -0.5], [x + 2, 1, 0.5]]
    ground = rng.uniform((2, -20, -1.8, 0), (40, 20, -1.7, 1), (n, 4))
    return np.concatenate([ground, points]).astype(np.float32)


def stamp_of(message) -> int:
    """The header's stamp, ns."""
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


def values_of(status) -> dict[str, str]:
    """The values of a DiagnosticStatus."""
    return {item.key: item.value for item in status.values}


class Bench:
    """Publishes to the nodes under test and keeps what they publish.

    Attributes:
        status: by name, the latest diagnostics.
    """

    def __init__(self, capfd: pytest.CaptureFixture) -> None:
        self._capfd = capfd
        self.context = rclpy.Context()
        self.domain, self._lock = claim_domain()
        rclpy.init(context=self.context, domain_id=self.domain)
        self.node = rclpy.create_node("bench", context=self.context)
        self.executor = make_executor(self.context)
        self.executor.add_node(self.node)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=spin, args=(self.executor, self._stop, self.context))
        self._thread.start()
        self.graph: Graph | None = None
        self.up = False
        self.detections: dict[str, list] = {}
        self.status: dict[str, object] = {}
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 100)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.status[status.name] = status

    @property
    def logs(self) -> list[str]:
        """The lines that the nodes wrote to their log (/rosout mixes up nodes of one name in one process)."""
        # readouterr() would empty the file as it reads, and lose what a node writes in between.
        file = self._capfd._capture.err.tmpfile.fileno()
        return os.pread(file, os.fstat(file).st_size, 0).decode(errors="replace").splitlines()

    def said(self, *words: str) -> bool:
        """Whether one line of the log has all these words."""
        return any(all(word in line for word in words) for line in self.logs)

    def diagnostics(self, name: str) -> dict[str, str]:
        """The latest values of a status; none before the first."""
        return values_of(self.status[name]) if name in self.status else {}

    def message(self, name: str) -> str:
        """The latest message of a status; empty before the first."""
        return self.status[name].message if name in self.status else ""

    # Nodes.

    def start(self, node_class: type, **values):
        """Bring up a node of `node_class` with these parameters; its outputs are recorded."""
        overrides = [Parameter(name, value=value) for name, value in values.items()]
        node = node_class(context=self.context, parameter_overrides=overrides)
        self.graph = Graph([node], self.context)
        self.up = self.graph.start()
        return node

    def call(self, service_type: type, name: str, request, timeout_s: float = 30.0):
        """Call a service and wait for its answer."""
        future = self.call_async(service_type, name, request)
        assert wait_for(future.done, timeout_s), f"no answer from {name}"
        return future.result()

    def call_async(self, service_type: type, name: str, request):
        """Call a service."""
        client = self.node.create_client(service_type, name)
        assert client.wait_for_service(15.0), f"no service {name}"
        return client.call_async(request)

    def change_state(self, transition: int, node: str = "camera_detector") -> bool:
        """Ask for a lifecycle transition, as `ros2 lifecycle set` does."""
        request = ChangeState.Request()
        request.transition.id = transition
        return self.call(ChangeState, f"/{node}/change_state", request).success

    def state(self, node: str = "camera_detector") -> str:
        """The lifecycle state, as `ros2 lifecycle get` shows it."""
        return self.call(GetState, f"/{node}/get_state", GetState.Request()).current_state.label

    def set_parameter(self, name: str, value: object, node: str = "camera_detector"):
        """Set a parameter as `ros2 param set` does; returns the result (successful, reason)."""
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        return self.call(SetParameters, f"/{node}/set_parameters", request).results[0]

    def swap(self, node: str = "camera_detector"):
        """Ask for the swap of the bundle; the future of the answer."""
        return self.call_async(Trigger, f"/{node}/swap_bundle", Trigger.Request())

    # Topics.

    def listen(self, topic: str, message_type: type = Detection2DArray, qos: QoSProfile | int = 1000) -> list:
        """Record messages."""
        kept = self.detections.setdefault(topic, [])
        self.node.create_subscription(message_type, topic, kept.append, qos)
        return kept

    def publisher(self, topic: str, reliability: str = "best_effort", message_type: type = Image, **qos):
        """A publisher of images, or of another type."""
        profile = QoSProfile(depth=5, reliability=ReliabilityPolicy[reliability.upper()], **qos)
        return self.node.create_publisher(message_type, topic, profile)

    def now_ns(self) -> int:
        return self.node.get_clock().now().nanoseconds

    def send(self, publisher, image: np.ndarray, stamp_ns: int | None = None) -> int:
        """Publish an RGB image; returns its stamp."""
        stamp_ns = self.now_ns() if stamp_ns is None else stamp_ns
        publisher.publish(encode_image(image, "rgb8", stamp_ns, "camera"))
        return stamp_ns

    def send_jpeg(self, publisher, data: bytes) -> int:
        """Publish a CompressedImage; returns its stamp."""
        stamp_ns = self.now_ns()
        publisher.publish(encode_compressed(data, "jpeg", stamp_ns, "camera"))
        return stamp_ns

    # The end.

    def check_ledgers(self) -> None:
        """The last word of every stream: inactive, nothing pending, and the states sum to what came."""
        whole = [name for name in self.status if ": /" not in name]
        assert wait_for(lambda: all(self.status[name].message == "inactive" for name in whole))
        for name, status in self.status.items():
            if ": /" in name:
                check_sum(values_of(status))
                assert values_of(status)["pending"] == "0", name

    def end(self) -> float:
        """End nodes and bench; returns how long the nodes took, s."""
        began = time.monotonic()
        if self.graph is not None:
            self.graph.end()
        took = time.monotonic() - began
        try:
            self.check_ledgers()
        finally:
            self._stop.set()
            self._thread.join()
            self.executor.shutdown()
            self.node.destroy_node()
            rclpy.shutdown(context=self.context)
            self._lock.close()
            print(*self.logs, sep="\n")  # for pytest's report of a failure
        return took


STATES = ("published", "superseded", "late", "unsynced", "rejected", "decode_error", "model_error")


def check_sum(values: dict[str, str]) -> None:
    """The ledger in these diagnostics sums."""
    ended = sum(int(values[state]) for state in STATES)
    assert int(values["received"]) == ended + int(values["pending"]), values


@pytest.fixture
def bench(capfd):
    """A `Bench` that ends with the test and holds every ledger to its sum."""
    bench = Bench(capfd)
    yield bench
    if bench.context.ok():
        bench.end()


@pytest.fixture(scope="session")
def failing(tmp_path_factory) -> str:
    """The bundle of a `Failing` detector."""
    path = tmp_path_factory.mktemp("failing") / "failing.pt"
    spec = ImageSpec(size=None, resize="model", filter="model", order="rgb")
    bundle.save(
        path, Failing(TALL), name="failing", classes=["bright"], input_spec=spec, licence="Apache-2.0"
    )
    return str(path)


@pytest.fixture(scope="session")
def tall(tmp_path_factory) -> str:
    """The bundle of a `TallBox` detector."""
    path = tmp_path_factory.mktemp("tall") / "tall.pt"
    spec = CloudSpec((-50.0, -50.0, -5.0, 50.0, 50.0, 5.0), "unused")
    fields = {"name": "tall", "classes": ["thing"], "licence": "Apache-2.0", "task": "detect3d"}
    bundle.save(path, TallBox(), input_spec=spec, **fields)
    return str(path)


class Sensor:
    """One sensor of a running detector: sends in lockstep and looks the ledger up."""

    message_type: type

    def __init__(self, bench: Bench, node, topic: str, output: str, found: list, publisher) -> None:
        self.bench, self.node, self.topic, self.output = bench, node, topic, output
        self.found, self.publisher = found, publisher

    @property
    def name(self) -> str:
        """Of its status."""
        return f"{self.node.get_name()}: {self.topic}"

    def book(self) -> dict:
        """The ledger now: received, pending, states, reasons."""
        return self.node.component.pipeline.stats[self.topic].ledger.snapshot()

    def status(self) -> dict[str, str]:
        """The latest diagnostics; none before the first."""
        return self.bench.diagnostics(self.name)

    def message(self) -> str:
        """What the latest diagnostics say; empty before the first."""
        return self.bench.message(self.name)

    def level(self) -> bytes:
        """The level of the latest diagnostics."""
        return self.bench.status[self.name].level

    def count(self, state: str) -> int:
        """Frames that ended so."""
        return self.book()["states"][state]

    def send(self, frame: np.ndarray | None = None, stamp_ns: int | None = None) -> int:
        """Publish a frame; returns its stamp."""
        raise NotImplementedError

    def publish(self, message) -> dict:
        """Publish any message and wait until it has ended; returns the states that changed."""
        before = self.book()
        self.publisher.publish(message)
        assert wait_for(lambda: self.book()["received"] > before["received"]), "never arrived"
        assert wait_for(lambda: self.book()["pending"] == 0), "never ended"
        after = self.book()["states"]
        return {
            state: n - before["states"][state] for state, n in after.items() if n > before["states"][state]
        }

    def answer(self, stamp: int, timeout_s: float = 15.0):
        """Wait for the answer to the frame of this stamp."""
        assert wait_for(lambda: any(stamp_of(m) == stamp for m in self.found), timeout_s), self.book()
        return next(m for m in self.found if stamp_of(m) == stamp)

    def ask(self, frame: np.ndarray | None = None, stamp_ns: int | None = None):
        """Send a frame and wait for its answer, and for the ledger to know of it."""
        before = len(self.found)
        stamp = self.send(frame, stamp_ns)
        assert wait_for(lambda: any(stamp_of(m) == stamp for m in self.found[before:])), self.book()
        assert wait_for(lambda: self.book()["pending"] == 0)
        return self.found[-1]

    def rewire(self) -> None:
        """Wait until the node is heard and hears, after it was configured (again)."""
        outputs = lambda: self.bench.node.get_publishers_info_by_topic(self.output)  # noqa: E731
        assert wait_for(lambda: self.publisher.get_subscription_count() and outputs())
        assert wait_for(self.node.component._detections[self.topic].get_subscription_count)

    def unplug(self) -> None:
        """The publisher goes away."""
        self.bench.node.destroy_publisher(self.publisher)

    def plug_in(self, **arguments) -> None:
        """A publisher comes (back)."""
        self.publisher = self.bench.publisher(self.topic, message_type=self.message_type, **arguments)
        assert wait_for(lambda: self.publisher.get_subscription_count() == 1)


class Camera(Sensor):
    """A camera; frames are (H, W, 3) uint8 RGB."""

    message_type = Image

    def send(self, frame: np.ndarray | None = None, stamp_ns: int | None = None) -> int:
        """Publish an image; returns its stamp."""
        return self.bench.send(self.publisher, square() if frame is None else frame, stamp_ns)


class Lidar(Sensor):
    """A lidar; frames are (N, 4) float32 points."""

    message_type = PointCloud2

    def send(self, frame: np.ndarray | None = None, stamp_ns: int | None = None) -> int:
        """Publish a cloud; returns its stamp."""
        stamp_ns = self.bench.now_ns() if stamp_ns is None else stamp_ns
        self.publisher.publish(encode_points(block() if frame is None else frame, stamp_ns, "lidar"))
        return stamp_ns


@pytest.fixture
def run_lidar(bench, tall):
    """Bring up a lidar detector with these topics, wired and ready; `values` are parameters of the node."""

    def run(*topics: str, publisher: dict | None = None, **values) -> Lidar | list[Lidar]:
        from perception_rt.node.lidar_detector import LidarDetectorNode

        topics = topics or ("/points",)
        values = {"bundle": tall, "threads": 1, "rate_hz": 1000.0} | values
        node = bench.start(LidarDetectorNode, points_topics=list(topics), **values)
        assert bench.up, bench.logs
        lidars = []
        for topic in topics:
            output = f"/lidar_detector{topic.rpartition('/')[0] if len(topics) > 1 else ''}/detections"
            out = bench.publisher(topic, message_type=PointCloud2, **(publisher or {}))
            lidars.append(Lidar(bench, node, topic, output, bench.listen(output, Detection3DArray), out))
        for lidar in lidars:
            lidar.rewire()
        return lidars if len(lidars) > 1 else lidars[0]

    return run


@pytest.fixture
def run_camera(bench, failing):
    """Bring up a camera detector with one camera (`run_camera.several`: with several), wired and ready.

    publisher: QoS of the cameras; wired: wait for discovery; all else: parameters of the node.
    """

    def run(topic: str = "/image_raw", **arguments) -> Camera:
        return run_cameras([topic], **arguments)[0]

    def run_cameras(
        topics: list[str], publisher: dict | None = None, wired: bool = True, **values
    ) -> list[Camera]:
        from perception_rt.node.camera_detector import CameraDetectorNode

        values = {"bundle": failing, "warmup_sizes": ["160x120"], "threads": 1, "rate_hz": 1000.0} | values
        values = {"bundle_folders": [tempfile.gettempdir()]} | values
        node = bench.start(CameraDetectorNode, image_topics=topics, **values)
        assert bench.up, bench.logs
        cameras = []
        for topic in topics:
            camera = topic.removesuffix("/compressed").rpartition("/")[0]
            output = f"/camera_detector{camera if len(topics) > 1 else ''}/detections"
            kind = CompressedImage if topic.endswith("/compressed") else Image
            out = bench.publisher(topic, message_type=kind, **(publisher or {}))
            cameras.append(Camera(bench, node, topic, output, bench.listen(output), out))
        for camera in cameras if wired else ():
            camera.rewire()
        return cameras

    run.several = run_cameras
    return run
