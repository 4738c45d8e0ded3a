"""The lock of a fold: held by one run, known for dead when its owner is, on this machine and on others."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time

import pytest

from storage import lock
from storage.lock import FoldLocks
from utils import UserError


@pytest.fixture
def path(tmp_path):
    return tmp_path / ".run.fold00.lock"


@pytest.fixture
def watched(monkeypatch):
    """Watching for signs of life takes no time; what is done meanwhile is to be set."""
    meanwhile = []
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: [do() for do in meanwhile])
    return meanwhile


def write(path, **owner):
    here = {"user": "kim", "host": socket.gethostname(), "machine": lock._machine(), "pid": 1, "started": 1}
    path.write_text(json.dumps({**here, **owner}) + "\n")


def locks(*paths):
    return FoldLocks({path: f"Fold {number} of a run" for number, path in enumerate(paths)})


def test_a_lock_is_there_while_it_is_held_and_gone_afterwards(path):
    with locks(path):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert not path.exists()


def test_a_lock_that_is_held_is_refused_with_its_owner(path):
    with locks(path):
        told = rf"^Fold 0 of a run is being trained by .* on {socket.gethostname()} \(process {os.getpid()}\)\..*{path}"
        with pytest.raises(UserError, match=told):
            locks(path).check()
        with pytest.raises(UserError, match=told), locks(path):
            pass
        assert path.exists()


def test_the_lock_of_a_process_that_ended_is_cleared(path, capsys):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    write(path, pid=process.pid)
    with locks(path) as held:
        assert path.read_bytes() == held.mine[path]
    assert f"Fold 0 of a run was locked by process {process.pid}" in capsys.readouterr().out
    assert list(path.parent.iterdir()) == []


def test_another_process_with_the_number_of_a_dead_one_is_not_its_owner(path):
    write(path, pid=os.getpid(), started=1)
    locks(path).check()
    assert not path.exists()


@pytest.mark.parametrize("content", ["", "{", "[1]\n", '{"pid": "x"}\n'])
def test_a_lock_that_says_nothing_is_watched(content, path, watched):
    path.write_text(content)
    locks(path).check()
    assert not path.exists()


def test_the_lock_of_another_machine_is_cleared_when_it_is_silent(path, watched, capsys):
    write(path, host="elsewhere")
    locks(path).check()
    assert not path.exists()
    assert f"watching {path} for 60 s" in capsys.readouterr().out


def test_the_lock_of_another_machine_is_held_while_it_gives_signs_of_life(path, watched):
    write(path, host="elsewhere")
    watched.append(lambda: path.write_bytes(path.read_bytes() + b"."))
    with pytest.raises(UserError, match="by kim on elsewhere"):
        locks(path).check()
    assert path.exists()


def test_a_lock_that_is_released_while_it_is_watched_is_free(path, watched):
    write(path, host="elsewhere")
    watched.append(path.unlink)
    locks(path).check()


def test_all_locks_of_another_machine_are_watched_at_once(path, monkeypatch):
    slept, second = [], path.with_name(".run.fold01.lock")
    monkeypatch.setattr(lock.time, "sleep", slept.append)
    for one in (path, second):
        write(one, host="elsewhere")
    locks(path, second).check()
    assert slept == [lock.WATCH]


def test_a_process_of_another_container_with_this_name_is_watched_not_asked(path, watched):
    write(path, machine=["boot", "pid:[1]"], pid=2**22 + 1)
    watched.append(lambda: path.write_bytes(path.read_bytes() + b"."))
    with pytest.raises(UserError, match="is being trained by kim"):
        locks(path).check()


def test_a_process_of_which_nothing_is_told_but_that_it_is_there_lives(path, monkeypatch):
    write(path, pid=os.getpid(), started=5)
    monkeypatch.setattr(lock, "_start_of", lambda pid: None)
    with pytest.raises(UserError, match="is being trained by kim"):
        locks(path).check()


def test_signs_of_life_are_given_while_the_lock_is_held(path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.01)
    with locks(path) as held:
        end = time.monotonic() + 10
        while time.monotonic() < end and len(path.read_bytes()) < len(held.mine[path]) + 2:
            time.sleep(0.01)
        assert path.read_bytes().startswith(held.mine[path] + b"..")
    assert not path.exists()


def test_an_owner_whose_lock_was_taken_stops(path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT", 0.01)
    with locks(path) as held:
        held.raise_if_lost()
        write(path, host="elsewhere")
        end = time.monotonic() + 10
        while time.monotonic() < end and held.lost is None:
            time.sleep(0.01)
        with pytest.raises(UserError, match="Fold 0 of a run was taken by another run"):
            held.raise_if_lost()
    assert "elsewhere" in path.read_text()  # another's lock is not deleted


def test_when_one_lock_cannot_be_had_none_is_kept(path):
    second = path.with_name(".run.fold01.lock")
    with locks(second):
        with pytest.raises(UserError), locks(path, second):
            pass
        assert not path.exists()
