"""The lock of a fold: held by one run, removed when its owner is dead, on this machine and on others."""

import os
import socket
import subprocess
import sys
import time

import pytest
from filelock import SoftFileLease

from storage import lock
from storage.lock import FoldLocks
from utils import DiskError, UserError


@pytest.fixture
def path(tmp_path):
    return tmp_path / ".run.fold00.lock"


@pytest.fixture
def watched(monkeypatch):
    """Let watching take no time; the functions in this list are called meanwhile."""
    meanwhile, clock = [], [0.0]

    def sleep(seconds):
        clock[0] += seconds
        for do in meanwhile:
            do()

    monkeypatch.setattr(lock.time, "sleep", sleep)
    monkeypatch.setattr(lock.time, "monotonic", lambda: clock[0])
    return meanwhile


def record(path, **owner) -> None:
    """Write a lock as filelock does, by default of a process of this machine."""
    here = {"pid": 1, "host": lock._own_host(), "mode": "lease", "token": "a", "duration": lock.LEASE}
    path.write_text("filelock/2\n" + "".join(f"{name}={value}\n" for name, value in {**here, **owner}.items()))


def locks(*paths):
    return FoldLocks({path: f"Fold {number} of a run" for number, path in enumerate(paths)})


def touch(path) -> None:
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))


def wait_for(condition) -> None:
    end = time.monotonic() + 10
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


def run_python(*lines: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", "\n".join(lines)])


@pytest.fixture
def fast(monkeypatch):
    """Let locks show signs of life all the time, so that a loss is noted soon."""
    monkeypatch.setattr(lock, "BEAT", 0.01)


def test_a_lock_exists_while_it_is_held(path):
    locks(path).check()
    assert not path.exists()
    with locks(path):
        assert SoftFileLease(path, lease_duration=lock.LEASE).owner.pid == os.getpid()
    assert list(path.parent.iterdir()) == []


def test_a_held_lock_names_its_owner(path):
    with locks(path):
        text = rf"^Fold 0 of a run is being trained by .* on {socket.gethostname()} \(process {os.getpid()}\)\..*{path}"
        with pytest.raises(UserError, match=text):
            locks(path).check()
        with pytest.raises(UserError, match=text), locks(path):
            pass
        assert path.exists()


def test_the_lock_of_a_killed_process_is_removed(path, capsys):
    owner = run_python(
        "import os, pathlib, storage.lock",
        f"held = storage.lock.FoldLocks({{pathlib.Path({str(path)!r}): 'a'}}).__enter__()",
        "os.kill(os.getpid(), 9)",
    )
    owner.wait()
    assert path.exists()
    with locks(path):
        assert f"Removed the stale lock of Fold 0 of a run, held by process {owner.pid}" in capsys.readouterr().out
        assert path.exists()
    assert list(path.parent.iterdir()) == []


def test_another_process_with_the_number_of_a_dead_one_is_not_its_owner(path):
    record(path, pid=os.getpid(), start=1)
    locks(path).check()
    assert not path.exists()


def test_a_dead_process_that_nobody_waited_for_is_dead(path, watched):
    owner = run_python("")
    os.waitid(os.P_PID, owner.pid, os.WEXITED | os.WNOWAIT)
    record(path, pid=owner.pid)
    locks(path).check()
    assert not path.exists()
    owner.wait()


@pytest.mark.parametrize("content", ["", "{", '{"user": "kim", "host": "elsewhere", "pid": 3}\n...'])
def test_a_lock_that_names_no_owner_is_watched(content, path, watched):
    path.write_text(content)
    locks(path).check()
    assert not path.exists()
    path.write_text(content)
    watched.append(lambda: touch(path))
    with pytest.raises(UserError, match=r"is being trained by \w+\. Wait"):
        locks(path).check()
    assert path.read_text() == content


def test_the_lock_of_another_machine_is_removed_without_signs_of_life(path, watched, capsys):
    second = path.with_name(".run.fold01.lock")
    for one in (path, second):
        record(one, host="elsewhere")
    locks(path, second).check()
    assert list(path.parent.iterdir()) == []
    assert lock.time.monotonic() == lock.LEASE  # both are watched at the same time
    out = capsys.readouterr().out
    assert f"{path} is locked. Watching it for signs of life for 60 s" in out
    assert out.count("Removed the stale lock of Fold") == 2


@pytest.mark.parametrize(
    ("owner", "named"),
    [
        ({"host": "elsewhere"}, r"on elsewhere \(process 1\)"),
        # a container on this machine, whose processes have numbers of their own
        ({"host": f"{socket.gethostname()}?pidns-1", "pid": 2**22 + 1}, rf"by \w+ on {socket.gethostname()} "),
    ],
)
def test_the_lock_of_another_machine_is_held_while_it_gives_signs_of_life(owner, named, path, watched):
    record(path, **owner)
    watched.append(lambda: touch(path))
    with pytest.raises(UserError, match=named):
        locks(path).check()
    assert path.exists()


def test_a_lock_that_is_released_while_it_is_watched_is_free(path, watched):
    record(path, host="elsewhere")
    watched.append(lambda: path.unlink(missing_ok=True))
    locks(path).check()


def test_a_lock_that_another_start_takes_while_it_is_watched_stays(path, watched, monkeypatch):
    record(path, host="elsewhere")
    replace = os.replace

    def late(source, target):
        record(path, host="elsewhere", token="b")
        touch(path)
        replace(source, target)

    monkeypatch.setattr(lock.os, "replace", late)
    locks(path).check()
    assert "token=b" in path.read_text()


def test_signs_of_life_are_given_while_a_lock_is_held(path, fast):
    with locks(path):
        first = lock._sign_of_life(path)
        wait_for(lambda: lock._sign_of_life(path) != first)


def test_an_owner_whose_lock_was_taken_stops(path, fast):
    with locks(path) as held:
        held.raise_if_lost()
        path.unlink()
        record(path, host="elsewhere")
        wait_for(lambda: held.losses)
        with pytest.raises(UserError, match="Fold 0 of a run was locked by another run"):
            held.raise_if_lost()
    assert "elsewhere" in path.read_text()  # another's lock is not deleted


def test_a_folder_that_was_deleted_is_left_to_the_next_save(path, fast):
    folder = path.parent / "models"
    folder.mkdir()
    with locks(folder / path.name) as held:
        (folder / path.name).unlink()
        folder.rmdir()
        wait_for(lambda: held.losses)
        held.raise_if_lost()


def test_a_disk_that_fails_is_reported(path, fast, monkeypatch):
    monkeypatch.setattr(lock, "LEASE", 0.05)
    with locks(path) as held:
        monkeypatch.setattr(os, "lstat", lambda *values: (_ for _ in ()).throw(OSError(30, "Read-only file system")))
        wait_for(lambda: held.losses)
        monkeypatch.undo()
        with pytest.raises(DiskError, match="Read-only file system"):
            held.raise_if_lost()


def test_if_one_lock_is_held_none_is_kept(path):
    second = path.with_name(".run.fold01.lock")
    with locks(second):
        with pytest.raises(UserError), locks(path, second):
            pass
        assert not path.exists()


def test_a_link_is_not_followed_into_another_run(path, watched):
    other = path.with_name("config.json")
    other.write_text("{}")
    path.symlink_to(other)
    with locks(path):
        assert path.is_file() and not path.is_symlink()
    assert other.read_text() == "{}"
