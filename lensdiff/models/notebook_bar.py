"""A bar in a notebook: one line that is shown, changed and emptied, so that none of it stays in a saved notebook."""

import io
from importlib import import_module
from typing import Any

from tqdm.std import tqdm

COLUMNS = 100  # characters of the line


class NotebookBar(tqdm):
    """A bar of tqdm's that is displayed by the kernel, as text, and needs no widgets."""

    def __init__(self, **options: Any):
        self._shown: Any = None
        super().__init__(**options, file=io.StringIO(), ncols=COLUMNS)

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Show the bar, or a text in its place; an empty one before anything was shown shows nothing."""
        text = str(self) if msg is None else msg
        if self._shown is not None:
            self._shown.update({"text/plain": text}, raw=True)
        elif text:
            show = import_module("IPython.display").display  # of the kernel that is at work, and no dependency
            self._shown = show({"text/plain": text}, raw=True, display_id=True)
        return True
