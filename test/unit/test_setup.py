"""The set-up: what it refuses, what it remembers, and that all places that name the package agree."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

import perception_rt
from perception_rt.types.executables import EXECUTABLES

ROOT = Path(__file__).parents[2]
WHEELS, DISTRO, EXTRAS = (ROOT / "requirements" / f"{name}.txt" for name in ("wheels", "distro", "extras"))


sys.path.insert(0, str(ROOT / "tools"))  # as for a script there: its neighbours are importable
machine = importlib.import_module("machine")


def load_setup(root: Path):
    """Import the set-up script of a checkout."""
    spec = importlib.util.spec_from_file_location("checkout_setup", root / "tools" / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TYPE_HASHES = load_setup(ROOT).TYPE_HASHES


@pytest.fixture
def checkout(tmp_path):
    """A fresh checkout: what the set-up reads, nothing that it makes."""
    for name in ("tools", "requirements", "interfaces", "launch", "resource"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "package.xml", "Makefile"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def run_setup(checkout: Path, **env: str) -> subprocess.CompletedProcess:
    """Run the set-up as a user does, in an environment of its own."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("ROS_", "AMENT_"))}
    command = [sys.executable, checkout / "tools" / "setup.py"]
    return subprocess.run(command, env={**clean, **env}, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("lock", [WHEELS, DISTRO])
def test_torch_for_a_cpu_comes_without_cuda_and_in_the_locked_version(lock):
    torch_build = importlib.import_module("torch_build")
    text = lock.read_text()
    lines = torch_build.requirement_lines(text, ("torch", "torchvision"))
    assert {Requirement(line).name for line in lines} == {"torch", "torchvision"}
    assert all("==" in line and "--hash" not in line for line in lines)
    rest = torch_build.requirements(torch_build.without_cuda(text))
    names = {entry.partition("==")[0] for entry in rest}
    assert not [name for name in names if re.match("nvidia|cuda|triton|torch$|torchvision", name)]
    dropped = {entry.partition("==")[0] for entry in torch_build.requirements(text)} - names
    assert all(re.match("nvidia|cuda|triton|torch$|torchvision", name) for name in dropped)
    assert all("--hash=sha256:" in entry for entry in rest)
    assert len(rest) > 60


def test_the_parts_of_a_lock_are_the_lock():
    torch_build = importlib.import_module("torch_build")
    parts = torch_build.parts_of(WHEELS.read_text(), 8)
    entries = [entry for part in parts for entry in torch_build.requirements(part)]
    assert sorted(entries) == sorted(torch_build.requirements(WHEELS.read_text()))
    names = [{entry.partition("==")[0] for entry in torch_build.requirements(part)} for part in parts]
    assert sum(map(len, names)) == len(set().union(*names)), "both versions of a package are in one part"
    assert max(sum(name.startswith("nvidia-") for name in part) for part in names) <= 3


def install_commands(setup, monkeypatch) -> list[tuple[list[str], str]]:
    """Return the commands that install the requirements, each with the content of its requirements file."""
    commands = []

    def run(title, words, env=None):
        words = [str(word) for word in words]
        commands.append((words, Path(words[words.index("-r") + 1]).read_text()))

    monkeypatch.setattr(setup, "run", run)
    setup.VENV.mkdir(exist_ok=True)
    setup.install_requirements("requirements", None)
    return commands


@pytest.mark.parametrize("torch", ["cpu", "cuda"])
def test_the_whole_lock_is_installed_in_parts(checkout, monkeypatch, torch):
    setup = load_setup(checkout)
    monkeypatch.setenv("TORCH", torch)
    commands = install_commands(setup, monkeypatch)
    by_hash = [file for words, file in commands if "--require-hashes" in words]
    assert len(by_hash) == setup.PARTS
    assert all("--no-deps" in words for words, _ in commands)
    assert all({"--no-cache-dir", "--no-cache"} & set(words) for words, _ in commands)
    found = "".join(by_hash).count("==")
    text = WHEELS.read_text()
    if torch == "cuda":
        assert (len(commands), found) == (setup.PARTS, text.count("=="))
        return
    assert found == importlib.import_module("torch_build").without_cuda(text).count("==")
    words, file = commands[-1]  # torch from PyTorch's own index
    assert words[words.index("--torch-backend") :][:2] == ["--torch-backend", "cpu"]
    assert {Requirement(line).name for line in file.splitlines()} == {"torch", "torchvision"}


def test_another_build_of_torch_makes_the_environment_anew(checkout, monkeypatch):
    setup = load_setup(checkout)
    monkeypatch.setenv("TORCH", "cpu")
    cpu = setup.step_keys(None)
    monkeypatch.setenv("TORCH", "cuda")
    cuda = setup.step_keys(None)
    assert setup.stale_steps(cuda, cpu, None)[:2] == ["venv", "requirements"]
    monkeypatch.delenv("TORCH")
    assert setup.step_keys(None) == cuda
    setup.PYTHON.parent.mkdir(parents=True)
    setup.PYTHON.touch()
    setup.write_stamps({"torch": "cpu"})
    assert setup.step_keys(None) == cpu  # `make demo` after `make setup TORCH=cpu` changes nothing


DISK_USAGE = type(shutil.disk_usage("/"))


@pytest.mark.parametrize(
    ("torch", "free_gb", "wanted"),
    [
        (
            "cuda",
            1.0,
            "needs 7.8 GB more, its disk has 1.0 GB; free some, or `make setup TORCH=cpu` (2.6 GB)",
        ),
        ("cpu", 1.0, "needs 2.6 GB more, its disk has 1.0 GB; free some"),
        ("cpu", 3.0, None),
        ("cuda", 9.0, None),
    ],
)
def test_too_little_space_is_one_line_before_anything_is_installed(
    checkout, monkeypatch, capsys, torch, free_gb, wanted
):
    setup, done = load_setup(checkout), []
    monkeypatch.setenv("TORCH", torch)
    monkeypatch.setattr(setup, "check_machine", lambda distro: None)
    monkeypatch.setattr(setup, "STEPS", {"requirements": lambda title, distro: done.append(title)})
    monkeypatch.setattr(setup, "write_stamps", lambda stamps: None)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: DISK_USAGE(10**12, 0, int(free_gb * 1e9)))
    assert setup.main() == (1 if wanted else 0)
    assert len(done) == (0 if wanted else 1)
    assert capsys.readouterr().err == (f"setup: {setup.VENV} {wanted}\n" if wanted else "")


