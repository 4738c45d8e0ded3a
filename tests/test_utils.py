"""Atomic files, JSON, versions and free memory."""

import errno
import json
import os
import stat
from importlib.metadata import PackageNotFoundError
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from utils import DiskError, atomic_write, count_cores, free_ram, library_versions, write_json, write_text

MEMINFO = {"proc/meminfo": "MemTotal:  8000 kB\nMemAvailable:  4000 kB\nHugePages_Total:  0\n"}
OWN_GROUPS = "proc/self/cgroup"


def group(name: str, limit: str, used: str, cached: str) -> dict[str, str]:
    """The files of a group."""
    folder = f"sys/fs/cgroup/{name}"
    return {f"{folder}memory.max": limit, f"{folder}memory.current": used, f"{folder}memory.stat": cached}


def old_group(name: str, limit: str, used: str, cached: str) -> dict[str, str]:
    """The files of a group of older systems."""
    folder = f"sys/fs/cgroup/memory/{name}memory"
    return {f"{folder}.limit_in_bytes": limit, f"{folder}.usage_in_bytes": used, f"{folder}.stat": cached}


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, None),
        (MEMINFO, 4_096_000),
        (  # the limit of a cluster's job is set on the group above its own
            {
                **{**MEMINFO, OWN_GROUPS: "0::/job/step\n", "sys/fs/cgroup/job/step/memory.max": "max\n"},
                **group("job/", "3000000\n", "1000000\n", "anon 1\ninactive_file 400000\n"),
            },
            2_400_000,
        ),
        # a container sees its own group in the place of the root
        ({**MEMINFO, OWN_GROUPS: "0::/system/abc\n", **group("", "1000\n", "2000\n", "")}, 0),
        (
            {
                **{**MEMINFO, OWN_GROUPS: "9:name=systemd:/\n4:memory:/job\n3:cpuset:/\n"},
                **old_group("job/", "500000", "100000", "total_inactive_file 0\n"),
                **old_group("", "9223372036854771712", "700000", "total_inactive_file 0\n"),
            },
            400_000,
        ),
    ],
    ids=["not reported", "a machine", "a job", "a container", "an older system"],
)
def test_free_memory_is_the_rest_of_the_lowest_limit(files, free, tmp_path):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert free_ram(tmp_path) == free


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 64),
        ({OWN_GROUPS: "0::/job/step\n", "sys/fs/cgroup/job/cpu.max": "800000 100000\n"}, 8),
        ({OWN_GROUPS: "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
        ({OWN_GROUPS: "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 64),
        (
            {
                **{OWN_GROUPS: "4:memory:/job\n1:cpu,cpuacct:/job\n"},
                **{"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "250000\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"},
            },
            2,
        ),
        (
            {
                OWN_GROUPS: "1:cpu:/\n",
                **{"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"},
            },
            64,
        ),
    ],
    ids=["unknown", "of a job", "less than one", "unlimited", "older system", "older system, unlimited"],
)
def test_the_processor_time_of_a_container_limits_its_cores(files, cores, tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(64)), raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert count_cores(tmp_path) == cores


def test_free_memory_of_this_machine():
    free = free_ram()
    assert free is None or 1e6 < free < 1e14


def test_a_library_with_a_substitute_has_no_version(monkeypatch):
    """As pillow-simd for pillow."""

    def version(name):
        if name == "pillow":
            raise PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr("utils.version", version)
    versions = library_versions()
    assert (versions["pillow"], versions["torch"]) == ("unknown", "1")


def test_versions_name_what_a_result_depends_on():
    versions = library_versions()
    assert versions["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert {"python", "torchvision", "numpy", "efficientnet-pytorch"} <= set(versions)
    assert all(isinstance(value, str) for value in versions.values())


# ------------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize("name", ["file.bin", "n" * 255], ids=["short", "as long as the disk allows"])
def test_a_file_replaces_the_old_one_when_it_is_whole(tmp_path, name):
    path, seen = tmp_path / name, []
    path.write_bytes(b"old")
    atomic_write(path, lambda file: (file.write(b"new"), file.flush(), seen.append(path.read_bytes())))
    assert seen == [b"old"]
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_deleted_folder_is_reported_and_not_created(tmp_path):
    with pytest.raises(DiskError, match=r"file\.bin could not be written .*: the folder .*b was deleted"):
        atomic_write(tmp_path / "a" / "b" / "file.bin", lambda file: file.write(b"whole"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_reported_with_the_space_left(tmp_path, number):
    reason = os.strerror(number)
    message = rf"file\.bin could not be written \({reason}\)\. Free some space: [\d.]+ MB are left"
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    with pytest.raises(DiskError, match=message):
        atomic_write(path, Mock(side_effect=OSError(number, reason)))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("old", [b"old", None], ids=["an old file", "no file"])
@pytest.mark.parametrize("error", [ValueError("full"), KeyboardInterrupt()], ids=repr)
def test_a_writer_that_fails_leaves_the_folder_as_it_was(tmp_path, error, old):
    path = tmp_path / "file.bin"
    if old:
        path.write_bytes(old)

    def write(file):
        file.write(b"half")
        raise error

    with pytest.raises(type(error)):
        atomic_write(path, write)
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == ([old] if old else [])


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_permissions_follow_the_umask(tmp_path):
    previous = os.umask(0o027)
    try:
        atomic_write(tmp_path / "file.bin", lambda file: file.write(b""))
        assert stat.S_IMODE((tmp_path / "file.bin").stat().st_mode) == 0o640
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(previous)


def test_text_is_utf8(tmp_path):
    write_text(tmp_path / "file.txt", "얼굴\n")
    assert (tmp_path / "file.txt").read_bytes() == "얼굴\n".encode()


def test_json_holds_plain_values_and_null_for_nan(tmp_path):
    inside = [1.5, float("inf"), {"deeper": np.float32("nan")}]
    value = {"nan": float("nan"), "inside": inside, "pair": (np.int64(3), np.float32(0.5)), "flag": np.bool_(True)}
    write_json(tmp_path / "file.json", {**value, "none": None, "text": "얼굴"})
    text = (tmp_path / "file.json").read_text(encoding="utf-8")
    expected = {"nan": None, "inside": [1.5, None, {"deeper": None}], "pair": [3, 0.5], "flag": True, "none": None}
    assert json.loads(text, parse_constant=pytest.fail) == {**expected, "text": "얼굴"}
    assert "얼굴" in text
    assert text.endswith("}\n")


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
