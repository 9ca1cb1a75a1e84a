"""Which attention is cut, worked out by hand."""

import pytest
import torch

from lensdiff.analyses.knock_out.cuts import chosen_windows, cut_mask, cut_scores, drawn, sweep
from lensdiff.results import InputError


def cut_places(keys: list[int], last: int, n: int, cut: str) -> set[tuple[int, int]]:
    mask = torch.zeros(n, dtype=torch.bool)
    mask[keys] = True
    return {(q, k) for q, k in cut_mask(mask, last, cut).nonzero().tolist()}


def test_the_responses_queries_are_cut_and_those_behind_the_instruction():
    # sink, two tokens of the instruction, one other, the prompt's last; two of the response
    response = {(q, k) for q in (4, 5, 6) for k in (1, 2)}
    assert cut_places([1, 2], 4, 7, "response") == response
    assert cut_places([1, 2], 4, 7, "after") == response | {(3, 1), (3, 2)}


def test_a_query_keeps_itself_but_for_the_prompts_last():
    assert cut_places([1, 3], 3, 5, "response") == {(3, 1), (3, 3), (4, 1), (4, 3)}
    # the token between is no part of it; the instruction's own tokens go on reading each other
    assert cut_places([1, 3], 3, 5, "after") == {(2, 1), (3, 1), (3, 3), (4, 1), (4, 3)}


def test_scores_are_hidden_where_they_are_cut_and_nowhere_else():
    scores = torch.arange(9.0).reshape(1, 1, 3, 3)
    cut = torch.tensor([[[False, False, False], [True, False, False], [False, True, False]]])
    found = cut_scores(scores, cut, torch.tensor([1]))
    assert found[0, 0].tolist() == [[0, 1, 2], [-torch.inf, 4, 5], [6, -torch.inf, 8]]
    assert torch.equal(cut_scores(scores, torch.zeros_like(cut), torch.tensor([1])), scores)


@pytest.mark.parametrize("hidden", [-torch.inf, torch.finfo(torch.float32).min])
def test_a_query_with_nothing_left_sees_itself(hidden):
    scores = torch.tensor([[1.0, hidden, hidden], [2.0, 3.0, hidden], [4.0, 5.0, 6.0]]).reshape(1, 1, 3, 3)
    cut = torch.tensor([[[False, False, False], [True, True, False], [False, True, False]]])
    found = cut_scores(scores, cut, torch.tensor([1]))[0, 0].softmax(dim=-1)
    assert found[1].tolist() == [0, 1, 0]
    assert not found.isnan().any()


@pytest.mark.parametrize(
    ("n_layers", "windows"),
    [
        (1, ((0, 0),)),
        (4, ((0, 0), (1, 1), (2, 2), (3, 3))),
        (6, tuple((i, i) for i in range(6))),
        (12, ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9), (10, 11))),
        (32, ((0, 4), (5, 10), (11, 15), (16, 20), (21, 26), (27, 31))),
    ],
)
def test_windows_are_a_sixth_of_the_layers_and_hold_each_once(n_layers, windows):
    assert sweep(n_layers) == windows == chosen_windows("windows", n_layers)
    assert [layer for first, last in windows for layer in range(first, last + 1)] == list(range(n_layers))


def test_layers_are_one_window():
    assert chosen_windows(None, 4) == ((0, 3),)
    assert chosen_windows([2, 1], 4) == ((1, 2),)
    for layers, message in [
        ([0, 2], r"layers=\[0, 2\] has gaps, expected a window of consecutive layers, or 'windows'"),
        ([], r"layers=\[\] given, expected at least one of 0 to 3, each once"),
        ([4], r"layers=\[4\] given, expected at least one of 0 to 3"),
        ([1, 1], r"layers=\[1, 1\] given, .* each once"),
        ("sweep", r"layers='sweep' given, expected None, a list of layers or 'windows'"),
    ]:
        with pytest.raises(InputError, match=message):
            chosen_windows(layers, 4)


def test_draws_are_seeded_sets_of_other_tokens():
    others = [1, 4, 5, 8, 9]
    found = drawn(others, 3, draws=20, seed="0 a")
    assert found == drawn(others, 3, draws=20, seed="0 a") != drawn(others, 3, draws=20, seed="1 a")
    assert len(found) == 20
    assert all(len(set(one)) == 3 and set(one) <= set(others) and list(one) == sorted(one) for one in found)
    assert set.union(*map(set, found)) == set(others)
    assert drawn(others, 5, draws=2, seed="") == [tuple(others)] * 2
    assert drawn(others, 6, draws=2, seed="") == []