def test_what_the_environment_has_already_needs_no_space(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: DISK_USAGE(10**12, 0, int(2e9)))
    monkeypatch.setattr(machine, "NEEDED_GB", {"cuda": 2.001, "cpu": 0.0})
    with pytest.raises(machine.SetupError, match=r"needs 2\.0 GB more, its disk has 2\.0 GB"):
        machine.check_space(tmp_path, "cuda")
    (tmp_path / "torch").write_bytes(bytes(2_000_000))
    os.link(tmp_path / "torch", tmp_path / "link")
    assert machine.size_gb(tmp_path) == pytest.approx(0.002, rel=0.02)
    machine.check_space(tmp_path, "cuda")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: DISK_USAGE(10**12, 0, int(1e9)))
    with pytest.raises(machine.SetupError, match=r"needs 2\.0 GB more"):
        machine.check_space(tmp_path, "cuda")


def test_nothing_is_checked_where_the_requirements_are_installed(checkout, monkeypatch):
    setup = load_setup(checkout)
    setup.PYTHON.parent.mkdir(parents=True)
    setup.PYTHON.touch()
    setup.write_stamps({name: key for name, key in setup.step_keys(None).items() if name != "package"})
    monkeypatch.setattr(setup, "STEPS", dict.fromkeys(setup.STEPS, lambda title, distro: None))
    monkeypatch.setattr(setup, "check_machine", lambda distro: None)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: DISK_USAGE(0, 0, 0))
    assert setup.main() == 0


def test_commands_keep_their_temporary_files_in_the_environment_and_none_stay(checkout, monkeypatch):
    setup = load_setup(checkout)
    setup.VENV.mkdir()
    code = "import tempfile as t, pathlib; pathlib.Path(t.mkdtemp(), 'wheel').touch(); print(t.gettempdir())"
    monkeypatch.setattr(setup, "set_up", lambda: setup.run("step", [sys.executable, "-c", code]))
    assert setup.main() == 0
    assert setup.LOG.read_text() == f"{setup.VENV / 'tmp'}\n"
    assert [path.name for path in setup.VENV.iterdir()] == ["setup.log"]


def test_a_terminated_set_up_ends_its_command_and_leaves_no_temporary_file(checkout):
    code = "import sys; sys.path.insert(0, 'tools'); import setup; setup.VENV.mkdir(); "
    code += "setup.set_up = lambda: setup.run('step', ['sleep', '60']); sys.exit(setup.main())"
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=checkout, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "step ...\n"
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.terminate()
    assert process.wait(60) == 130
    assert not Path(f"/proc/{child}").exists()
    assert list((checkout / ".venv").iterdir()) == []
    assert "interrupted; the next run goes on from here" in process.stderr.read()


