"""Where lensdiff keeps, between runs, what it can always make again."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return lensdiff's folder of the user's cache, by XDG_CACHE_HOME or in ~/.cache; it need not exist."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path("~/.cache").expanduser()) / "lensdiff"
