"""Command lines: options, checks, errors and signals."""

import sys
from importlib.util import find_spec

# Here, since all commands import this package first.
_MISSING = [name for name in ("numpy", "pandas", "PIL", "torch", "torchvision", "tqdm") if find_spec(name) is None]
if _MISSING:
    sys.exit(
        f"{sys.executable} has no {', '.join(_MISSING)}. Activate the environment in which you installed them, or run: "
        f"{sys.executable} -m pip install -r requirements.txt"
    )
