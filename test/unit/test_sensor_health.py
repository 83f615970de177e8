"""Rules of the health of sensors: each fault that is made is found in time, and nothing else is."""

from __future__ import annotations

import contextlib
import itertools
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.health import standing
from bench.health_faults import (
    CAMERA,
    FAULTS,
    FROM_START,
    LIDAR,
    START_NS,
    SensorDrive,
    covered,
    found_s,
    play,
    simulated,
)
from perception_rt.codec import encode_compressed, encode_image, encode_points
from perception_rt.codec.cdr import CdrWriter
from perception_rt.component.fusion import Fusion
from perception_rt.component.graph import GraphNode
from perception_rt.component.parameters import resolve
from perception_rt.component.sensor_health import SensorHealth
from perception_rt.replay.bag import BagMessage
from perception_rt.replay.lockstep.health import SensorWatch
from perception_rt.replay.lockstep.host import LockstepHost
from perception_rt.replay.lockstep.loop import EventLoop
from perception_rt.replay.lockstep.router import ReplayObserver, Router
from perception_rt.stage.health.agreement import AgreementHealth
from perception_rt.stage.health.alignment import AlignmentHealth
from perception_rt.stage.health.checks import CLEAR_S, Check, Limits
from perception_rt.stage.health.cloud import CloudHealth, measure_cloud
from perception_rt.stage.health.monitor import (
    CAMERA_INFO,
    COMPRESSED,
    IMAGE,
    POINTS,
    HealthMonitor,
    camera_info_topic,
)
from perception_rt.stage.health.picture import PictureHealth, measure_picture
from perception_rt.stage.health.timing import TimingHealth
from perception_rt.types import CodecError, TransformError
from perception_rt.types.status import Level

from .test_export_formats import camera_info

SECOND = 10**9


@pytest.fixture(scope="module")
def drive() -> SensorDrive:
    """One second of the simulator, small, in a loop."""
    return simulated(21, 1.0, (480, 270))


@pytest.mark.parametrize("name", [name for name in FAULTS if not name.startswith("extrinsics")])
def test_a_fault_is_found_in_time_and_not_before(drive, name):
    fault = FAULTS[name]
    monitor = play(drive, fault, 3.0, 5.2)
    assert found_s(monitor, fault, 3.0) <= fault.allowed_s
    assert all(finding.found_ns >= START_NS + 3 * SECOND for finding in monitor.findings)
    assert {finding.sensor for finding in monitor.findings} == {fault.sensor}


@pytest.mark.parametrize(
    "name", ["camera/dark", "camera/covered_left_60", "lidar/empty", "camera/stamps_ahead"]
)
def test_a_fault_that_is_there_from_the_start_is_not_learnt(drive, name):
    assert any(part in name for part in FROM_START)
    fault = FAULTS[name]
    assert found_s(play(drive, fault, 0.0, 2.2), fault, 0.0) <= fault.allowed_s


def test_a_wrong_calibration_is_found_and_a_right_one_is_none():
    drive, fault = simulated(21, 7.0, (480, 270)), FAULTS["extrinsics/yaw_+3"]
    assert play(drive, None, 0.0, 7.0).findings == []
    assert found_s(play(drive, fault, 0.0, 7.0), fault, 0.0) <= 10


def test_the_calibration_of_a_raw_stereo_camera_is_checked_without_rectification(drive, monkeypatch):
    turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1.0]])
    monitor = HealthMonitor({CAMERA: IMAGE, LIDAR: POINTS}, lambda *_: np.eye(4))
    monitor.take_camera_info(CAMERA, camera_info(turn))
    looks = []
    monkeypatch.setattr(monitor.sensors[CAMERA].alignment, "look", lambda *given: looks.append(given[-1]))
    monitor.take(CAMERA, encode_image(drive.pictures[0], "bgr8", START_NS, "camera"), START_NS)
    monitor.take(LIDAR, encode_points(drive.clouds[0], START_NS, "lidar"), START_NS)
    np.testing.assert_allclose([look[:3, :3] for look in looks], [turn.T])


