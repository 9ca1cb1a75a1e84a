"""Views of heads as data and text: the numbers are the results', the words are theirs, nothing is HTML."""

import json

import numpy as np
import pytest

from lensdiff.analyses.heads.section import head_section
from lensdiff.analyses.heads.view_verbs import facts
from lensdiff.results import Diff, ResultStore
from lensdiff.steps.found import Found
from lensdiff.steps.unit import WHOLE, Unit
from lensdiff.views import show
from lensdiff.views.section import Table
from lensdiff.views.widget import Widget
from tests.analyses.heads.results import PLAIN, drawn, head_pairs, overlap, reading, run, scores, verbs
from tests.directories import put
from tests.views.hostile import HOSTILE
from tests.views.pages import embedded, given

CHANGED = 5  # layer 1, head 2


def named(widget, side, head):
    """The blocks of a head: (title, lists of words or (query, key) or (query, key, count))."""
    words = given(widget)["words"]
    return [
        (title, [[[words[i] for i in item[:2]] + item[2:] for item in items] for items in lists])
        for title, lists in given(widget)["sides"][side]["heads"][head]
    ]


def test_the_map_of_changes():
    result = overlap()
    widget = show(result)
    frame = result.to_df()
    np.testing.assert_allclose(given(widget)["values"], 1 - frame.jaccard, atol=1e-3)
    assert (given(widget)["layers"], given(widget)["heads"]) == ([0, 1], [0, 1, 2])
    assert given(widget)["marked"] == [False] * 5 + [True]
    gained, lost = (named(widget, side, CHANGED) for side in (0, 1))
    # (key, query) pairs (sea, write) in two dimensions and (tell, story) came, (sea, moon) went
    assert gained == [("all 2", [[["write", "sea", 2], ["story", "tell", 1]]])]
    assert lost == [("all 1", [[["moon", "sea", 1]]])]
    assert named(widget, 0, 0) == [("all 0", [[]])]
    line = given(widget)["lines"][CHANGED]
    assert line.startswith("Jaccard 0.250: 2 pairs gained, 1 lost, 1 kept. Controls: Jaccard 0.800 to 1.000")
    assert line.endswith("changed more than a meaningless change")
    assert "no more than" in given(widget)["lines"][0]
    assert [side["role"] for side in given(widget)["sides"]] == ["tuned", "base"]
    assert any("A filled corner marks" in note for note in given(widget)["notes"])
    # 18 of 19 controls did not change, the last as far as the tuned model
    assert given(widget)["notes"][0] == f"Whole model, mean Jaccard of all heads: {result.whole}."
    assert "(19 given), p = 0.1" in given(widget)["notes"][0]


def test_without_controls_the_map_says_so():
    widget = show(overlap(controls=False))
    assert given(widget)["marked"] == [False] * 6
    assert "Controls" not in given(widget)["lines"][CHANGED]
    assert given(widget)["notes"][0].startswith("Too few control models to tell how much a meaningless change")


def test_word_pairs_of_one_model_and_of_both():
    one = show(head_pairs())
    assert [side["role"] for side in given(one)["sides"]] == ["control"]
    assert named(one, 0, 0)[0] == (
        "dimension 0, 50% of the energy, 2 pairs",
        [[["moon", "sea"], ["poem", "write"]]],
    )
    assert given(one)["values"][CHANGED] == 1.0  # as many pairs as any
    both = show(Diff(head_pairs(), head_pairs(swap=True)))
    assert [side["role"] for side in given(both)["sides"]] == ["base", "tuned"]
    assert named(both, 0, CHANGED) == named(one, 0, CHANGED)
    assert named(both, 1, CHANGED)[1] == (
        "dimension 1, 50% of the energy, 2 pairs",
        [[["poem", "write"], ["write", "sea"]]],
    )
    np.testing.assert_allclose(given(both)["values"], [3 / 5] * 5 + [1.0])


def test_ov_components_of_one_model_and_of_both():
    base, tuned = reading(), reading(shift=1)
    one = show(base)
    assert given(one)["values"] == [0.5] * 6
    title, (reads, writes) = named(one, 0, 2)[1]
    assert title == "component 0 (50% of W_OV), pole −: reads, writes"
    assert [word for (word,) in reads] == list(base.words_of(0, 2, 0, "read", -1))
    assert [word for (word,) in writes] == list(base.words_of(0, 2, 0, "write", -1))
    both = show(Diff(base, tuned))
    assert given(both)["values"][:5] == [0.0] * 5
    assert given(both)["values"][CHANGED] > 0
    assert named(both, 0, CHANGED) != named(both, 1, CHANGED)
    assert "100% of the listed words" in given(both)["lines"][0]


