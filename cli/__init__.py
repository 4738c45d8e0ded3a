"""Command lines: options, checks, errors and signals."""

import sys
from importlib.util import find_spec

# Here, since all commands import this package first.
_NEEDED = ("numpy", "pandas", "scipy", "sklearn", "PIL", "torch", "torchvision", "tqdm", "filelock")
_MISSING = [name for name in _NEEDED if find_spec(name) is None]
if _MISSING:
    sys.exit(
        f"{sys.executable} has no {', '.join(_MISSING)}. Activate the environment in which you installed them, or run: "
        f"{sys.executable} -m pip install -r requirements.txt"
    )
