"""The benchmark for GPUs: its parts, and what becomes of commands that fail or take too long."""

import importlib
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setenv("SIDE_BY_SIDE_AS_INSTALLED", "1")  # keeps the settings of libraries
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("gpu")


@pytest.fixture
def place(gpu, tmp_path):
    options = gpu.make_parser().parse_args(["--device", "cpu", "--quick"])
    return lambda seconds: gpu.Place(options, tmp_path, tmp_path, tmp_path, time.monotonic() + seconds)


def test_a_part_prints_its_results_or_the_reason_of_its_failure(gpu, place):
    assert place(20).run("-c", "import sys; print(sys.argv[1:])") == ["['--device', 'cpu']"]
    assert place(20).run("-c", "import time; print('go'); time.sleep(20)", stop_at="go", codes=(-15,)) == ["go"]
    with pytest.raises(gpu.PartError, match="ValueError: five"):
        place(20).run("-c", "raise ValueError('five')")
    with pytest.raises(gpu.PartError, match="out of time"):
        place(0.2).run("-c", "import time; time.sleep(20)")


def test_words_that_choose_parts_are_in_their_names(gpu):
    names = list(gpu.parts())
    for words in (gpu.QUICK, gpu.GPU_ONLY):
        assert all(any(word in name for name in names) for word in words)
