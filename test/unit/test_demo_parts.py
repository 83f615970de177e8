"""Parts of the demo: sustained rates, the folder of results, names in the table."""

from __future__ import annotations

import io
from argparse import Namespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from perception_rt.cli.demo.film import Film
from perception_rt.cli.demo.folder import clear_results
from perception_rt.cli.demo.plan import bag_graph
from perception_rt.cli.demo.rates import ANSWERED, SHARE, Load, measure, reduced, sustained
from perception_rt.codec import encode_image
from perception_rt.replay.bag import Bag
from perception_rt.replay.bag_writer import BagWriter
from perception_rt.replay.summary import broken, summary_table
from perception_rt.types import BagError, ConfigError, PerceptionError

ASKED = {"camera_detector": 30.0, "lidar_detector": 10.0}


@given(st.floats(1e-4, 20), st.floats(1e-4, 20))
def test_rates_are_kept_up_with_and_never_above_what_is_asked(camera_s, lidar_s):
    used = sustained(ASKED, {"camera_detector": camera_s, "lidar_detector": lidar_s})
    for name, seconds in (("camera_detector", camera_s), ("lidar_detector", lidar_s)):
        assert 0 < used[name] <= ASKED[name]
        assert used[name] * seconds <= SHARE + 1e-9 or used[name] <= 0.1
    if used["camera_detector"] >= used["lidar_detector"]:
        ratio = used["camera_detector"] / used["lidar_detector"]
        assert ratio == pytest.approx(round(ratio)) or used["camera_detector"] == ASKED["camera_detector"]


def test_a_fast_machine_runs_at_full_rates():
    assert sustained(ASKED, {"camera_detector": 0.015, "lidar_detector": 0.05}) == ASKED


@pytest.mark.parametrize(
    ("answered", "expected"),
    [
        ({"camera_detector": 1.0, "lidar_detector": ANSWERED}, None),
        ({"camera_detector": 0.5, "lidar_detector": 0.95}, {"camera_detector": 10.0, "lidar_detector": 10.0}),
        ({"camera_detector": 1.0, "lidar_detector": 0.6}, {"camera_detector": 30.0, "lidar_detector": 5.0}),
        ({"camera_detector": 0.3, "lidar_detector": 0.3}, {"camera_detector": 8.0, "lidar_detector": 2.0}),
    ],
)
def test_rates_that_a_run_could_not_keep_are_reduced(answered, expected):
    assert reduced(ASKED, answered) == expected


@given(st.floats(0, 1), st.floats(0, 1))
def test_reduced_rates_come_to_an_end(camera, lidar):
    used, runs = dict(ASKED), 0
    while lower := reduced(used, {"camera_detector": camera, "lidar_detector": lidar}):
        assert all(0 < lower[name] <= used[name] for name in used)
        used, runs = lower, runs + 1
        assert runs < 100


def test_a_detector_is_timed(make_bundle):
    load = Load(str(make_bundle()), "cpu", 1)
    found = measure({"one": load, "two": load})
    assert found.keys() == {"one", "two"}
    assert all(0 < seconds < 10 for seconds in found.values())


def test_a_bundle_that_cannot_be_timed_is_named(tmp_path):
    file = tmp_path / "broken.pt"
    file.write_bytes(b"no archive")
    with pytest.raises(PerceptionError, match=r"camera_detector: bundle=.*broken\.pt"):
        measure({"camera_detector": Load(str(file), "cpu", 1)})


def test_the_first_image_that_can_be_decoded_says_the_size(tmp_path):
    with BagWriter(tmp_path / "bag") as bag:
        kind = "sensor_msgs/msg/Image"
        for number in range(2):
            data = encode_image(np.zeros((120, 160, 3), np.uint8), "rgb8", number, "camera")
            bag.write("/image_raw", kind, number, data if number else data[:80])
            bag.write("/dead", kind, number, data[:80])
    args = Namespace(bag=tmp_path / "bag", bundle="any", lidar_bundle=None)
    with Bag(args.bag) as bag:
        graph = bag_graph(bag, ["/image_raw"], args)
        assert graph["camera_detector"]["warmup_sizes"] == ["160x120"]
        with pytest.raises(BagError, match="/dead: none of its 2 images can be decoded"):
            bag_graph(bag, ["/dead"], args)


