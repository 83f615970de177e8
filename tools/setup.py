"""Make this checkout ready to run: a `.venv` with everything in it.

Four steps, each stamped with a hash of what it was made from, so that a second run does nothing and an
interrupted one goes on where it stopped:

1. the virtual environment (on top of the distribution's Python where a ROS 2 distribution is sourced),
2. the locked requirements (with ROS 2 as wheels where no distribution is sourced),
3. the message packages of `interfaces/`, built from their definitions (a distribution brings its own),
4. this package itself, editable.

Standard library only, and no syntax newer than Python 3.7, so that any Python can say what is missing.
"""

from __future__ import annotations

import configparser
import fcntl
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMPS = VENV / "setup.json"
LOG = VENV / "setup.log"
SUPPORTED_PYTHON = ((3, 10), (3, 14))
SUPPORTED_DISTROS = ("jazzy", "kilted", "lyrical")
DISTRO_PACKAGES = (
    *(
        "rclpy",
        "std_msgs",
        "sensor_msgs",
        "geometry_msgs",
        "nav_msgs",
        "diagnostic_msgs",
        "visualization_msgs",
    ),
    *("std_srvs", "lifecycle_msgs", "rosgraph_msgs", "tf2_msgs", "vision_msgs"),
)
INTERFACES = ("tf2_msgs", "vision_msgs")
# The type hashes of these messages everywhere else; with another one no other node would hear ours.
TYPE_HASHES = {
    "tf2_msgs/msg/TFMessage": "e369d0f05a23ae52508854b66f6aa0437f3449d652e8cbf22d5abe85d020f087",
    "vision_msgs/msg/Detection2DArray": "214274120007f4a683866481336b70310268cfa107aebe9d594a6acf75bda968",
    "vision_msgs/msg/Detection3DArray": "793f5eab9595ac1c0da07873cc859db42eae51f0ee76056db8562515d830e018",
}


class SetupError(Exception):
    """What stops the set-up, as one line for the user."""


def apt(*packages: str) -> str:
    """Return the command that installs Debian or Ubuntu packages."""
    return ("" if os.geteuid() == 0 else "sudo ") + "apt install " + " ".join(packages)


def sourced_distro(env: dict) -> str | None:
    """Return the name of the sourced ROS 2 distribution, None where none is sourced."""
    distro = env.get("ROS_DISTRO")
    if not distro or not env.get("AMENT_PREFIX_PATH"):
        return None
    if distro not in SUPPORTED_DISTROS:
        raise SetupError(
            f"ROS_DISTRO={distro} is sourced, but only {', '.join(SUPPORTED_DISTROS)} are supported; "
            "in a shell without it, ROS 2 comes as wheels"
        )
    return distro


