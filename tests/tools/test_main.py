"""python -m tools: the list of commands, wrong names, exit codes, and what is imported for --help."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from config import command_configs
from tools.__main__ import PREFIX, main

ROOT = Path(__file__).resolve().parents[2]
TOOLS = {cls.command.removeprefix(PREFIX): cls for cls in command_configs() if cls.command.startswith(PREFIX)}
HEAVY = ("torch", "numpy", "pandas", "PIL", "tqdm")


def test_every_command_has_a_module_and_every_module_a_command():
    files = {path.stem for path in (ROOT / "tools").glob("[a-z]*.py")}
    assert files == set(TOOLS)


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_commands_are_listed_with_a_line_each(words, capsys):
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, cls in TOOLS.items():
        assert sum(line.split() == [name, *cls.__doc__.split()] for line in lines) == 1


@pytest.mark.parametrize(
    ("name", "hint"),
    [("chek_data", " Did you mean 'check_data'?"), ("show-view", " Did you mean 'show_views'?"), ("xyz", "")],
)
def test_an_unknown_name_exits_with_code_2_and_the_nearest_name(name, hint, capsys):
    assert main([name]) == 2
    assert capsys.readouterr().err == f"python -m tools: there is no command {name}.{hint} --help lists them.\n"


@pytest.mark.parametrize("name", ["score-submission", "score_submission.py"])
def test_other_spellings_of_a_name(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([name, "--submision", "a.csv"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("python -m tools score_submission: there is no option --submision.")


# Prints the exit code of --help and the libraries that it imported.
CHILD = f"""
import sys
from tools.__main__ import main
try:
    main([sys.argv[1], "--help"])
except SystemExit as stop:
    print("code", stop.code, *sorted(set({HEAVY}) & set(sys.modules)))
"""


@pytest.mark.parametrize("name", TOOLS)
def test_help_imports_no_large_library(name):
    child = subprocess.run([sys.executable, "-c", CHILD, name], cwd=ROOT, capture_output=True, text=True, check=True)
    assert child.stdout.splitlines()[-1] == "code 0"