def test_results_of_an_earlier_run_are_removed_and_other_files_stay(tmp_path):
    gone = ["camera.mp4", "camera_0025.png", "left_0003.png", "left.mp4", "vehicle_state.png", "graph.yaml"]
    stay = ["my_0001.png", "notes.txt", "camera_old.png"]
    for name in (*gone, *stay, "summary.json"):
        (tmp_path / name).write_text("x")
    clear_results(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*stay, "summary.json"])


def test_unrelated_films_stay(tmp_path):
    (tmp_path / "holiday.mp4").write_text("x")
    clear_results(tmp_path)
    assert (tmp_path / "holiday.mp4").exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    for folder in (file, file / "below"):
        with pytest.raises(ConfigError, match="--out="):
            clear_results(folder)


ROW = {
    "received": 300,
    "states": {"published": 12345, "decode_error": 3},
    "rate_hz": 6.0,
    "age_ms": {"p50": 1234.5, "p99": 12345.6},
    "map50": 0.5,
    "requested_hz": 30.0,
    "used_hz": 6.0,
    "reduced": True,
}


@pytest.mark.parametrize(
    "name",
    [
        "/camera/image_raw",
        "object_tracker: /lidar_detector/detections",
        "camera_detector: /sensing/camera/traffic_light/front_left/image_rect_color/compressed",
    ],
)
def test_names_are_whole_in_80_columns(name):
    text = io.StringIO()
    Console(file=text, width=80).print(summary_table({name: ROW}))
    written = text.getvalue()
    assert max(map(len, written.splitlines())) <= 80
    assert "of 30" in written
    for part in name.replace(": /", "/").split("/"):
        assert part in written
    assert "".join(line.strip() for line in broken(name, 20).splitlines()) == name.replace(": ", ":")


def test_a_motion_in_the_image_is_a_straight_line_through_the_last_positions():
    pictures = pytest.importorskip(
        "perception_rt.cli.demo.pictures", reason="needs ROS", exc_type=ImportError
    )
    motion = pictures.ImageMotion()
    for number in range(20):
        box = np.array([[10.0 + 2 * number, 0, 30 + 2 * number, 50 - number]], np.float32)
        (path,) = motion.paths(["7"], box, number / 10)
        assert (len(path) > 0) == (number >= 5)
    assert path[0] == pytest.approx([20 + 38, 31])  # the lower edge's middle, now
    assert path[-1] == pytest.approx([20 + 38 + 20, 31 - 10])  # 20 px/s to the right, 10 up, in a second
    (new,) = motion.paths(["8"], box, 2.0)
    assert new.shape == (0, 2)


@pytest.mark.parametrize(
    ("objects", "chosen"),
    [
        ([0, 3, 1, 0, 0, 2, 0, 5, 5, 0], [1, 7]),  # most objects; of equal ones, that nearest to the middle
        ([0] * 10, [2, 7]),
        ([1, 0, 0, 0], [0]),  # a run that ends early
        ([0] * 9 + [4] * 5, [2, 9]),  # more frames than expected
    ],
)
def test_of_each_part_of_a_film_the_frame_with_most_objects_becomes_a_picture(tmp_path, objects, chosen):
    with Film(tmp_path, "camera", 10.0, frames=10, pictures=2) as film:
        for count in objects:
            film.add(np.zeros((48, 64, 3), np.uint8), count)
    assert sorted(path.name for path in tmp_path.glob("*.png")) == [f"camera_{at:04d}.png" for at in chosen]
    assert (tmp_path / "camera.mp4").stat().st_size > 0
