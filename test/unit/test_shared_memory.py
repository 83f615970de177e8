"""Segments of dead processes go, those of living ones stay."""

import fcntl
import os
import shutil
import time
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

from perception_rt.node.shared_memory import SEGMENT_BYTES, clean_shared_memory, shortage
from perception_rt.node.transport import PROFILE, check_rmw, installed_rmw
from perception_rt.types import ConfigError


def make(folder, name, age_s=3600.0):
    for path in (folder / name, folder / f"{name}_el"):
        path.write_bytes(b"x")
        os.utime(path, (time.time() - age_s,) * 2)
    return folder / f"{name}_el"


def test_only_abandoned_segments_are_removed(tmp_path):
    make(tmp_path, "fastdds_00000000000000aa")
    young = make(tmp_path, "fastdds_00000000000000bb", age_s=1)
    held = make(tmp_path, "fastdds_00000000000000cc")
    port = make(tmp_path, "fastdds_port7400")
    with held.open("rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert clean_shared_memory(tmp_path) == ["fastdds_00000000000000aa"]
    assert not (tmp_path / "fastdds_00000000000000aa").exists()
    assert not (tmp_path / "fastdds_00000000000000aa_el").exists()
    assert young.exists()
    assert held.exists()
    assert port.exists()


@pytest.mark.parametrize(("free", "words"), [(60 << 20, "--shm-size=1g"), (8 << 30, "")])
def test_a_small_folder_is_told_with_the_remedy(tmp_path, monkeypatch, free, words):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free, total=64 << 20))
    said = shortage(tmp_path)
    assert words in said
    assert bool(said) == bool(words)
    assert shortage(tmp_path / "none") == ""


def test_what_is_taken_is_what_the_profile_asks_for():
    size = ElementTree.parse(PROFILE).find(".//{*}segment_size")
    assert int(size.text) == SEGMENT_BYTES


def test_an_rmw_that_is_not_installed_is_refused_with_those_that_are(tmp_path, monkeypatch):
    (tmp_path / "lib").mkdir()
    for name in ("rmw_zenoh_cpp", "rmw_connextdds", "rmw_dds_common", "rmw_fastrtps_shared_cpp"):
        (tmp_path / "lib" / f"lib{name}.so").touch()
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path))
    monkeypatch.setenv("RMW_IMPLEMENTATION", "rmw_cyclonedds_cpp")
    assert {"rmw_zenoh_cpp", "rmw_connextdds"} <= set(installed_rmw())
    assert not {"rmw_dds_common", "rmw_fastrtps_shared_cpp"} & set(installed_rmw())
    with pytest.raises(ConfigError, match=r"not installed; installed: .*rmw_zenoh_cpp.*export RMW_IMPL"):
        check_rmw()
    monkeypatch.setenv("RMW_IMPLEMENTATION", "rmw_zenoh_cpp")
    check_rmw()
    monkeypatch.delenv("RMW_IMPLEMENTATION")
    check_rmw()