@pytest.mark.parametrize("rectified", [False, True])
def test_the_health_of_a_recording_takes_the_pictures_as_fusion_does(drive, monkeypatch, rectified):
    kinds = {CAMERA: IMAGE, LIDAR: POINTS, camera_info_topic(CAMERA): CAMERA_INFO}
    transforms = SimpleNamespace(lookup=lambda *_: np.eye(4))
    router = SimpleNamespace(users=lambda topic: True, transforms=transforms)
    values = resolve(Fusion.PARAMETERS, {"image_is_rectified": rectified})
    watch = SensorWatch(router, kinds, [Fusion(SimpleNamespace(), values)])
    looks = []
    monkeypatch.setattr(AlignmentHealth, "look", lambda *given: looks.append(given[-2:]))
    p = np.array([[90, 0, 80, -45], [0, 90, 60, 0], [0, 0, 1.0, 0]])
    for topic, data in (
        (camera_info_topic(CAMERA), camera_info(p=p)),
        (CAMERA, encode_image(drive.pictures[0], "bgr8", START_NS, "camera")),
        (LIDAR, encode_points(drive.clouds[0], START_NS, "lidar")),
    ):
        watch.take(BagMessage(topic, kinds[topic], START_NS, data))
    ((model, way),) = looks
    assert (model.k[0, 0], way[0, 3]) == ((90, -0.5) if rectified else (100, 0))


def test_a_fault_ends_and_its_span_is_known(drive):
    monitor = play(drive, FAULTS["camera/dark"], 3.0, 4.5)
    now = START_NS + round(4.5 * SECOND)
    for number in range(40):
        ns = now + number * SECOND // 10
        monitor.take(CAMERA, encode_image(drive.pictures[number % 10], "bgr8", ns, "camera"), ns)
    (finding,) = (one for one in monitor.findings if one.check == "mean_grey")
    assert finding.begin_ns <= finding.found_ns < finding.end_ns <= now + (CLEAR_S + 1) * SECOND
    assert monitor.sensors[CAMERA].report().level == Level.OK


# What is no fault.


@pytest.mark.parametrize("rate_hz", [1.0, 2.0, 5.0, 12.5, 60.0])
def test_the_rate_is_the_sensors_own(rate_hz):
    findings: list = []
    timing = TimingHealth("/x", findings)
    for number in range(round(20 * rate_hz)):
        now = round(number / rate_hz * SECOND)
        timing.poll(now)
        timing.update(now + 5_000_000, now)
    assert findings == []
    assert timing.rate_hz == pytest.approx(rate_hz, rel=0.01)


