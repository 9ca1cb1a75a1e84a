"""The bar in a real kernel: it appears, moves and is gone, and a saved notebook holds nothing of it."""

from typing import Any

import nbformat
import pytest

CELL = """
import time
from lensdiff.models import progress
progress.PATIENCE = 0.2
with progress.bar("counting", 3) as advance:
    for _ in range(3):
        time.sleep(0.3)
        advance(1)
with progress.bar("one long step"):
    time.sleep(0.7)  # nothing moves it on but its own thread
with progress.bar("short", 2) as advance:
    advance(2)
with progress.steps_bar() as steps:
    steps.begin("a step", 2, 0)
    steps.within("layers", 3, 5)
    time.sleep(0.5)
    steps.advance(1)
    time.sleep(1.3)
print("done")
"""


@pytest.fixture(scope="module")
def ran() -> tuple[list[str], Any]:
    """What was displayed, in order, and the cell as it is saved."""
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    client = nbclient.NotebookClient(book, timeout=240, kernel_name="python3")
    told: list[str] = []
    take = client.process_message

    def watch(message: Any, *more: Any, **named: Any) -> Any:
        if message["msg_type"] in ("display_data", "update_display_data"):
            told.append(message["content"]["data"]["text/plain"])
        return take(message, *more, **named)

    client.process_message = watch
    client.execute()
    return told, book.cells[0]


def test_a_bar_appears_and_moves(ran):
    told = ran[0]
    assert any("counting" in text and "2/3" in text for text in told)
    assert any(text.startswith("one long step [00:0") for text in told)
    assert any("a step" in text and "layers 3/5" in text for text in told)
    assert any("a step" in text and "1/2" in text and "layers" not in text for text in told)
    assert not any("short" in text for text in told)


def test_nothing_of_it_is_saved(ran):
    outputs = ran[1].outputs
    assert [one.text for one in outputs if one.output_type == "stream"] == ["done\n"]
    left = [one.data for one in outputs if one.output_type != "stream"]
    assert left == [{"text/plain": ""}] * 3, "a line for each bar that was shown, and it is empty"
