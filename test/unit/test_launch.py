"""The node list, the configurations, and the launch files (by the real launch library where it is)."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from perception_rt.cli.respawn import Backoff
from perception_rt.component.graph import (
    IMAGE_OPTIONS,
    SENSORS,
    GraphNode,
    class_of,
    read_graph,
    with_sensor_health,
)
from perception_rt.component.parameters import NODE_PARAMETERS
from perception_rt.node import transport
from perception_rt.node.transport import transport_environment
from perception_rt.types import ConfigError
from perception_rt.types.executables import EXECUTABLES

ROOT = Path(__file__).parents[2]
DEFAULTS = {"log_level": "info", "restarts": "10", "enclaves": "", "sensor_health": "false"}
CONFIGS = sorted((ROOT / "config").glob("*.yaml"))


@pytest.fixture
def write(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "graph.yaml"
        path.write_text(text)
        return path

    return write


def test_nodes_in_every_form_that_rcl_takes(write):
    path = write(
        """
        /**: {ros__parameters: {use_sim_time: true}}
        camera_detector: {ros__parameters: {rate_hz: 10.0}}
        /front/camera_detector: {ros__parameters: {}}
        rear:
          left: {camera_detector: {ros__parameters: {bundle: x}}}
        """
    )
    everywhere = {"use_sim_time": True}
    assert read_graph(path) == [
        GraphNode("camera_detector", "/", {"rate_hz": 10.0}, everywhere),
        GraphNode("camera_detector", "/front", {}, everywhere),
        GraphNode("camera_detector", "/rear/left", {"bundle": "x"}, everywhere),
    ]


@pytest.mark.parametrize(
    ("pattern", "meant"),
    [("/**", (1, 1, 1)), ("/*", (1, 0, 0)), ("/front/*", (0, 1, 0)), ("/**/camera_detector", (1, 1, 1))],
)
def test_wildcards_are_inherited_by_the_nodes_that_they_match(write, pattern, meant):
    nodes = "camera_detector: {{ros__parameters: {{}}}}\n{0}/camera_detector: {{ros__parameters: {{}}}}\n"
    text = nodes.format("front") + "/rear/left/camera_detector: {ros__parameters: {}}\n"
    path = write(f"{text}'{pattern}': {{ros__parameters: {{rate_hz: 5.0}}}}\n")
    assert tuple(int("rate_hz" in node.inherited) for node in read_graph(path)) == meant


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("camera_detektor: {ros__parameters: {}}", "no node '/camera_detektor'; known: camera_detector"),
        ("", "the file holds no ros__parameters"),
        ("- a", "the file holds no ros__parameters"),
        ("{}", "names no node"),
        ("/**: {ros__parameters: {a: 1}}", "names no node"),
        ("camera_detector: {rate_hz: 1.0}", "/camera_detector/rate_hz holds no ros__parameters"),
        ("camera_detector: {ros__parameters: }", "ros__parameters=None: must be a mapping"),
        ("a: {ros__parameters: [", "not YAML"),
        (
            "/x/camera_detector: {ros__parameters: {}}\nx: {camera_detector: {ros__parameters: {}}}",
            "named twice: /x/camera_detector",
        ),
    ],
)
def test_what_is_no_graph_is_refused_with_its_reason(write, text, says):
    with pytest.raises(ConfigError, match=r"^params_file=.*") as caught:
        read_graph(write(text))
    assert says in str(caught.value)


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.yaml: No such file"):
        read_graph(tmp_path / "absent.yaml")


def test_sensor_health_watches_the_sensors_of_the_detectors(write):
    path = write(
        """
        /front/camera_detector: {ros__parameters: {image_topics: [image_raw, /rear/image_raw]}}
        lidar_detector: {ros__parameters: {}}
        fusion: {ros__parameters: {}}
        """
    )
    added = with_sensor_health(read_graph(path))[-1]
    values = {"image_topics": ["front/image_raw", "/rear/image_raw"], "points_topics": ["points"]}
    assert added == GraphNode("sensor_health", "/", {**values, "fusion_topic": "fusion/detections"})
    options = {"significant_bits": 12, "max_image_mb": 99.0}
    cameras = [GraphNode("camera_detector", "/a", dict(options)), GraphNode("camera_detector", "/b", {})]
    assert options.items() <= with_sensor_health(cameras)[-1].parameters.items()
    own = read_graph(ROOT / "config" / "sensor_health.yaml")
    assert with_sensor_health(own) == own
    with pytest.raises(ConfigError, match="sensor_health: no detector among /object_tracker"):
        with_sensor_health([GraphNode("object_tracker", "/", {})])


