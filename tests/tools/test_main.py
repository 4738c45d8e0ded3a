"""python -m tools: the list of commands, wrong names, and exit codes."""

from pathlib import Path

import pytest

from config import command_configs
from tools.__main__ import PREFIX, main

ROOT = Path(__file__).resolve().parents[2]
TOOLS = {cls.command.removeprefix(PREFIX): cls for cls in command_configs() if cls.command.startswith(PREFIX)}


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