def test_query_key_scores():
    widget = show(scores())
    np.testing.assert_allclose(given(widget)["values"], np.mean([0.9, 0.8, 0.5, 0.7, 0.1, 0.2]), atol=1e-3)
    (_, (near,)), (_, (far,)) = named(widget, 0, 0)
    assert near == far == [["story", "write"], ["tell", "moon"], ["poem", "sea"]]
    assert any("'<s>'" in note for note in given(widget)["notes"])


def test_verbs_by_group():
    result = verbs()
    widget = show(result)
    assert [group["name"] for group in given(widget)["groups"]] == ["0-1", "2-2", "all"]
    for i, group in enumerate(given(widget)["groups"][:2]):
        frame = result.to_df()
        frame = frame[(frame.group == group["name"]) & (frame.kind == "instruction")].set_index("verb")
        assert len(group["verbs"]) == 8
        for verb, up, down, share, base in group["verbs"]:
            row = frame.loc[verb]
            assert (up, down, base) == (row.heads_up, row.heads_down, row.base_count)
            assert share == pytest.approx(row.share)
        order = [up - down for _, up, down, *_ in group["verbs"]]
        assert order == sorted(order, reverse=True)
        assert dict(group["facts"])["The paper's test"] == str(result.groups[i].paper_test)
    whole = dict(given(widget)["groups"][-1]["facts"])
    assert whole["Matched on base counts"].endswith(f"difference {result.whole.difference:+.3f}")
    assert whole["Control models' difference"].endswith("outside it")
    beside = f"Whole model, rise of instruction verbs beyond verbs like them (mean sign): {result.beside()}."
    assert given(widget)["notes"][0] == beside
    assert "(19 given), p = 0.05" in beside
    assert "The paper&#39;s test" in widget.fallback


def test_few_control_models_are_said_to_be_few():
    result = verbs(controls=18)
    notes = given(show(result))["notes"]
    assert notes[0].endswith("too few controls to tell (18 given; 19 of each kind are needed).")
    told = dict(facts(result.whole, n_controls=len(result.provenance.controls)))
    assert told["Control models' difference"] == "too few of 18 control models are testable"


def test_facts_of_a_group_that_cannot_be_tested():
    result = verbs(controls=0)
    assert not any("Whole model" in note for note in given(show(result))["notes"])
    same = facts(result.whole, n_controls=0)
    assert ("Control models' difference", "no control models") in same
    none = run(drawn(0), drawn(0)).whole
    told = dict(facts(none, n_controls=0))
    assert told["Instruction verbs"] == "none differs in any head"
    assert told["The paper's test"] == "too few verbs"
    assert told["Verdict"].startswith("not testable: 0 of 8 verbs")


@pytest.mark.parametrize("make", [overlap, head_pairs, reading, scores], ids=lambda make: make.__name__)
def test_hostile_words_stay_text(make):
    words = tuple(HOSTILE[:9])
    widget = show(make(words))
    page = widget.html()
    assert set(given(widget)["words"]) <= set(words)
    assert embedded(page) == [given(widget)]
    for word in HOSTILE[:5]:
        assert word not in widget.fallback
        assert word not in page


def test_the_section_shows_what_is_there(tmp_path):
    store = ResultStore(tmp_path)
    with store.writing():
        assert head_section(Found(store)) == []
        put(store, "pair_overlap", WHOLE, overlap())
        store.save_table("pair_overlap", overlap().to_df())
        put(store, "ov_reading", Unit("base"), reading())
        parts = head_section(Found(store))
        assert [type(part) for part in parts] == [Widget, Table]
        put(store, "verb_shift", WHOLE, verbs())
        put(store, "ov_reading", Unit("tuned"), reading(shift=1))
        store.save_table("heads", head_pairs().table(3).astype({"key_word": str, "query_word": str}))
        parts = head_section(Found(store))
    assert [part.view for part in parts if isinstance(part, Widget)] == ["heads", "verbs", "heads"]
    assert "tables/heads.parquet" in str(parts[-1])
    assert isinstance(parts[0], Widget)
    assert PLAIN[0] in json.dumps(given(parts[0]))