@pytest.mark.parametrize("name", SENSORS)
def test_the_sensors_of_a_detector_are_known_by_its_own_parameter(name):
    parameter, default = SENSORS[name]
    table = {one.name: one.default for one in class_of("perception_rt.component", name).PARAMETERS}
    assert table[parameter] == [default]
    if parameter == "image_topics":
        assert all(table[option] == usual for option, (usual, _) in IMAGE_OPTIONS.items())


names = st.text("abcdefgh_", min_size=1, max_size=8)


@given(
    st.lists(st.tuples(st.lists(names, max_size=3), st.sampled_from(EXECUTABLES)), min_size=1, unique_by=str)
)
def test_every_named_node_is_found_once(tmp_path_factory, wanted):
    path = tmp_path_factory.mktemp("graph") / "graph.yaml"
    entries = {"/" + "/".join([*levels, name]): {"ros__parameters": {"a": 1}} for levels, name in wanted}
    path.write_text(yaml.safe_dump(entries, sort_keys=False))
    found = read_graph(path)
    assert [f"{node.namespace.rstrip('/')}/{node.name}" for node in found] == list(entries)


def test_the_transport_profile_gives_room_for_images(monkeypatch):
    for variable in transport.PROFILE_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    profile = ElementTree.parse(transport_environment()["FASTDDS_DEFAULT_PROFILES_FILE"])
    segment = profile.find(".//{*}segment_size")
    assert int(segment.text) >= 16 * 2**20


def test_a_process_without_images_takes_little_shared_memory_also_in_a_launch(monkeypatch):
    for variable in transport.PROFILE_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    big, small = (
        ElementTree.parse(transport_environment(images)["FASTDDS_DEFAULT_PROFILES_FILE"]).getroot()
        for images in (True, False)
    )
    assert int(small.find(".//{*}segment_size").text) <= 4 * 2**20
    for name in (".//{*}segment_size", ".//{*}maxMessageSize"):  # nothing else differs
        small.find(name).text = big.find(name).text
    assert ElementTree.canonicalize(ElementTree.tostring(big)) == ElementTree.canonicalize(
        ElementTree.tostring(small)
    )
    monkeypatch.setenv("FASTDDS_DEFAULT_PROFILES_FILE", str(transport.PROFILE))  # as the launch files do
    assert transport_environment(False)["FASTDDS_DEFAULT_PROFILES_FILE"] == str(transport.SMALL_PROFILE)


@pytest.mark.parametrize(
    ("words", "images"),
    [
        ([], False),
        (["--ros-args", "-p", "slop_ms:=20.0"], False),
        (["--ros-args", "-p", "image_topic:=/image_raw"], True),
        (["--ros-args", "--params-file", "FILE"], False),
        (["--ros-args", "--params-file", "SHOWN"], True),
        (["--ros-args", "--params-file", "/nonexistent.yaml"], True),
    ],
)
def test_fusion_takes_shared_memory_for_images_only_if_it_has_an_image_topic(
    words, images, tmp_path, monkeypatch
):
    pytest.importorskip("rclpy")
    from perception_rt.node import fusion

    for name, topic in (("FILE", ""), ("SHOWN", "{image_topics: [/front/image_raw]}")):
        detector = "camera_detector: {ros__parameters: {image_topics: [/front/image_raw]}}"
        (tmp_path / name).write_text(f"{detector}\nfusion: {{ros__parameters: {topic or '{}'}}}\n")
    asked = []
    monkeypatch.setattr(fusion, "run", lambda *given, images: asked.append(images))
    fusion.main([str(tmp_path / word) if word in ("FILE", "SHOWN") else word for word in words])
    assert asked == [images]


