"""The rules of the code that a reader cannot see in one place: layout, direction of imports, sizes, and words."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOP_LEVEL = {
    *("train.py", "submit_singular.py", "submit_ensemble.py", "model.py", "dataset.py", "augmentation.py", "loss.py"),
    *("optim.py", "utils.py", "config.py", "tests", "requirements.txt", "README.md"),
    *("cli", "data", "backbones", "storage", "analysis", "training", "inference", "tools"),
    *("docs", "benchmarks", ".ci", "pyproject.toml", "requirements-dev.txt", "LICENSE", "CHANGELOG.md", ".gitignore"),
}
# A module may import modules of its own level and of earlier ones.
LEVELS = (
    ("utils", "loss", "optim"),
    ("data",),
    ("cli",),
    ("dataset", "backbones"),
    ("config", "augmentation", "model"),
    ("storage",),
    ("analysis",),
    ("training",),
    ("inference",),
    ("train", "submit_singular", "submit_ensemble", "tools"),
)
LEVEL = {name: number for number, names in enumerate(LEVELS) for name in names}
WITHOUT_TORCH = ("utils", "config", "train", "submit_singular", "submit_ensemble", "data", "cli", "tools")
FILE_LINES, FUNCTION_LINES, README_LINES, CONFIG_LINES = 450, 60, 200, 350
# Words that the style guide replaces: docs/architecture.md has the list with what to write instead.
BANNED = (
    *(r"\banew\b", r"\b(?:told|tells)\b", r"\bbeside\b", r"\bput right\b", r"\bso many\b", r"\bamiss\b", r"\bheed"),
    *(r"\bwhoever\b", r"(?<!there )\b(?:is|are) no\b(?! longer| more\b| less\b)", r"\bas people\b"),
    *(r"\bto be looked at\b", r"\bgoes on\b", r"\bjudged\b", r"\bphotographs? (?:that|which) (?:is|are) no\b"),
)
BANNED_NAMES = ("Asked", "together", "some", "judged", "heed", "amiss", "Drawn", "is_enough")


def tracked(*endings: str) -> list[Path]:
    """Return the tracked files with one of these endings."""
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [ROOT / name for name in names if name.endswith(endings) and (ROOT / name).is_file()]


def code(*folders: str) -> list[Path]:
    """Return the Python files outside tests/, or in the given top-level folders."""
    tops = {path: path.relative_to(ROOT).parts[0] for path in tracked(".py")}
    return [path for path, top in tops.items() if (top in folders if folders else top != "tests")]


def name_of(path: Path) -> str:
    """Return a path relative to the root, with slashes."""
    return path.relative_to(ROOT).as_posix()


def test_the_top_level_is_the_users():
    assert {path.relative_to(ROOT).parts[0] for path in tracked("")} <= TOP_LEVEL


@pytest.mark.parametrize("path", [path for path in code() if "benchmarks" not in path.parts], ids=name_of)
def test_imports_point_one_way(path):
    own = LEVEL[name_of(path).removesuffix(".py").split("/")[0]]
    for node in ast.walk(ast.parse(path.read_text())):
        modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        later = [module for module in modules if LEVEL.get(module.split(".")[0], -1) > own]
        assert not later, f"{name_of(path)}:{node.lineno} imports {later[0]}"


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_the_command_line_imports_no_torch(name):
    files = [path for path in code(name, f"{name}.py") if "portrait" not in path.parts]
    modules = [name_of(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path in files]
    assert modules
    words = f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", words], cwd=ROOT, check=False).returncode == 0


def test_files_have_one_subject_and_functions_fit_a_screen():
    for path in code():
        text = path.read_text()
        assert len(text.splitlines()) <= FILE_LINES, path
        for node in ast.walk(ast.parse(text)):
            long = isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= FUNCTION_LINES
            assert not long, f"{path}: {node.name}"


@pytest.mark.parametrize(("name", "most"), [("README.md", README_LINES), ("config.py", CONFIG_LINES)])
def test_pages_for_users_stay_short(name, most):
    assert len((ROOT / name).read_text().splitlines()) <= most


def test_public_functions_have_docstrings():
    for path in code():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{path}: {node.name}"


@pytest.mark.parametrize("path", tracked(".py", ".md", ".html"), ids=name_of)
def test_plain_english(path):
    if path == Path(__file__) or name_of(path) == "docs/architecture.md":  # they list the words
        return
    text = path.read_text()
    found = [
        f"line {number}: {match[0]}"
        for number, line in enumerate(text.splitlines(), 1)
        for match in re.finditer("|".join(BANNED), line, re.IGNORECASE)
    ]
    if path.suffix == ".py":
        names = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
        found += [name for name in BANNED_NAMES if name in names]
    assert not found