@pytest.mark.parametrize("lost", [7, 13])
def test_single_lost_messages_are_no_fault(lost):
    findings: list = []
    timing = TimingHealth("/x", findings)
    for number in range(200):
        if number % lost:
            timing.update(number * SECOND // 10, number * SECOND // 10)
    assert findings == []


def test_a_stall_of_the_machine_says_nothing_of_the_sensors_rate():
    findings: list = []
    timing, rng = TimingHealth("/x", findings), np.random.default_rng(1)
    arrival = 0
    for number in range(600):
        stamp = number * SECOND // 30
        late_s = rng.exponential(0.02) + (1.0 if number % 150 == 100 else 0.0)
        arrival = max(arrival, stamp + round(late_s * SECOND))
        timing.update(arrival, stamp)
    assert findings == []
    assert timing.rate_hz == pytest.approx(30, rel=0.01)


def test_a_driver_that_starts_late_is_told_after_a_while_and_is_no_silence():
    findings: list = []
    timing = TimingHealth("/x", findings)
    for number in range(200):
        timing.poll(number * SECOND // 10)
    assert [finding.check for finding in findings] == ["first_s"]


@pytest.mark.parametrize("messages", [0, 20])
def test_a_pause_of_the_node_and_a_jump_of_the_clock_are_no_silence_but_what_follows_is(messages):
    findings: list = []
    timing = TimingHealth("/x", findings)
    for number in range(20):
        timing.poll(number * SECOND // 10)
        if number < messages:
            timing.update(number * SECOND // 10, number * SECOND // 10)
    for number in range(14):  # 20 s later, before the next message
        timing.poll(22 * SECOND + number * SECOND // 10)
    assert findings == []
    for number in range(14, 160):
        timing.poll(22 * SECOND + number * SECOND // 10)
    assert [finding.check for finding in findings] == ["silence_s" if messages else "first_s"]
    assert findings[0].found_ns - 22 * SECOND <= (2 if messages else 15.2) * SECOND


@pytest.mark.parametrize(("rate_hz", "within_s"), [(0.2, 20.2), (0.5, 8.2), (10.0, 2.0)])
@pytest.mark.parametrize("messages", [3, 30])
def test_a_slow_sensor_is_not_silent_at_its_start_and_silence_is_found(rate_hz, within_s, messages):
    findings: list = []
    timing = TimingHealth("/x", findings)
    last_s = (messages - 1) / rate_hz
    sent = [round(number / rate_hz * SECOND) for number in range(messages)]
    for now in range(0, round((last_s + within_s) * SECOND), SECOND // 10):
        timing.poll(now)
        while sent and sent[0] <= now:
            timing.update(now, sent.pop(0))
    (finding,) = findings
    assert finding.check == "silence_s"
    assert finding.begin_ns > last_s * SECOND


@pytest.mark.parametrize(("usual", "later", "found"), [(3, 0, True), (3, 2, False), (0, 0, False)])
def test_sensors_that_no_longer_agree_are_a_fault(usual, later, found):
    findings: list = []
    health = AgreementHealth("/fusion/detections", findings)
    for number in range(200):
        both = usual if number < 120 else later
        sources = ["camera+lidar"] * both + ["camera"] * (4 - both) + ["lidar"] * 5
        health.update(number * SECOND // 10, sources)
    assert [finding.check for finding in findings] == ["agreement"] * found


def still_findings(pixels: np.ndarray) -> list:
    monitor = HealthMonitor({CAMERA: IMAGE}, no_transforms)
    for number, picture in enumerate(standing(pixels)):
        ns = START_NS + number * SECOND // 10
        monitor.take(CAMERA, encode_image(picture, "bgr8", ns, "camera"), ns)
    return [finding.check for finding in monitor.findings]


def no_transforms(target: str, source: str, stamp_ns: int) -> np.ndarray:
    raise TransformError(target, source, "none")


def test_a_night_a_fisheye_and_bars_are_no_fault(drive):
    day = drive.pictures[0]
    night = (day * 0.35).astype(np.uint8)
    night[: len(night) // 2] = 3
    bars = day.copy()
    bars[:34] = bars[-34:] = 0
    fisheye, (y, x) = day.copy(), np.indices(day.shape[:2])
    fisheye[(y - 135) ** 2 + ((x - 240) / 480 * 270) ** 2 > 135**2] = 0
    assert [still_findings(picture) for picture in (night, bars, fisheye)] == [[], [], []]


@pytest.mark.parametrize(("day", "found"), [(0, []), (30, ["covered"])])
def test_a_black_sky_over_a_lit_street_is_no_fault_but_a_flat_day_sky_that_turns_black_is(drive, day, found):
    """The day sky is as flat as a cover, and the vehicle stands."""
    rng, sky = np.random.default_rng(1), drive.pictures[0].shape[0] // 3
    street = (drive.pictures[0] * 0.8).astype(np.uint8)
    monitor = HealthMonitor({CAMERA: IMAGE}, no_transforms)
    for number in range(50):
        picture, ns = street.copy(), START_NS + number * SECOND // 10
        grey = 150 if number < day else 8
        picture[:sky] = np.clip(rng.normal(grey, 1.5, picture[:sky].shape), 0, 255)
        monitor.take(CAMERA, encode_image(picture, "bgr8", ns, "camera"), ns)
    assert measure_picture(street).means[3:].mean() > 50
    assert [finding.check for finding in monitor.findings] == found
    assert all(finding.found_ns <= START_NS + 5 * SECOND for finding in monitor.findings)


@pytest.mark.parametrize(("covered_from", "found"), [(60, []), (30, ["covered"])])
def test_a_black_sky_is_no_cover_on_a_drive_at_night_but_a_cover_of_the_road_is(drive, covered_from, found):
    sky = drive.pictures[0].shape[0] // 3
    monitor = HealthMonitor({CAMERA: IMAGE}, no_transforms)
    for number in range(50):
        picture, ns = (drive.pictures[number % 10] * 0.55).astype(np.uint8), START_NS + number * SECOND // 10
        picture[:sky] = 3
        figures = measure_picture(picture)
        assert figures.means[3:].mean() < 50
        if number >= covered_from:
            picture = covered("bottom", 0, picture)
        monitor.take(CAMERA, encode_image(picture, "bgr8", ns, "camera"), ns)
    assert [finding.check for finding in monitor.findings] == found
    assert all(3 <= (finding.found_ns - START_NS) / SECOND <= 5 for finding in monitor.findings)


def test_a_dark_tunnel_is_told_and_its_end_is_no_cover(drive):
    pictures = [drive.pictures[k % 10] for k in range(90)]
    shades = [1.0] * 30 + [0.03] * 30 + [1.0] * 30
    monitor = HealthMonitor({CAMERA: IMAGE}, no_transforms)
    for number, (picture, shade) in enumerate(zip(pictures, shades, strict=True)):
        ns = START_NS + number * SECOND // 10
        monitor.take(CAMERA, encode_image((picture * shade).astype(np.uint8), "bgr8", ns, "c"), ns)
    assert [finding.check for finding in monitor.findings] == ["mean_grey"]


@pytest.mark.parametrize("rings", [1, 2, 4])
@pytest.mark.parametrize("front", [False, True])
def test_lidars_of_fewer_rings_and_of_a_part_of_the_circle_are_well(drive, rings, front):
    findings: list = []
    health = CloudHealth("/points", findings)
    for number in range(30):
        points = drive.clouds[number % 10]
        elevation = np.degrees(np.arcsin(points[:, 2] / np.linalg.norm(points[:, :3], axis=1)))
        points = points[np.floor(elevation * 2) % rings == 0]
        if front:
            points = points[np.abs(np.arctan2(points[:, 1], points[:, 0])) < 0.9]
        health.update(number * SECOND // 10, measure_cloud(points))
    assert findings == []


def test_rain_that_takes_a_quarter_of_the_points_is_no_fault(drive):
    findings, rng = [], np.random.default_rng(1)
    health = CloudHealth("/points", findings)
    for number in range(60):
        points = drive.clouds[number % 10]
        if number > 20:
            points = points[rng.random(len(points)) > 0.25]
            drops = rng.normal(0, 2.0, (300, 4)).astype(np.float32)
            points = np.concatenate((points, drops))
        health.update(number * SECOND // 10, measure_cloud(points))
    assert findings == []


# Bounds.


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    channels=st.sampled_from([0, 3]),
    fill=st.integers(0, 255),
)
def test_a_picture_of_any_size_is_measured(shape, channels, fill):
    pixels = np.full(shape + (channels,) * bool(channels), fill, np.uint8)
    figures = measure_picture(pixels)
    assert figures.mean_grey == pytest.approx(fill, abs=1)
    assert figures.sharpness is None  # a single colour shows nothing


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(0, 40),
    scale=st.sampled_from([0.0, 1e-30, 1.0, 1e19, 3e38]),
    seed=st.integers(0, 9),
)
def test_any_finite_cloud_is_measured(count, scale, seed):
    points = (np.random.default_rng(seed).uniform(-1, 1, (count, 4)) * scale).astype(np.float32)
    figures = measure_cloud(points)
    assert 0 <= figures.returns <= count
    assert np.isfinite([figures.down, figures.near, *figures.sectors]).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2**62), st.integers(-(2**62), 2**62)), max_size=40))
def test_any_times_are_taken(times):
    timing = TimingHealth("/x", [])
    for now, stamp in times:
        timing.poll(now)
        timing.update(now, stamp)


@settings(max_examples=100, deadline=None)
@given(values=st.lists(st.floats(0, 2), min_size=1, max_size=60), below=st.booleans())
def test_a_level_rises_only_after_two_values_beyond_the_limit(values, below):
    limits = Limits(1.0, 0.5 if below else 1.5, "", below, raise_s=0.1)
    findings: list = []
    check = Check("/x", "x", limits, findings)
    for number, value in enumerate(values):
        check.update(number * SECOND // 10, value)
        if check.level:
            assert findings
            assert findings[-1].end_ns is None
    beyond = [value < 1.0 if below else value > 1.0 for value in values]
    if not any(a and b for a, b in itertools.pairwise(beyond)):
        assert findings == []
    if len(values) > 1 and all(beyond):
        assert check.level >= Level.WARN


def test_findings_are_bounded():
    findings: list = []
    check = Check("/x", "x", Limits(1.0, 1.0, "", raise_s=0.0), findings)
    for number in range(3000):
        check.update(number * 10 * SECOND, float(number % 4 < 1) * 2)
        check.clear(number * 10 * SECOND)
    assert len(findings) <= 1000


def test_messages_that_cannot_be_read_are_a_fault_of_their_sensor(drive):
    monitor = HealthMonitor({CAMERA: COMPRESSED, LIDAR: POINTS}, no_transforms)
    for number in range(20):
        ns = START_NS + number * SECOND // 10
        monitor.take(LIDAR, encode_points(drive.clouds[0], ns, "lidar"), ns)
        with pytest.raises(CodecError):
            monitor.take(CAMERA, encode_compressed(b"\xff\xd8\xff garbage", "jpeg", ns, "camera"), ns)
    assert [(finding.sensor, finding.check) for finding in monitor.findings] == [(CAMERA, "broken")]


def test_pictures_that_cannot_be_decoded_are_a_fault_at_any_rate():
    """Only some pictures a second are decoded, and their headers are whole."""
    _, stream = cv2.imencode(".jpg", np.zeros((48, 64, 3), np.uint8))
    broken = stream.tobytes().replace(b"\xff\xdb", b"\xff\xfe")  # the quantization tables: a comment
    monitor = HealthMonitor({CAMERA: COMPRESSED}, no_transforms)
    for number in range(60):
        ns = START_NS + number * SECOND // 30
        with contextlib.suppress(CodecError):
            monitor.take(CAMERA, encode_compressed(broken, "jpeg", ns, "camera"), ns)
    assert "broken" in [finding.check for finding in monitor.findings]


def test_broken_messages_are_forgotten_when_the_clock_is_set_back(drive):
    monitor = HealthMonitor({LIDAR: POINTS}, no_transforms)
    for number in range(20):
        with pytest.raises(CodecError):
            monitor.take(LIDAR, b"garbage", START_NS + number * SECOND // 10)
    assert monitor.sensors[LIDAR].report().level == Level.ERROR
    monitor.reset()
    assert monitor.sensors[LIDAR].report().level == Level.OK
    for number in range(7):
        ns = START_NS - 100 * SECOND + number * SECOND // 10
        monitor.take(LIDAR, encode_points(drive.clouds[0], ns, "lidar"), ns)
    assert [finding.check for finding in monitor.findings] == ["broken"]


def mono16(grey: np.ndarray, stamp_ns: int) -> bytes:
    writer = CdrWriter()
    writer.header(stamp_ns, "camera")
    writer.scalars("I", *grey.shape)
    writer.string("mono16")
    writer.scalars("B", 0)
    writer.scalars("I", 2 * grey.shape[1])
    return writer.bytes_with(grey.view(np.uint8))


def test_the_health_of_a_recording_takes_the_bits_of_the_detectors():
    kinds, detector = {CAMERA: IMAGE}, SimpleNamespace(values={"significant_bits": 12})
    router = SimpleNamespace(users=lambda topic: True, transforms=SimpleNamespace(lookup=no_transforms))
    watch = SensorWatch(router, kinds, [detector])
    rng = np.random.default_rng(1)
    for number in range(10):
        ns = START_NS + number * SECOND // 10
        grey = rng.integers(0, 1 << 12, (90, 120), np.uint16)
        watch.take(BagMessage(CAMERA, IMAGE, ns, mono16(grey, ns)))
    assert watch.metrics(START_NS)["findings"] == []


@pytest.mark.parametrize("compressed", [False, True])
def test_a_12_bit_camera_is_not_dark(drive, compressed):
    values = resolve(SensorHealth.PARAMETERS, {"significant_bits": 12})
    if compressed:
        values["image_topics"] = ["image_raw/compressed"]
    loop = EventLoop(0)
    router = Router(loop, {}, {}, Unwatched(), False)
    host = LockstepHost(SensorHealth, GraphNode("health", "/", {}), values, loop, router, None)
    host.component.setup()
    monitor = host.component.monitor
    topic = next(iter(monitor.sensors))
    for number, picture in enumerate(drive.pictures):
        ns = START_NS + number * SECOND // 10
        grey = picture[..., 1].astype(np.uint16) << 4
        if compressed:
            _, stream = cv2.imencode(".png", grey)
            monitor.take(topic, encode_compressed(stream.tobytes(), "png", ns, "camera"), ns)
        else:
            monitor.take(topic, mono16(grey, ns), ns)
    assert monitor.findings == []


class Unwatched(ReplayObserver):
    pass


@pytest.mark.parametrize(
    ("namespace", "remaps", "info"),
    [
        ("/", {}, "/camera_info"),
        ("/car", {}, "/car/camera_info"),
        ("/", {"/image_raw": "/front/image_raw"}, "/front/camera_info"),
    ],
)
def test_the_camera_info_is_the_one_beside_the_image(namespace, remaps, info):
    loop = EventLoop(0)
    router = Router(loop, {}, remaps, Unwatched(), False)
    host = LockstepHost(SensorHealth, GraphNode("health", namespace, {}), {}, loop, router, None)
    host.component.setup()
    assert [name for name in router.subscriptions if name.endswith("camera_info")] == [info]


def test_a_camera_that_is_alone_in_a_recording_is_silent_where_nothing_was_recorded(drive):
    router = Router(EventLoop(START_NS), {CAMERA: IMAGE}, {}, Unwatched(), False)
    router.subscribe("detector", IMAGE, CAMERA, lambda data: None)
    watch = SensorWatch(router, {CAMERA: IMAGE}, [])
    for number in [*range(30), *range(60, 90), 10**9]:
        ns = START_NS + number * SECOND // 10
        data = encode_image(drive.pictures[number % 10], "bgr8", ns, "camera")
        watch.take(BagMessage(CAMERA, IMAGE, ns, data))
    findings = watch.metrics(START_NS)["findings"]
    first, jump = (one for one in findings if one["check"] == "silence_s")
    assert 4.4 <= first["found_s"] <= 4.9
    assert jump["found_s"] > 10**8 - 20


CHANGING = [(640, 360), (320, 180), (17, 9), (640, 360), (1280, 720)]


@pytest.mark.parametrize("sizes", [[(32, 24)] * 6, CHANGING])
def test_pictures_of_any_and_of_changing_size_are_looked_at(sizes):
    health, rng = PictureHealth("/camera", []), np.random.default_rng(1)
    for number, (width, height) in enumerate(sizes):
        pixels = rng.integers(0, 255, (height, width, 3), np.uint8)
        pixels[: height // 2] = 90  # a flat part
        health.look(number * 10**9, measure_picture(pixels))