@pytest.mark.parametrize("variable", transport.PROFILE_VARIABLES)
def test_a_profile_of_the_user_is_left_alone(monkeypatch, variable):
    monkeypatch.setenv(variable, "/etc/mine.xml")
    assert transport_environment() == {}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_configurations_set_only_what_their_nodes_declare(path):
    pytest.importorskip("rclpy")
    for node in read_graph(path):
        module = importlib.import_module(f"perception_rt.node.{node.name}")
        node_class = getattr(module, "".join(word.title() for word in node.name.split("_")) + "Node")
        table = {parameter.name: parameter for parameter in (*NODE_PARAMETERS, *node_class.PARAMETERS)}
        for name, value in node.parameters.items():
            if name == "use_sim_time":
                continue
            assert name in table, f"{node.name} declares no {name}"
            assert type(value) is type(table[name].default), f"{name}={value!r}"
            table[name].check(value)


@pytest.fixture
def launch_file(monkeypatch):
    """Load a launch file of this checkout; skips where the launch library is absent."""
    actions = pytest.importorskip("launch.actions", reason="the launch library is not here (no wheels of it)")
    pytest.importorskip("launch_ros.actions", reason="the launch library is not here (no wheels of it)")
    packages = importlib.import_module("ament_index_python.packages")
    try:  # a workspace, or whatever was sourced
        packages.get_package_share_directory("perception_rt")
    except (OSError, LookupError):
        monkeypatch.setenv("AMENT_PREFIX_PATH", sys.prefix)
    for variable in transport.PROFILE_VARIABLES:
        monkeypatch.delenv(variable, raising=False)

    def load(name: str):
        spec = importlib.util.spec_from_file_location("launch_file", ROOT / "launch" / name)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module, module.generate_launch_description(), actions

    return load


def test_launch_arguments_are_described_and_both_ends_get_the_profile(launch_file):
    _, description, actions = launch_file("perception.launch.py")
    arguments = {argument.name: argument for argument in description.get_launch_arguments()}
    assert set(arguments) == {"params_file", "use_sim_time", "namespace", *DEFAULTS}
    assert all(len(argument.description) > 10 for argument in arguments.values())
    settings = [e for e in description.entities if isinstance(e, actions.SetEnvironmentVariable)]
    assert len(settings) == len(transport_environment()) > 0


def frontend_arguments() -> list[dict[str, tuple[str, str]]]:
    """Default and description of each argument of the XML and the YAML launch file, and what they pass on."""
    root = ElementTree.parse(ROOT / "launch/perception.launch.xml").getroot()
    actions = yaml.safe_load((ROOT / "launch/perception.launch.yaml").read_text())["launch"]
    include = actions[-1]["include"]
    in_xml = {arg.get("name"): (arg.get("default"), arg.get("description")) for arg in root.findall("arg")}
    in_yaml = {
        action["arg"]["name"]: (action["arg"]["default"], action["arg"]["description"])
        for action in actions[:-1]
    }
    passed_xml = {arg.get("name"): arg.get("value") for arg in root.findall("include/arg")}
    passed_yaml = {arg["name"]: arg["value"] for arg in include["arg"]}
    assert passed_xml == passed_yaml == {name: f"$(var {name})" for name in in_xml}
    return [in_xml, in_yaml]


def test_the_xml_and_the_yaml_launch_file_have_the_same_arguments():
    in_xml, in_yaml = frontend_arguments()
    assert in_xml == in_yaml
    assert len(in_xml) == 3 + len(DEFAULTS)


