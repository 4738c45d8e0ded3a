"""Files that are whole or absent, JSON, versions and free memory."""

from __future__ import annotations

import errno
import json
import os
import stat
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest
import torch

from utils import DiskError, atomic_write, free_ram, library_versions, write_json, write_text


def write_files(root, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


MEMINFO = {"proc/meminfo": "MemTotal:  8000 kB\nMemAvailable:  4000 kB\nHugePages_Total:  0\n"}
V1 = "sys/fs/cgroup/memory"


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, None),
        (MEMINFO, 4_096_000),
        (
            {  # a cluster's job whose limit is set on the group above its own
                **MEMINFO,
                "proc/self/cgroup": "0::/job/step\n",
                "sys/fs/cgroup/job/step/memory.max": "max\n",
                "sys/fs/cgroup/job/memory.max": "3000000\n",
                "sys/fs/cgroup/job/memory.current": "1000000\n",
                "sys/fs/cgroup/job/memory.stat": "anon 1\ninactive_file 400000\n",
            },
            2_400_000,
        ),
        (
            {  # a container sees its own group in the place of the root
                **MEMINFO,
                "proc/self/cgroup": "0::/system/abc\n",
                "sys/fs/cgroup/memory.max": "1000\n",
                "sys/fs/cgroup/memory.current": "2000\n",
                "sys/fs/cgroup/memory.stat": "",
            },
            0,
        ),
        (
            {
                **MEMINFO,
                "proc/self/cgroup": "9:name=systemd:/\n4:memory:/job\n3:cpuset:/\n",
                f"{V1}/job/memory.limit_in_bytes": "500000",
                f"{V1}/job/memory.usage_in_bytes": "100000",
                f"{V1}/job/memory.stat": "total_inactive_file 0\n",
                f"{V1}/memory.limit_in_bytes": "9223372036854771712",
                f"{V1}/memory.usage_in_bytes": "700000",
                f"{V1}/memory.stat": "total_inactive_file 0\n",
            },
            400_000,
        ),
    ],
    ids=["not reported", "a machine", "a job", "a container", "an older system"],
)
def test_free_memory_is_what_is_left_of_the_lowest_limit(files, free, tmp_path):
    write_files(tmp_path, files)
    assert free_ram(tmp_path) == free


def test_free_memory_of_this_machine():
    free = free_ram()
    assert free is None or 1e6 < free < 1e14


def test_a_library_with_a_substitute_has_no_version(monkeypatch):
    """As pillow-simd for pillow: found out after an epoch, it would cost that epoch."""

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


def test_a_file_is_written_whole_and_alone(tmp_path):
    path = tmp_path / "file.bin"
    atomic_write(path, lambda file: file.write(b"whole"))
    assert path.read_bytes() == b"whole"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.bin"]


def test_a_deleted_folder_is_reported_and_not_created(tmp_path):
    with pytest.raises(DiskError, match=r"file\.bin could not be written .*: the folder .*b was deleted"):
        atomic_write(tmp_path / "a" / "b" / "file.bin", lambda file: file.write(b"whole"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_reported_with_the_space_left(tmp_path, number):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")

    def write(file):
        raise OSError(number, os.strerror(number))

    with pytest.raises(
        DiskError,
        match=rf"file\.bin could not be written \({os.strerror(number)}\)\. Free some space: [\d.]+ MB are left",
    ):
        atomic_write(path, write)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_as_long_as_the_disk_allows_can_be_written(tmp_path):
    path = tmp_path / ("n" * 255)
    atomic_write(path, lambda file: file.write(b"whole"))
    assert path.read_bytes() == b"whole"


@pytest.mark.parametrize("error", [ValueError("full"), KeyboardInterrupt()], ids=repr)
def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")

    def write(file):
        file.write(b"half")
        raise error

    with pytest.raises(type(error)):
        atomic_write(path, write)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_writer_that_fails_leaves_nothing_where_there_was_nothing(tmp_path):
    def write(file):
        file.write(b"half")
        raise BufferError

    with pytest.raises(BufferError):
        atomic_write(tmp_path / "file.bin", write)
    assert list(tmp_path.iterdir()) == []


def test_during_a_write_the_old_file_is_there(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    seen = []
    atomic_write(path, lambda file: (file.write(b"new"), file.flush(), seen.append(path.read_text())))
    assert seen == ["old"]
    assert path.read_text() == "new"


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
    value = {
        "nan": float("nan"),
        "inside": [1.5, float("inf"), {"deeper": np.float32("nan")}],
        "pair": (np.int64(3), np.float32(0.5)),
        "flag": np.bool_(True),
        "none": None,
        "text": "얼굴",
    }
    write_json(tmp_path / "file.json", value)
    text = (tmp_path / "file.json").read_text(encoding="utf-8")

    def refuse(constant):
        raise AssertionError(constant)

    assert json.loads(text, parse_constant=refuse) == {
        "nan": None,
        "inside": [1.5, None, {"deeper": None}],
        "pair": [3, 0.5],
        "flag": True,
        "none": None,
        "text": "얼굴",
    }
    assert "얼굴" in text
    assert text.endswith("}\n")


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
