"""Make this checkout ready to run: a `.venv` with everything in it.

Five steps, each stamped with a hash of what it was made from, so that a second run does nothing and an
interrupted one goes on where it stopped:

1. the virtual environment (on top of the distribution's Python where a ROS 2 distribution is sourced),
2. the locked requirements (with ROS 2 as wheels where no distribution is sourced),
3. the message packages of `interfaces/`, built from their definitions (a distribution brings its own),
4. this package itself, editable,
5. a check: everything is imported once.

Downloads and temporary files go to a folder inside `.venv` and are deleted, and pip keeps no cache, so that
the free space of one disk decides, and is checked before the requirements are installed.

Standard library only, and no syntax newer than Python 3.7, so that any Python can say what is missing.
"""

from __future__ import annotations

import configparser
import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from command import child_environment, run_logged
from machine import SetupError, check_machine, check_space, sourced_distro, torch_backend
from torch_build import parts_of, requirement_lines, without_cuda

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMPS = VENV / "setup.json"
LOG = VENV / "setup.log"
TEMPORARY = VENV / "tmp"
INTERFACES = ("tf2_msgs", "vision_msgs")
PARTS = 8  # calls of pip for the requirements
# The type hashes of these messages everywhere else; with another one no other node would hear ours.
TYPE_HASHES = {
    "tf2_msgs/msg/TFMessage": "e369d0f05a23ae52508854b66f6aa0437f3449d652e8cbf22d5abe85d020f087",
    "vision_msgs/msg/Detection2DArray": "214274120007f4a683866481336b70310268cfa107aebe9d594a6acf75bda968",
    "vision_msgs/msg/Detection3DArray": "793f5eab9595ac1c0da07873cc859db42eae51f0ee76056db8562515d830e018",
}


def base_python() -> str:
    """Return the Python to build on: the one that runs this, outside any virtual environment."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


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
    """Return for every step the hash of what it is made from."""
    lock = ROOT / "requirements" / ("distro.txt" if distro else "wheels.txt")
    generators = re.findall(r"^(?:ros-|numpy|empy)\S*==\S+", lock.read_text(), re.M)
    sources = ("setup.py", "setup.cfg", "pyproject.toml", "package.xml", "tools", "launch")
    # Another build of torch has the same version and so would not replace the one that is there.
    cpu = ["cpu"] if wanted_torch() == "cpu" else []
    venv = fingerprint(sys.version_info[:2], str(VENV), distro, *cpu)
    keys = {
        "venv": venv,
        "requirements": fingerprint(venv, lock, *cpu),
        "interfaces": fingerprint(venv, generators, distro or ROOT / "interfaces"),
        "package": fingerprint(venv, *(ROOT / name for name in sources)),
    }
    return {**keys, "check": fingerprint(*keys.values())}


def wanted_torch() -> str:
    """Return the build of torch that is asked for, else the one that is installed."""
    return torch_backend(dict(os.environ), read_stamps().get("torch", "cuda"))


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
    """Return the steps to do: those whose hash differs."""
    stale = [name for name in keys if stamps.get(name) != keys[name]]
    if not stale and not distro and wrong_type_hashes():
        return ["interfaces", "check"]
    return stale


def run(title: str, words: list, env: dict | None = None) -> None:
    """Run a command, logged with all others of the set-up, its temporary files in the environment."""
    TEMPORARY.mkdir(exist_ok=True)
    run_logged(title, words, LOG, {**(env or child_environment()), "TMPDIR": str(TEMPORARY)})


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
    command = [base_python(), "-m", "venv", *(["--system-site-packages"] if distro else []), VENV]
    run(title, command)


def install_requirements(title: str, distro: str | None) -> None:
    """Install the locked requirements; the lock is complete, so pip need not resolve anything."""
    text = (ROOT / "requirements" / ("distro.txt" if distro else "wheels.txt")).read_text()
    cpu = wanted_torch() == "cpu"
    # pip downloads all that one call installs before it unpacks the first, so fewer at once need less space.
    parts = parts_of(without_cuda(text) if cpu else text, PARTS)
    locked = [PYTHON, "-m", "pip", "install", "--no-cache-dir", "--no-deps", "--require-hashes", "-r"]
    file = VENV / "requirements.txt"
    for number, part in enumerate(parts, start=1):
        file.write_text(part)
        run(f"{title}: part {number} of {len(parts)}", [*locked, file])
    if cpu:
        # The lock has the hashes of PyPI's torch, which needs CUDA; PyTorch's own index has that for a CPU.
        file.write_text("\n".join(requirement_lines(text, ("torch", "torchvision"))) + "\n")
        uv = [VENV / "bin" / "uv", "pip", "install", "--no-cache", "--python", PYTHON, "--no-deps"]
        run(f"{title}: torch for a CPU", [*uv, "--torch-backend", "cpu", "-r", file])


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
    """Install this package editable."""
    run(title, [PYTHON, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--editable", ROOT])
    link_for_ros2()


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
        **{f"share/perception_rt/launch/{file.name}": file for file in (ROOT / "launch").glob("*.launch.*")},
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


def check(title: str, distro: str | None) -> None:
    """Import what everything stands on: whatever does not fit together shows here, not in a running graph."""
    env = child_environment()
    if distro:
        env["PYTHONPATH"] = os.environ.get("PYTHONPATH", "")
    modules = "torch, torchvision, cv2, onnxruntime, rclpy, vision_msgs.msg, tf2_msgs.msg, perception_rt"
    run(title, [PYTHON, "-c", f"import {modules}"], env)


STEPS = {
    "venv": make_venv,
    "requirements": install_requirements,
    "interfaces": build_interfaces,
    "package": install_package,
    "check": check,
}
TITLES = {
    "venv": "virtual environment",
    "requirements": "requirements (several GB the first time)",
    "interfaces": "message interfaces",
    "package": "perception_rt",
    "check": "check",
}


def set_up() -> None:
    """Do the steps that are not yet done."""
    distro = sourced_distro(dict(os.environ))
    keys, stamps, torch = step_keys(distro), read_stamps(), wanted_torch()
    todo = stale_steps(keys, stamps, distro)
    if not todo:
        return
    check_machine(distro)
    if "requirements" in todo:
        check_space(VENV, torch)
    print(f"setting up {VENV} with ROS 2 {distro if distro else 'Kilted wheels'}", flush=True)
    for number, name in enumerate(STEPS, start=1):
        if name in todo:
            STEPS[name](f"[{number}/{len(STEPS)}] {TITLES[name]}", distro)
            stamps[name] = keys[name]
            if name == "requirements":
                stamps["torch"] = torch
            write_stamps(stamps)


def main() -> int:
    """Run the set-up under a lock, so that two makes at once do not meet in one environment."""
    with open(__file__) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the running command too
        shutil.rmtree(TEMPORARY, ignore_errors=True)  # of a run that was killed
        try:
            set_up()
        except (SetupError, OSError) as error:
            print(f"setup: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("\nsetup: interrupted; the next run goes on from here", file=sys.stderr)
            return 130
        finally:
            shutil.rmtree(TEMPORARY, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
