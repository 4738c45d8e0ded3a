"""Files that are whole or absent, free memory, and the frame that every command runs in."""

from __future__ import annotations

import errno
import json
import os
import stat
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest
import torch

from cli.command import run_command
from config import ScoreConfig, TrainConfig
from utils import DiskError, UserError, atomic_write, free_ram, library_versions, write_json, write_text

# ------------------------------------------------------------------------------------------------ commands


@pytest.fixture
def run_it(capsys):
    """Runs a function as the command score_submission.py: exit code, stdout, stderr."""

    def command(function):
        code = run_command(function, ScoreConfig(submission="a.csv"))
        told = capsys.readouterr()
        return code, told.out, told.err

    return command


def raising(error: BaseException):
    def command(config):
        raise error

    return command


def test_a_command_gets_its_config_and_answers_0(run_it):
    seen = []
    assert run_it(seen.append) == (0, "", "")
    assert seen[0].submission == "a.csv"


def test_what_the_user_can_put_right_is_one_line_and_2(run_it):
    assert run_it(raising(UserError("--lr must be greater than 0. Got 0."))) == (
        2,
        "",
        "score_submission.py: --lr must be greater than 0. Got 0.\n",
    )


def test_a_missing_file_is_one_line_and_2(run_it, tmp_path):
    code, out, err = run_it(lambda config: (tmp_path / "nothing.csv").open())
    assert (code, out) == (2, "")
    assert err.startswith("score_submission.py: ")
    assert str(tmp_path / "nothing.csv") in err
    assert err.count("\n") == 1


def test_ctrl_c_is_130(run_it):
    code, _, err = run_it(raising(KeyboardInterrupt()))
    assert code == 130
    assert err.strip().endswith("interrupted")
    assert "Traceback" not in err


def test_ctrl_c_in_training_says_how_to_go_on(capsys):
    assert run_command(raising(KeyboardInterrupt()), TrainConfig()) == 130
    assert "--resume" in capsys.readouterr().err


@pytest.mark.parametrize("error", [ValueError("bug"), KeyError("main"), RuntimeError("cuda"), SystemExit(3)], ids=repr)
def test_a_bug_keeps_its_traceback(run_it, error):
    with pytest.raises(type(error)) as caught:
        run_it(raising(error))
    assert caught.value is error


# ------------------------------------------------------------------------------------------------ machine


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
    ids=["not told", "a machine", "a job", "a container", "an older system"],
)
def test_free_memory_is_what_is_left_of_the_lowest_limit(files, free, tmp_path):
    write_files(tmp_path, files)
    assert free_ram(tmp_path) == free


def test_free_memory_of_this_machine():
    free = free_ram()
    assert free is None or 1e6 < free < 1e14


def test_a_library_that_another_one_stands_in_for_has_no_version(monkeypatch):
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


def test_a_folder_that_is_gone_is_told_and_not_made_anew(tmp_path):
    with pytest.raises(DiskError, match=r"file\.bin could not be written .*: the folder .*b is gone"):
        atomic_write(tmp_path / "a" / "b" / "file.bin", lambda file: file.write(b"whole"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_told_with_the_room_there_is(tmp_path, number):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")

    def write(file):
        raise OSError(number, os.strerror(number))

    with pytest.raises(
        DiskError, match=rf"file\.bin could not be written \({os.strerror(number)}\), [\d.]+ MB are free"
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


def test_while_it_is_written_only_the_old_file_has_the_name(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    seen = []
    atomic_write(path, lambda file: (file.write(b"new"), file.flush(), seen.append(path.read_text())))
    assert seen == ["old"]
    assert path.read_text() == "new"


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_others_may_read_what_is_written_as_the_umask_says(tmp_path):
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


def test_json_holds_plain_values_and_null_for_what_is_no_number(tmp_path):
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