@pytest.mark.parametrize("log", ["setup.log", "absent/setup.log"])
def test_a_disk_that_fills_up_is_one_line(checkout, monkeypatch, capsys, log):
    """Also where the log cannot be written: the command must not block on a pipe that is no longer read."""
    setup = load_setup(checkout)
    setup.VENV.mkdir()
    monkeypatch.setattr(setup, "LOG", setup.VENV / log)
    code = "print('line\\n' * 20_000); raise OSError(28, 'No space left on device')"
    monkeypatch.setattr(setup, "set_up", lambda: setup.run("step", [sys.executable, "-c", code]))
    assert setup.main() == 1
    folder = setup.LOG.parent
    assert capsys.readouterr().err == (
        f"setup: step failed: no space left on the disk of {folder}; free some and run again\n"
    )


def test_an_unknown_torch_build_is_refused(checkout):
    done = run_setup(checkout, TORCH="rocm")
    assert done.returncode == 1
    assert done.stderr.strip() == "setup: TORCH=rocm: must be cpu, cuda or auto"


def test_missing_tools_are_one_line_with_the_command(checkout, tmp_path):
    done = run_setup(checkout, PATH=str(tmp_path / "nothing"), CC="", CXX="")
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("setup: missing a C compiler, a C++ compiler, make, cmake >= 3.20; install with: ")
    assert line.endswith("apt install gcc g++ make cmake")
    assert not (checkout / ".venv").exists()


def test_an_old_cmake_is_missing(checkout, tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("cc", "c++", "make"):
        (tools / name).symlink_to("/bin/true")
    (tools / "cmake").write_text("#!/bin/sh\necho cmake version 3.16.3\n")
    (tools / "cmake").chmod(0o755)
    done = run_setup(checkout, PATH=f"{tools}:/bin")
    assert "setup: missing cmake >= 3.20; install with: " in done.stderr


def test_another_distribution_is_refused_by_name(checkout):
    done = run_setup(checkout, ROS_DISTRO="humble", AMENT_PREFIX_PATH="/opt/ros/humble")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "ROS_DISTRO=humble" in done.stderr
    assert "jazzy, kilted, lyrical" in done.stderr


@pytest.mark.parametrize("distro", ["jazzy", "kilted", "lyrical"])
def test_a_distribution_without_vision_msgs_is_one_line_with_the_command(checkout, distro):
    names = [name for name in machine.DISTRO_PACKAGES if name != "vision_msgs"]
    prefix = checkout / "opt"
    for name in names:
        (prefix / "share" / name).mkdir(parents=True)
        (prefix / "share" / name / "package.xml").touch()
    done = run_setup(checkout, ROS_DISTRO=distro, AMENT_PREFIX_PATH=str(prefix))
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"setup: ROS 2 {distro} lacks vision_msgs; install with: ")
    assert line.endswith(f"apt install ros-{distro}-vision-msgs")


def test_each_change_redoes_its_step(checkout):
    setup = load_setup(checkout)
    steps = list(setup.STEPS)
    before = setup.step_keys("kilted")
    assert list(before) == steps
    assert setup.stale_steps(before, {}, "kilted") == steps
    assert setup.stale_steps(before, before, "kilted") == []
    unfinished = {name: before[name] for name in steps[:2]}
    assert setup.stale_steps(before, unfinished, "kilted") == steps[2:]
    assert setup.stale_steps(setup.step_keys("jazzy"), before, "jazzy") == steps
    with (checkout / "package.xml").open("a") as file:
        file.write("<!-- changed -->")
    assert setup.stale_steps(setup.step_keys("kilted"), before, "kilted") == ["package", "check"]


@pytest.mark.parametrize(
    ("change", "redone"),
    [
        ("rich==0.0.0 --hash=sha256:0", ["requirements", "check"]),
        ("ros-rclpy==9.9.9 --hash=sha256:0", ["requirements", "interfaces", "check"]),
    ],
)
def test_interfaces_are_built_anew_only_with_what_generates_them(checkout, change, redone):
    setup = load_setup(checkout)
    before = setup.step_keys(None)
    with (checkout / "requirements" / "wheels.txt").open("a") as file:
        file.write(f"{change}\n")
    assert setup.stale_steps(setup.step_keys(None), before, None) == redone


def test_interfaces_are_built_anew_where_their_type_hashes_are_wrong(checkout):
    setup = load_setup(checkout)
    keys = setup.step_keys(None)
    assert setup.stale_steps(keys, keys, None) == ["interfaces", "check"]


def test_a_stamp_file_that_was_cut_short_counts_as_none(checkout):
    setup = load_setup(checkout)
    setup.PYTHON.parent.mkdir(parents=True)
    setup.PYTHON.touch()
    setup.STAMPS.write_text('{"venv": "abc')
    assert setup.read_stamps() == {}