def test_the_xml_and_the_yaml_launch_file_have_the_arguments_of_the_python_one(launch_file):
    _, description, _ = launch_file("perception.launch.py")
    ours = {
        a.name: "".join(part.text for part in a.default_value) for a in description.get_launch_arguments()
    }
    for found in frontend_arguments():
        defaults = {name: default for name, (default, _) in found.items()}
        assert defaults.pop("params_file") == "$(find-pkg-share perception_rt)/config/camera.yaml"
        assert defaults == {name: default for name, default in ours.items() if name != "params_file"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_launch_starts_exactly_the_nodes_of_the_file(launch_file, path):
    module, _, _ = launch_file("perception.launch.py")
    launch = importlib.import_module("launch")
    context = launch.LaunchContext()
    context.launch_configurations.update(params_file=str(path), use_sim_time="", namespace="car1", **DEFAULTS)
    nodes = module.make_nodes(context)
    assert [node.node_executable for node in nodes] == [node.name for node in read_graph(path)]


@pytest.mark.parametrize(
    ("pushed", "argument", "expected"),
    [
        ("", "", "/front"),
        ("/left", "", "/left/front"),
        ("", "car", "/car/front"),
        ("/left", "car", "/left/car/front"),
    ],
)
def test_namespaces_are_pushed_and_given(launch_file, write, pushed, argument, expected):
    module, _, _ = launch_file("perception.launch.py")
    launch = importlib.import_module("launch")
    context = launch.LaunchContext()
    path = write("/front/camera_detector: {ros__parameters: {rate_hz: 5.0}}")
    context.launch_configurations.update(
        params_file=str(path), use_sim_time="", namespace=argument, **DEFAULTS
    )
    if pushed:
        context.launch_configurations["ros_namespace"] = pushed
    (node,) = module.make_nodes(context)
    node._perform_substitutions(context)
    assert node.node_name == f"{expected}/camera_detector"


@pytest.mark.parametrize(("namespace", "levels"), [("", "/car/front"), ("b", "/car/b/front")])
def test_every_node_has_an_enclave_of_its_own(launch_file, write, namespace, levels):
    module, _, _ = launch_file("perception.launch.py")
    context = importlib.import_module("launch").LaunchContext()
    path = write("/front/camera_detector: {ros__parameters: {}}")
    values = {**DEFAULTS, "enclaves": "/car", "namespace": namespace}
    context.launch_configurations.update(params_file=str(path), use_sim_time="", **values)
    (node,) = module.make_nodes(context)
    constant = importlib.import_module("launch.substitutions").TextSubstitution
    words = ["".join(part.text for part in word if isinstance(part, constant)) for word in node.cmd]
    assert words[words.index("--enclave") + 1] == f"{levels}/camera_detector"


def test_a_node_that_dies_is_started_again_and_one_that_ends_is_not(launch_file):
    module, _, _ = launch_file("perception.launch.py")
    launch = importlib.import_module("launch")
    events = importlib.import_module("launch.events.process")
    handlers = []

    def make(on_exit):
        handlers.append(on_exit)
        return len(handlers)

    context = launch.LaunchContext()

    def after(code):
        fields = {"action": None, "name": "n", "cmd": [], "cwd": None, "env": None, "pid": 1}
        return handlers[-1](events.ProcessExited(returncode=code, **fields), context)

    assert module.start(make, Backoff(2)) == 1
    assert after(0) == after(2) == []
    for count in (1, 2):
        log, timer = after(-9)
        assert f"exit code -9: restart {count} of 2" in log.msg[0].text
        (again,) = timer.actions
        assert again.execute(context) == [count + 1]
    assert after(70) == []


def test_demo_starts_the_demo_configuration(launch_file):
    _, description, actions = launch_file("demo.launch.py")
    argument, include = description.entities
    assert argument.name == "params_file"
    assert Path(argument.default_value[0].text).name == "demo.yaml"
    assert isinstance(include, actions.IncludeLaunchDescription)


@pytest.mark.parametrize("argument", ["", "car1", "/car1"])
@pytest.mark.parametrize("pushed", [None, "left", "/fleet/left"])
def test_wildcard_parameters_reach_nodes_below_a_namespace(launch_file, write, pushed, argument):
    module, _, _ = launch_file("perception.launch.py")
    launch = importlib.import_module("launch")
    ros = importlib.import_module("launch_ros.actions")
    path = write(
        """
        /*: {ros__parameters: {device: cpu}}
        camera_detector: {ros__parameters: {rate_hz: 7.0}}
        /front/camera_detector: {ros__parameters: {rate_hz: 8.0}}
        """
    )
    context = launch.LaunchContext()
    context.launch_configurations.update(
        params_file=str(path), use_sim_time="", namespace=argument, **DEFAULTS
    )
    if pushed:
        ros.PushRosNamespace(pushed).execute(context)
    around = "/".join(level for level in [*(pushed or "").split("/"), *argument.split("/")] if level)
    prefix = f"/{around}" if around else ""
    for node, own, values in zip(
        module.make_nodes(context),
        ("", "/front"),
        ({"device": "cpu", "rate_hz": 7.0}, {"rate_hz": 8.0}),
        strict=True,
    ):
        node._perform_substitutions(context)
        assert node.node_name == f"{prefix}{own}/camera_detector"
        if prefix:
            files = [Path(file) for file, is_file in node._Node__expanded_parameter_arguments if is_file]
            assert yaml.safe_load(files[-1].read_text()) == {node.node_name: {"ros__parameters": values}}
