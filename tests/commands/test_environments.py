"""Commands as child processes, in environments that clusters and containers set."""

import os
import subprocess
import sys

import pytest

from utils import ROOT


@pytest.mark.parametrize("name", ["LOCAL_RANK", "PYTHONSAFEPATH"])
@pytest.mark.parametrize("script", ["train", "submit_singular", "submit_ensemble"])
def test_variables_of_other_launchers_do_not_silence_a_command(name, script, tmp_path):
    words = ("--load-state-dict", "lost") if script == "submit_singular" else ("--device", "cpu")
    roots = ("--train-root", tmp_path / "lost") if script == "train" else ("--data-root", tmp_path / "lost")
    child = run_script(f"{script}.py", *words, *roots, **{name: "1"})
    assert child.returncode == 2
    assert child.stderr.startswith(f"{script}.py: There is no ")


def test_images_whose_names_the_locale_cannot_encode_are_found(make_data, make_person, tiny_training, tmp_path):
    """Python then reads names from the disk as ASCII with escaped bytes."""
    people = [make_person(f"가나{k:02d}", *of) for k, of in enumerate([("male", 25), ("female", 45), ("male", 61)] * 4)]
    data = make_data(people=people)
    words = (*tiny_training, "--cv", 2, "--train-root", data.train_root, "--save-path", tmp_path / "models")
    locale = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    child = run_script("train.py", *words, **locale)
    assert child.returncode == 0, child.stderr
    folder = tmp_path / "models" / "main" / "kfold-ensemble-VanillaTorchvision"
    assert "가나00" in (folder / "oof.csv").read_text(encoding="utf-8")
    child = run_script("train.py", *words, "--resume")  # the split is the same in another locale
    assert "fold 1: finished earlier" in child.stdout, child.stderr
    child = run_script("-m", "tools", "find_label_errors", "--root", folder, **locale)
    assert child.stdout.endswith(f"Contact sheet: {folder / 'suspects.jpg'}\n"), child.stderr


@pytest.mark.parametrize(
    ("limit", "temporary", "message"),
    [
        ("", "x" * 80, "is too long for the sockets of loader processes. Set it to a path of at most 7"),
        ("-n 40", "", "2 loader processes need about 56 open files, and the limit is 40."),
        ("-Sn 40", "", None),  # a soft limit is raised
    ],
    ids=["long name", "few files", "few files at first"],
)
def test_limits_that_would_stop_loader_processes(limit, temporary, message, small_data, tiny_training, tmp_path):
    (tmp_path / temporary).mkdir(exist_ok=True)
    paths = ("--train-root", small_data.train_root, "--save-path", tmp_path / "models")
    environment = {"TMPDIR": str(tmp_path / temporary)} if temporary else {}
    child = run_script("train.py", *tiny_training, *paths, "--num-workers", 2, limit=limit, **environment)
    if message is None:
        assert child.returncode == 0, child.stderr
        return
    assert (child.returncode, child.stderr.count("\n")) == (2, 1), child.stderr
    assert message in child.stderr
    assert not list(tmp_path.glob("models/*/*"))


def run_script(*words: object, limit: str = "", **environment: str) -> subprocess.CompletedProcess:
    """Run a command of the toolkit with more environment variables, under a limit of `ulimit`."""
    words = [sys.executable, *(str(ROOT / word) if str(word).endswith(".py") else str(word) for word in words)]
    command = ["bash", "-c", f'ulimit {limit}; exec "$@"', "bash", *words] if limit else words
    environment = {**os.environ, **environment}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False)
