"""Seeds and random states, devices and their memory."""

from types import SimpleNamespace

import pytest
import torch

from training.device import choose_device, count_workers, free_memory, has_shared_memory, seed_everything
from utils import UserError, count_cores, derive_seed, seeded

# ------------------------------------------------------------------------------------------------ seeds


def test_derived_seeds_do_not_change():
    assert derive_seed("train", 42, 0, 3, 17) == 4757562132173934605  # published results depend on it


def test_derived_seeds_differ_with_every_part_and_its_place():
    parts = [(), (0,), (1,), ("1",), (1, 2), (2, 1), (12,), ("train", 12), ("ab", "c"), ("a", "bc")]
    parts += [("train", 42, fold, epoch, index) for fold in range(5) for epoch in range(5) for index in range(40)]
    seeds = {derive_seed(*each) for each in parts}
    assert len(seeds) == len(parts)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seed_everything_seeds_torch_by_all_parts():
    def draw(*parts):
        seed_everything(*parts)
        return torch.rand(4).tolist()

    assert draw("weights", 1, 2) == draw("weights", 1, 2)
    assert draw("weights", 1, 2) != draw("weights", 1, 3)


def test_a_seeded_block_depends_on_its_parts_alone_and_restores_the_global_state():
    def draw(*parts):
        torch.rand(1)
        before = torch.get_rng_state()
        with seeded(*parts):
            first = torch.rand(2)
            with seeded("inner"):
                torch.rand(5)
            second = torch.rand(1)
        assert torch.equal(torch.get_rng_state(), before)
        return [*first.tolist(), second.item()]

    with seeded("view", "a", 1):
        assert torch.rand(3).tolist() == draw("view", "a", 1)
    assert draw("view", "a", 1) == draw("view", "a", 1) != draw("view", "a", 2)


def test_a_seeded_block_that_raises_restores_the_global_state():
    before = torch.get_rng_state()
    with pytest.raises(KeyError), seeded("a"):
        torch.rand(3)
        raise KeyError
    assert torch.equal(torch.get_rng_state(), before)


# ------------------------------------------------------------------------------------------------ devices


def test_devices_in_any_case():
    assert choose_device("cpu") == choose_device("CPU") == torch.device("cpu")
    assert choose_device("auto").type in ("cpu", "cuda", "mps")


@pytest.mark.parametrize("name", ["potato", "cuda:99", "", "cpu:x", "meta potato"])
def test_an_unavailable_device_is_an_error(name):
    with pytest.raises(UserError, match=r"^--device .*is not available \(.+\)\. Pass auto, cpu or cuda\."):
        choose_device(name)


def test_free_memory_is_that_of_the_cpu_or_unknown():
    free = free_memory(torch.device("cpu"))
    assert free is None or 1e6 < free < 1e14
    assert free_memory(torch.device("mps")) is None


def test_workers_are_counted_by_cores_and_device():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert [count_workers(n, cpu) for n in (0, 1, 20)] == [0, 1, 20]
    assert count_workers(-1, cuda) == max(1, count_cores() - 1)
    assert count_workers(-1, cpu) == count_cores() // 2


@pytest.mark.parametrize(("cores", "sharing", "expected"), [(1, 1, 1), (16, 1, 15), (16, 2, 7), (2, 4, 1)])
def test_a_gpu_gets_all_cores_but_one_for_the_loader_processes(monkeypatch, cores, sharing, expected):
    monkeypatch.setattr("training.device.count_cores", lambda: cores)
    assert count_workers(-1, torch.device("cuda"), sharing=sharing) == expected


def test_as_many_loader_processes_start_as_may_open_their_files(monkeypatch):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr("training.device.count_cores", lambda: 128)
    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, 1024))
    limits = []
    monkeypatch.setattr(resource, "setrlimit", lambda which, limit: limits.append(limit))
    assert count_workers(-1, torch.device("cuda")) == 82
    assert limits == [(32 + 12 * 82, 1024)]
    with pytest.raises(UserError, match="100 loader processes need about 1232 open files, and the limit is 1024"):
        count_workers(100, torch.device("cuda"))


def test_batches_that_do_not_fit_the_shared_memory_need_fewer_loader_processes(monkeypatch, capsys):
    monkeypatch.setattr("os.path.isdir", lambda path: True)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=64_000_000))
    cpu = torch.device("cpu")
    assert [count_workers(4, cpu, batch_bytes=size) for size in (1_000_000, 10_000_000, 40_000_000)] == [4, 2, 0]
    printed = capsys.readouterr().out
    assert printed.count("raise --shm-size") == 2
    assert "/dev/shm has 64 MB left for batches of 10 MB: using 2 loader processes instead of 4." in printed
    assert [has_shared_memory(size) for size in (64_000_000, 64_000_001)] == [True, False]