def test_the_built_interfaces_have_the_published_type_hashes():
    setup = load_setup(ROOT)
    if not (setup.VENV / "share" / "vision_msgs").exists():
        pytest.skip("the interfaces come from a ROS installation, not from interfaces/")
    assert setup.wrong_type_hashes() == []


def environment_of(python: str) -> dict[str, str]:
    """Return what a Python on Linux gives to markers."""
    return {
        "python_version": python,
        "python_full_version": f"{python}.1",
        "sys_platform": "linux",
        "platform_machine": "x86_64",
    }


def asked(path: Path, python: str) -> set[str]:
    """Return the packages that a Python is to have, by their names in a lock."""
    lines = path.read_text().splitlines()
    found = [Requirement(line.partition("#")[0]) for line in lines if re.match("[a-z]", line)]
    wanted = [one for one in found if not one.marker or one.marker.evaluate(environment_of(python))]
    return {canonicalize_name(one.name) for one in wanted}


def locked(path: Path, python: str) -> dict[str, str]:
    """Return the versions that a lock file gives to a Python on Linux."""
    versions = {}
    for name, version, marker in re.findall(
        r"^([a-z0-9-]+)==(\S+)(?: ; ([^\\\n]*))?", path.read_text(), re.M
    ):
        if not marker or Marker(marker.strip()).evaluate(environment_of(python)):
            assert name not in versions, f"{name} is locked twice for {python}"
            versions[name] = version
    return versions


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13", "3.14"])
def test_the_locks_serve_every_python(python):
    wheels, distro = locked(WHEELS, python), locked(DISTRO, python)
    base = asked(ROOT / "requirements" / "base.in", python)
    assert base <= wheels.keys()
    assert base <= distro.keys()
    assert asked(ROOT / "requirements" / "extras.in", python) <= locked(EXTRAS, python).keys()
    assert {"ros-rclpy", "ros-sensor-msgs", "ros-rmw-fastrtps-cpp"} <= wheels.keys()
    assert not [name for name in distro if name.startswith("ros-")]
    assert wheels["torchvision"] == "0.29.2"
    assert wheels["torch"] == ("2.14.1" if python == "3.10" else "2.15.0")
    assert wheels["opencv-python-headless"].startswith("4.")
    if python == "3.12":
        assert distro["numpy"].startswith("1."), "cv_bridge of Jazzy and Kilted is built for NumPy 1"


@pytest.mark.parametrize("path", [WHEELS, DISTRO, EXTRAS], ids=lambda path: path.name)
def test_the_locks_name_no_machine_and_pin_all_by_hash(path):
    text = path.read_text()
    assert not re.search(r"https?:|file:|--index|--find-links|--extra", text)
    pins = re.split(r"\n(?=[a-z])", text.strip())
    assert all("--hash=sha256:" in pin for pin in pins if "==" in pin)


@pytest.fixture(scope="module")
def defined_types():
    """The type store of another implementation, with the definitions of interfaces/."""
    store = get_typestore(Stores.ROS2_KILTED)
    definitions = {}
    for path in (ROOT / "interfaces").glob("*/msg/*.msg"):
        definitions |= get_types_from_msg(path.read_text(), f"{path.parts[-3]}/msg/{path.stem}")
    store.fielddefs.pop("tf2_msgs/msg/TFMessage")
    store.register(definitions)
    return store


@pytest.mark.parametrize("name", TYPE_HASHES)
def test_the_definitions_have_the_published_type_hashes(defined_types, name):
    assert defined_types.hash_rihs01(name) == f"RIHS01_{TYPE_HASHES[name]}"


def test_name_version_and_executables_agree():
    package = ElementTree.parse(ROOT / "package.xml")
    assert package.findtext("name") == "perception_rt"
    assert package.findtext("version") == perception_rt.__version__
    assert package.findtext("export/build_type") == "ament_python"
    project = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert project.group(1) == perception_rt.__version__
    for name in EXECUTABLES:
        assert (ROOT / "perception_rt" / "node" / f"{name}.py").is_file()


def test_the_installed_entry_points_name_functions():
    try:
        installed = importlib.metadata.distribution("perception_rt")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the package is not installed, only its folder is on the path")
    points = installed.entry_points.select(group="console_scripts")
    assert {point.name for point in points} == {"perception-rt", *EXECUTABLES}
    for point in points:
        source = ROOT.joinpath(*point.module.split(".")).with_suffix(".py")
        functions = [
            node.name for node in ast.parse(source.read_text()).body if isinstance(node, ast.FunctionDef)
        ]
        assert point.attr in functions


def test_package_xml_is_valid_for_catkin_pkg():
    catkin = pytest.importorskip("catkin_pkg.package")
    warnings = []
    for path in (ROOT, *(ROOT / "interfaces").iterdir()):
        catkin.parse_package(str(path), warnings=warnings)
    assert warnings == []