def base_python() -> str:
    """Return the Python to build on: the one that runs this, outside any virtual environment."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def cmake_is_new_enough() -> bool:
    """Return whether there is a cmake of at least 3.20."""
    if not shutil.which("cmake"):
        return False
    text = subprocess.run(["cmake", "--version"], stdout=subprocess.PIPE, text=True).stdout
    version = re.search(r"version (\d+)\.(\d+)", text)
    return bool(version) and (int(version.group(1)), int(version.group(2))) >= (3, 20)


def missing_tools(builds_interfaces: bool) -> list:
    """Return (tool, Debian package) of everything that is needed and absent."""
    minor = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    found = [
        ("venv", f"{minor}-venv", all(importlib.util.find_spec(name) for name in ("venv", "ensurepip"))),
    ]
    if builds_interfaces:
        include = sysconfig.get_path("include") or ""
        found += [
            ("a C compiler", "gcc", shutil.which(os.environ.get("CC") or "cc") or shutil.which("gcc")),
            ("a C++ compiler", "g++", shutil.which(os.environ.get("CXX") or "c++") or shutil.which("g++")),
            ("make", "make", shutil.which("make")),
            ("cmake >= 3.20", "cmake", cmake_is_new_enough()),
            ("the Python headers", f"{minor}-dev", os.path.exists(os.path.join(include, "Python.h"))),
        ]
    return [(tool, package) for tool, package, present in found if not present]


def missing_distro_packages(env: dict) -> list:
    """Return the names of the ROS 2 packages that the sourced distribution lacks."""
    prefixes = [Path(prefix) for prefix in env["AMENT_PREFIX_PATH"].split(os.pathsep) if prefix]
    return [
        name
        for name in DISTRO_PACKAGES
        if not any((prefix / "share" / name / "package.xml").exists() for prefix in prefixes)
    ]


def check_machine(distro: str | None) -> None:
    """Raise SetupError with one line that names what is missing and the command that installs it."""
    oldest, newest = SUPPORTED_PYTHON
    version = sys.version_info[:2]
    if not oldest <= version <= newest:
        raise SetupError(
            f"{sys.executable} is Python {version[0]}.{version[1]}, not 3.{oldest[1]} to 3.{newest[1]}; "
            f"install with: {apt('python3.11-venv', 'python3.11-dev')}, then say make PYTHON=python3.11"
        )
    missing = missing_tools(builds_interfaces=distro is None)
    if missing:
        tools = ", ".join(tool for tool, _ in missing)
        raise SetupError(f"missing {tools}; install with: {apt(*(package for _, package in missing))}")
    if distro:
        packages = missing_distro_packages(dict(os.environ))
        if packages:
            names = [f"ros-{distro}-{name.replace('_', '-')}" for name in packages]
            raise SetupError(f"ROS 2 {distro} lacks {', '.join(packages)}; install with: {apt(*names)}")


def fingerprint(*parts: object) -> str:
    """Return a hash of strings and files; a folder counts with all files below it, names and contents."""
    digest = hashlib.sha256()
    for part in parts:
        if not isinstance(part, Path):
            digest.update(f"{part}\0".encode())
            continue
        files = sorted(part.rglob("*")) if part.is_dir() else [part]
        for file in files:
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(f"{file.relative_to(ROOT)}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()


def step_keys(distro: str | None) -> dict:
    """Return for every step the hash of what it is made from; each includes the one before."""
    lock = ROOT / "requirements" / ("distro.txt" if distro else "wheels.txt")
    venv = fingerprint(sys.version_info[:2], str(VENV), distro)
    requirements = fingerprint(venv, lock)
    interfaces = fingerprint(requirements, distro or ROOT / "interfaces")
    sources = ("setup.py", "setup.cfg", "pyproject.toml", "package.xml", "tools", "launch")
    package = fingerprint(interfaces, *(ROOT / name for name in sources))
    return {"venv": venv, "requirements": requirements, "interfaces": interfaces, "package": package}


def read_stamps() -> dict:
    """Return the hashes of the finished steps, none where the environment is absent or was cut short."""
    if not PYTHON.exists():
        return {}
    try:
        return json.loads(STAMPS.read_text())
    except (FileNotFoundError, ValueError):
        return {}


def write_stamps(stamps: dict) -> None:
    """Write the hashes of the finished steps, whole or not at all."""
    partial = STAMPS.with_suffix(".partial")
    partial.write_text(json.dumps(stamps, indent=1))
    partial.replace(STAMPS)


def stale_steps(keys: dict, stamps: dict, distro: str | None) -> list:
    """Return the steps to do: the first one whose hash differs and all after it."""
    if not distro and stamps.get("interfaces") == keys["interfaces"] and wrong_type_hashes():
        stamps = {name: key for name, key in stamps.items() if name in ("venv", "requirements")}
    names = list(keys)
    for index, name in enumerate(names):
        if stamps.get(name) != keys[name]:
            return names[index:]
    return []


def child_environment() -> dict:
    """Return the environment for pip and CMake: without what other environments' Pythons left in it."""
    # The ROS wheels' start-up hook does nothing in a child that inherits its guard from another environment.
    return {
        k: v
        for k, v in os.environ.items()
        if k not in ("PYTHONPATH", "PYTHONHOME", "_ROS_WHEELS_BOOTSTRAP_COMPLETE")
    }


def run(title: str, command: list, env: dict | None = None) -> None:
    """Run a command with a live status line, its output in the log.

    Raises:
        SetupError: it failed; with the errors from its output and the place of the log.
    """
    started, lines = time.monotonic(), [""]
    process = subprocess.Popen(
        [str(word) for word in command],
        env=env or child_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )

    def collect() -> None:
        with LOG.open("a") as log:
            for line in process.stdout:
                log.write(line)
                lines.append(line.strip() or lines[-1])

    reader = threading.Thread(target=collect, daemon=True)
    reader.start()
    try:
        watch(title, started, process, lines)
    except BaseException:
        process.terminate()
        process.wait()
        raise
    reader.join()
    print(
        ("\r\033[K" if sys.stdout.isatty() else "") + f"{title}: {time.monotonic() - started:.0f} s",
        flush=True,
    )
    if process.returncode:
        errors = [line for line in lines if "error" in line.lower()][:5] or lines[-3:]
        raise SetupError(f"{title} failed: {' | '.join(errors)} (all of it in {LOG})")


