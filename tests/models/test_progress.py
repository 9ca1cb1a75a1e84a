"""Progress: what is long is told on standard error, where somebody sees it, once, and can be turned off."""

import sys
import threading
import time
from collections.abc import Iterator
from types import ModuleType

import pytest

import lensdiff
from lensdiff.inputs.toy_pair import BASE, TUNED
from lensdiff.models import load_model, load_pair, progress, view_of
from lensdiff.models.progress import bar, show_progress, tracked, unseen
from lensdiff.pipeline.listener import Silent, Watched, watched


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    yield
    show_progress(None)
    assert progress._shown.bars == []
    assert progress._shown.unseen == 0
    assert not [thread for thread in threading.enumerate() if thread.name.endswith("(_tick)")]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody sees standard error, and nobody waits."""
    monkeypatch.setattr(progress, "is_watched", lambda: True)
    monkeypatch.setattr(progress, "PATIENCE", 0.0)


def told(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    assert not out, "progress is no output"
    return err


def test_nothing_is_shown_where_nobody_looks(capsys) -> None:
    assert not progress.is_watched(), "the tests' own standard error is a file"
    with bar("working", 3) as advance:
        advance(1)
    assert list(tracked(range(3), "counting")) == [0, 1, 2]
    assert not told(capsys)


def test_a_terminal_and_a_notebook_are_watched(monkeypatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert progress.is_watched()
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "ipykernel.zmqshell", ModuleType("ipykernel.zmqshell"))
    assert progress.is_watched()
    monkeypatch.undo()
    monkeypatch.setattr(sys, "stderr", None)  # a program without a console
    assert not progress.is_watched()


def test_a_bar_counts_and_is_gone_at_the_end(seen, capsys) -> None:
    with bar("working", 3) as advance:
        advance(1)
        time.sleep(0.15)  # between two pictures of it
        advance(1)
        said = told(capsys)
    assert "working" in said
    assert "2/3" in said
    assert "\r" in told(capsys), "it is wiped out"
    assert list(tracked([4, 5], "counting")) == [4, 5]
    assert "counting" in told(capsys)


def test_what_is_short_is_not_shown(capsys, monkeypatch) -> None:
    monkeypatch.setattr(progress, "is_watched", lambda: True)
    with bar("working", 2) as advance:
        advance(2)
    assert not told(capsys)
    monkeypatch.setattr(progress, "PATIENCE", 0.2)
    with bar("one long step"):
        time.sleep(0.6)  # nothing moves it on
        said = told(capsys)
    assert "one long step [00:00" in said


def test_the_user_decides(capsys, monkeypatch) -> None:
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    lensdiff.show_progress(True)
    with bar("working", 1):
        pass
    assert "working" in told(capsys)
    monkeypatch.setattr(progress, "is_watched", lambda: True)
    lensdiff.show_progress(False)
    with bar("working", 1):
        pass
    assert not told(capsys)
    with bar("working", 1, progress=True):
        pass
    assert "working" in told(capsys), "a call's own word is the last"
    lensdiff.show_progress()
    with bar("working", 1, progress=False):
        pass
    assert not told(capsys)


def test_work_within_work_is_told_at_its_bar(seen, capsys) -> None:
    with bar("reading", 2) as advance:
        for item in tracked([1, 2], "training"):
            time.sleep(0.15)
            advance(item - 1)
        said = told(capsys)
    assert "reading" in said
    assert "training 1/2" in said
    assert len(progress._shown.bars) == 0


def test_a_bar_ends_with_an_error(seen, capsys) -> None:
    with pytest.raises(ValueError, match="broken"), bar("working", 2):
        raise ValueError("broken")
    with bar("after", 1):
        pass
    assert "after" in told(capsys)


def test_a_run_tells_of_itself_alone(seen, capsys) -> None:
    with unseen(), bar("working", 2) as advance:
        advance(1)
    assert not told(capsys)
    with watched() as listener, unseen():
        assert isinstance(listener, Watched)
        listener.begin("first", 2, 1)
        with bar("within", 2):
            pass
        listener.advance("first", "a")
        listener.end("first", 1.0)
        listener.begin("second", 3, 0)
        time.sleep(0.15)
        listener.advance("second", "b")
    said = told(capsys)
    assert "second" in said
    assert "3/5" in said
    assert "within" not in said
    show_progress(False)
    with watched() as listener:
        assert isinstance(listener, Silent)
        assert not isinstance(listener, Watched)


def test_loading_and_the_first_use_of_a_control_are_told(seen, capsys) -> None:
    pair = load_pair(BASE, TUNED, device="cpu")
    said = told(capsys)
    assert f"loading {str(BASE)[-60:]}" in said
    assert f"loading {str(TUNED)[-60:]}" in said
    control = pair.control("norm", 0)
    assert not told(capsys), "nothing is made before it is used"
    _ = view_of(control).model
    assert f"making {control.info.id}" in told(capsys)
    trained = pair.control("distilled", 0, steps=2, batch=1, length=4, cache=None)
    _ = trained.weights.W_E
    assert "training a distilled control" in told(capsys)
    noise = pair.control("gradient-noise", 0, cache=None)
    _ = noise.weights.attention(0).W_Q
    assert "collecting gradients for a control" in told(capsys)


@pytest.mark.parametrize("name", ["weight_shift", "value_rotation", "head_word_pairs", "ov_reading", "mlp_concepts"])
def test_what_reads_weights_is_told(name, seen, capsys) -> None:
    show_progress(False)
    pair = load_pair(BASE, TUNED, device="cpu")
    show_progress(None)
    words = lensdiff.Vocabulary.of(lensdiff.Vocabulary.default().words[:30])
    calls = {
        "head_word_pairs": lambda: lensdiff.head_word_pairs(pair.base, words, top_k=3),
        "ov_reading": lambda: lensdiff.ov_reading(pair.base, words),
        "mlp_concepts": lambda: lensdiff.mlp_concepts(pair.base, words, n_components=2),
    }
    calls.get(name, lambda: getattr(lensdiff, name)(pair))()
    assert told(capsys).strip()


def test_a_model_in_memory_is_not_loaded(seen, capsys) -> None:
    model = load_model(BASE, device="cpu")
    told(capsys)
    assert load_model(model) is model
    assert not told(capsys)
