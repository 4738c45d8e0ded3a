"""Run a script and kill it at a file operation: python tests/cut.py OPTIONS -- train.py ...

    --under FOLDER    count the operations on this folder and its contents
    --at N            end by SIGKILL before operation number N, from 1
    --list FILE       write every operation to a file, a line each
    --back SECONDS    set the clock back once the first file was renamed

Operations are opening for writing, fsync, chmod, rename, unlink, mkdir and rmdir: everything that a save does.
"""

import argparse
import os
import runpy
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EVENTS = {"os.rename": "rename", "os.remove": "unlink", "os.mkdir": "mkdir", "os.rmdir": "rmdir", "os.chmod": "chmod"}


def main() -> None:
    """Install the hooks and run the script as the main program."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--under", required=True)
    parser.add_argument("--at", type=int, default=0)
    parser.add_argument("--list")
    parser.add_argument("--back", type=float, default=0.0)
    here = sys.argv.index("--")
    options, command = parser.parse_args(sys.argv[1:here]), sys.argv[here + 1 :]
    folder, owner, count = os.path.abspath(options.under), os.getpid(), 0
    real_fsync, real_time = os.fsync, time.time

    def count_operation(operation: str, path: str) -> None:
        nonlocal count
        if os.getpid() != owner or not os.path.abspath(path).startswith(folder):
            return
        count += 1
        if options.list:
            with Path(options.list).open("a", encoding="utf-8") as file:
                file.write(f"{operation} {os.path.relpath(path, folder)}\n")
        if count == options.at:
            os.kill(owner, signal.SIGKILL)

    def hook(event: str, values: tuple) -> None:
        if event in EVENTS:
            if event == "os.rename" and options.back:
                time.time = lambda: real_time() - options.back
            count_operation(EVENTS[event], os.fsdecode(values[0]))
        elif event == "open" and isinstance(values[0], str) and values[2] & (os.O_WRONLY | os.O_RDWR):
            count_operation("open", values[0])

    def fsync(handle: int) -> None:
        count_operation("fsync", os.readlink(f"/proc/self/fd/{handle}"))
        real_fsync(handle)

    os.fsync = fsync
    sys.addaudithook(hook)
    sys.argv = command
    sys.path.insert(0, str(ROOT))
    runpy.run_path(str(ROOT / command[0]), run_name="__main__")


if __name__ == "__main__":
    main()
