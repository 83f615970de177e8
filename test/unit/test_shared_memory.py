"""Segments of dead processes go, those of living ones stay."""

import fcntl
import os
import time

from perception_rt.node.shared_memory import clean_shared_memory


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