def watch(title: str, started: float, process: subprocess.Popen, lines: list) -> None:
    """Show a command's last line of output until it ends: in place on a terminal, else twice a minute."""
    terminal = sys.stdout.isatty()
    if not terminal:
        print(f"{title} ...", flush=True)
    shown = started
    while True:
        try:
            process.wait(timeout=0.25)
            return
        except subprocess.TimeoutExpired:
            pass
        now = time.monotonic()
        status = f"{title}: {now - started:.0f} s  {lines[-1]}"
        if terminal:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\033[K{status[:width]}", end="", flush=True)
        elif now - shown >= 30:
            shown = now
            print(status[:110], flush=True)


def make_venv(title: str, distro: str | None) -> None:
    """Create the virtual environment anew, or keep one that fits but was never stamped."""
    wanted = f"include-system-site-packages = {'true' if distro else 'false'}"
    config = VENV / "pyvenv.cfg"
    minor = f"version = {sys.version_info[0]}.{sys.version_info[1]}."
    if not STAMPS.exists() and PYTHON.exists() and config.exists():
        text = config.read_text()
        has_pip = subprocess.run(
            [str(PYTHON), "-m", "pip", "--version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        if wanted in text and minor in text and has_pip.returncode == 0:
            print(f"{title}: kept", flush=True)
            return
    if VENV.exists():
        shutil.rmtree(VENV)
    VENV.mkdir()
    run(title, [base_python(), "-m", "venv", *(["--system-site-packages"] if distro else []), VENV])


def install_requirements(title: str, distro: str | None) -> None:
    """Install the locked requirements; the lock is complete, so pip need not resolve anything."""
    lock = ROOT / "requirements" / ("distro.txt" if distro else "wheels.txt")
    run(title, [PYTHON, "-m", "pip", "install", "--no-deps", "--require-hashes", "-r", lock])


def wrong_type_hashes() -> list:
    """Return the messages whose built type hash is not the published one."""
    wrong = []
    for name, wanted in TYPE_HASHES.items():
        path = VENV / "share" / f"{name}.json"
        if not path.exists() or f"RIHS01_{wanted}" not in path.read_text():
            wrong.append(name)
    return wrong


def build_interfaces(title: str, distro: str | None) -> None:
    """Build the message packages into the environment and hold them to the published type hashes."""
    if distro:
        return
    env = child_environment()
    env.update(
        AMENT_PREFIX_PATH=str(VENV), CMAKE_PREFIX_PATH=str(VENV), PATH=f"{VENV / 'bin'}:{env.get('PATH', '')}"
    )
    build = VENV / "interfaces-build"
    for name in INTERFACES:
        configure = ["cmake", "-S", ROOT / "interfaces" / name, "-B", build / name, "-G", "Unix Makefiles"]
        options = [f"-DCMAKE_INSTALL_PREFIX={VENV}", f"-DPython3_EXECUTABLE={PYTHON}", "-DBUILD_TESTING=OFF"]
        run(f"{title}: configure {name}", [*configure, *options], env)
        jobs = str(os.cpu_count() or 1)
        run(
            f"{title}: build {name}",
            ["cmake", "--build", build / name, "--parallel", jobs, "--target", "install"],
            env,
        )
    shutil.rmtree(build)
    wrong = wrong_type_hashes()
    if wrong:
        raise SetupError(
            f"{', '.join(wrong)}: built with another type hash than the published one; see interfaces/"
        )


def install_package(title: str, distro: str | None) -> None:
    """Install this package editable, and import what it stands on once."""
    run(title, [PYTHON, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--editable", ROOT])
    link_for_ros2()
    imports = "import torch, torchvision, cv2, rclpy, vision_msgs.msg, tf2_msgs.msg, perception_rt"
    env = dict(os.environ) if distro else child_environment()
    env.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None)
    run("check", [PYTHON, "-c", imports], env)


def link_for_ros2() -> None:
    """Link what ros2 looks for into the environment; an editable installation leaves data files out."""
    entry_points = configparser.ConfigParser(delimiters="=")
    entry_points.read(
        next(VENV.glob("lib/python3*/site-packages/perception_rt-*.dist-info/entry_points.txt"))
    )
    scripts = entry_points["console_scripts"].items()
    links = {
        "share/ament_index/resource_index/packages/perception_rt": ROOT / "resource" / "perception_rt",
        **{f"share/perception_rt/{name}": ROOT / name for name in ("package.xml", "config")},
        # one by one: ros2 launch does not look into a linked folder
        **{f"share/perception_rt/launch/{file.name}": file for file in (ROOT / "launch").glob("*.launch.py")},
        **{
            f"lib/perception_rt/{name}": ROOT / "tools" / "ros_executable"
            for name, function in scripts
            if function.startswith("perception_rt.node.")
        },
    }
    for name, target in links.items():
        link = VENV / name
        link.parent.mkdir(parents=True, exist_ok=True)
        if link.is_symlink() or link.exists():
            link.unlink()
        link.symlink_to(target)


STEPS = {
    "venv": make_venv,
    "requirements": install_requirements,
    "interfaces": build_interfaces,
    "package": install_package,
}
TITLES = {
    "venv": "virtual environment",
    "requirements": "requirements (several GB the first time)",
    "interfaces": "message interfaces",
    "package": "perception_rt",
}


def set_up() -> None:
    """Do the steps that are not yet done."""
    distro = sourced_distro(dict(os.environ))
    keys, stamps = step_keys(distro), read_stamps()
    todo = stale_steps(keys, stamps, distro)
    if not todo:
        return
    check_machine(distro)
    print(f"setting up {VENV} with ROS 2 {distro if distro else 'Kilted wheels'}", flush=True)
    for number, name in enumerate(STEPS, start=1):
        if name in todo:
            STEPS[name](f"[{number}/{len(STEPS)}] {TITLES[name]}", distro)
            stamps = {done: keys[done] for done in list(STEPS)[:number]}
            write_stamps(stamps)


def main() -> int:
    """Run the set-up under a lock, so that two makes at once do not meet in one environment."""
    with open(__file__) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            set_up()
        except SetupError as error:
            print(f"setup: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("\nsetup: interrupted; the next run goes on from here", file=sys.stderr)
            return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
