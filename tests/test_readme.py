"""The README says what the code does: option tables, commands, the layout of the code, and what to add where."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import config
from cli import options

ROOT = Path(config.__file__).parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONFIGS = {cls.command: cls for cls in config.command_configs()}
BLOCKS = [block.replace("\\\n", " ") for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)]
COMMANDS = [
    part.strip() for block in BLOCKS for line in block.splitlines() for part in line.split("&&") if part.strip()
]


@pytest.mark.parametrize("cls", CONFIGS.values(), ids=list(CONFIGS))
def test_option_tables_are_those_of_the_code(cls):
    assert f"### {cls.command}\n\n{options.options_table(cls)}\n" in README


@pytest.mark.parametrize("name", config.PRESETS)
def test_presets_are_those_of_the_code(name):
    assert f"\n--preset {name}: {options.preset_words(name)}\n" in README


@pytest.mark.parametrize("command", [c for c in COMMANDS if re.match(r"python \w+\.py", c)])
def test_commands_are_accepted_as_they_stand(command):
    script, *words = shlex.split(command)[1:]
    assert (ROOT / script).is_file()
    options.parse_config(CONFIGS[script], words)


def test_every_script_has_its_table():
    scripts = {
        path.name for path in ROOT.glob("*.py") if "parse_config(" in path.read_text() and path.name != "config.py"
    }
    assert scripts == set(CONFIGS)


def test_ci_installs_and_tests_as_the_readme_says():
    ci = (ROOT / ".ci" / "run").read_text()
    assert "pip install -r requirements-dev.txt && python -m pytest" in README
    assert "pip install -q -r requirements.txt" in ci
    assert re.search(r"^pip install -r requirements-dev.txt && python -m pytest$", ci, re.MULTILINE)


def test_imports_point_down_the_list_of_rooms():
    section = README[README.index("## The code") :]
    rows = re.findall(r"^\| ([\w./, ]+?) \| ", section, re.MULTILINE)
    rooms = [[name.strip(" /").removesuffix(".py") for name in row.split(",")] for row in rows if row != "file"]
    height = {name: k for k, names in enumerate(rooms) for name in names}
    files = {path.stem: [path] for path in ROOT.glob("*.py")} | {"portrait": sorted((ROOT / "portrait").glob("*.py"))}
    assert set(files) == set(height)
    for name, paths in files.items():
        for imported in {module for path in paths for module in imports_of(path)} & set(files) - {name}:
            same = height[imported] == height[name] and {imported, name} in ({"config", "tasks"},)
            assert height[imported] > height[name] or same, f"{name} imports {imported}"


def imports_of(path: Path) -> set[str]:
    """The top-level names of the modules that a file imports."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    direct = {alias.name.split(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return direct | {node.module.split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom) and node.module}


def test_a_network_a_transform_and_a_loss_are_added_as_the_readme_says(small_data, tiny_training, tmp_path):
    """The lines of the README, put into a copy of the toolkit, train with all three."""
    for path in [*ROOT.glob("*.py"), ROOT / "portrait"]:
        (shutil.copytree if path.is_dir() else shutil.copy)(path, tmp_path / path.name)
    for title, file, table, names_file, names in (
        ("network", "model.py", "MODELS = {", "config.py", "MODELS = {"),
        ("transform", "augmentation.py", "TRANSFORMS = {", "config.py", "TRANSFORMS = ("),
        ("loss", "loss.py", "LOSSES = {", "tasks.py", "CLASSIFICATION_LOSSES = ("),
    ):
        block = re.search(rf"\*\*Adding a {title}\*\*.*?```python\n(.*?)```", README, re.DOTALL)[1]
        definition, in_table, in_names = (line.split("  #")[0].strip() for line in block.strip().splitlines())
        insert(tmp_path / file, f"\n{table}", f"\n{definition}\n\n{table}\n    {in_table}")
        insert(tmp_path / names_file, f"\n{names}", f"\n{names}\n    {in_names}\n")
    options = ("--train-root", small_data.train_root, "--save-path", tmp_path / "models")
    added = (
        "--model-type",
        "tinyhead",
        "--backbone",
        "resnet18",
        "--transform-type",
        "plain",
        "--loss-type",
        "polyloss",
    )
    command = [sys.executable, tmp_path / "train.py", *tiny_training, *options, *added]
    outcome = subprocess.run([str(word) for word in command], capture_output=True, text=True, cwd=tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    assert list((tmp_path / "models" / "main" / "single-TinyHead" / "fold00").glob("*.pt"))


def insert(path: Path, place: str, text: str) -> None:
    """Replace the only occurrence of `place` in a file."""
    content = path.read_text()
    assert content.count(place) == 1, (path, place)
    path.write_text(content.replace(place, text))
