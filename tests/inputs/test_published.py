import os
import pickle
import time
from collections import OrderedDict

import numpy as np
import pytest
import torch

from lensdiff.inputs import Prompt, load_published
from lensdiff.inputs.published import ReleasedAttribution, read_pickle, set_of
from lensdiff.results import InputError
from tests.inputs.released import PIECES, REAL, levels, write_attribution, write_clone

PAIR_HEADER = "Model\tSize\tLayer\tType\tHead\tDim\tRank\tScore\tTopK\n"
CONCEPT_HEADER = "Model\tSize\tLayer\tType\tHead\tRank\tScore\tTopK\n"

needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="the authors' released material is not beside the project")


# ---- pickles ----


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function, *args) -> None:
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"Explain": [(x,)]}], ids=["bare", "nested"])
def test_a_malicious_pickle_runs_nothing(tmp_path, protocol: int, wrap) -> None:
    marker = tmp_path / "ran"
    attacks = {
        f"{os.name}.system": Calls(os.system, f"touch {marker}"),
        r"(__builtin__|builtins).eval": Calls(eval, f"open({str(marker)!r}, 'w')"),
        r"(__builtin__|builtins).getattr": Calls(getattr, Calls(__import__, "os"), "system"),
        r"numpy.fromfile|numpy\S*.fromfile": Calls(np.fromfile, str(tmp_path / "p.pkl")),
        "collections.OrderedDict": OrderedDict(a=1),
        r"copyreg?\._reconstructor|numpy": np.random.default_rng(0),
    }
    for number, (name, attack) in enumerate(attacks.items()):
        path = tmp_path / f"{number}.pkl"
        path.write_bytes(pickle.dumps(wrap(attack), protocol=protocol))
        with pytest.raises(InputError, match=rf"{number}\.pkl asks for ({name}).*, expected numeric arrays and plain"):
            read_pickle(path)
    assert not marker.exists()
    pickle.loads((tmp_path / "0.pkl").read_bytes())  # the file is as dangerous as it should be
    assert marker.exists()


def test_a_call_within_an_array_s_state_runs_nothing(tmp_path) -> None:
    marker, path = tmp_path / "ran", tmp_path / "p.pkl"
    rebuild, arguments, state = np.zeros(2, np.float32).__reduce__()
    path.write_bytes(pickle.dumps(Calls(rebuild, *arguments[:2], Calls(os.system, f"touch {marker}"))))
    with pytest.raises(InputError, match="asks for posix.system" if os.name == "posix" else "asks for"):
        read_pickle(path)
    assert not marker.exists()
    assert state[0] == 1


def test_arrays_of_objects_are_refused(tmp_path) -> None:
    path = tmp_path / "p.pkl"
    for array, code in ((np.array([{}], dtype=object), "O8"), (np.array(["a"]), "U1"), (np.zeros(1, "f4,i4"), "V8")):
        path.write_bytes(pickle.dumps(array, protocol=4))
        with pytest.raises(InputError, match=f"p.pkl holds an array of type '{code}', expected numbers"):
            read_pickle(path)


@pytest.mark.parametrize("target", [b"numpy.core.multiarray\n_reconstruct", b"numpy\ndtype", b"numpy\nndarray"])
def test_one_file_cannot_tamper_with_the_next(tmp_path, target: bytes) -> None:
    bad, good = tmp_path / "bad.pkl", tmp_path / "good.pkl"
    good.write_bytes(pickle.dumps(np.arange(3), protocol=4))
    attributes = b"}X\x0c\x00\x00\x00__defaults__K\x07\x85sX\x0c\x00\x00\x00__setstate__Ns"[1:]
    bad.write_bytes(b"\x80\x02c" + target + b"\nN}" + attributes + b"\x86b.")  # sets them on what the name stands for
    with pytest.raises(
        InputError, match=r"bad\.pkl is not a readable pickle \('\w+' object has no attribute '__defaults__'"
    ):
        read_pickle(bad)
    assert read_pickle(good).array.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(4, dtype=">i4"),
        np.array([[True], [False]]),
        np.zeros((3, 0), np.int64),
        np.array(2.5, np.float16),
    ],
    ids=str,
)
@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("module", [b"numpy._core", b"numpy.core"])
def test_numeric_arrays_come_back_as_they_were(tmp_path, array: np.ndarray, protocol: int, module: bytes) -> None:
    path = tmp_path / "p.pkl"
    stored = pickle.dumps({"a": [array], "s": array.dtype.type(1)}, protocol=protocol)
    if protocol == 3:  # names are plain lines there
        stored = stored.replace(b"cnumpy._core.", b"c" + module + b".")
    path.write_bytes(stored)
    read = read_pickle(path)
    np.testing.assert_array_equal(read["a"][0].array, array, strict=False)
    assert read["a"][0].array.dtype == array.dtype
    assert read["s"] == 1


def test_plain_containers_come_back(tmp_path) -> None:
    path = tmp_path / "p.pkl"
    value = {"a": [1, 2.5, None, True, "ü", b"x"], "b": ({"c"}, frozenset({1}))}
    path.write_bytes(pickle.dumps(value, protocol=4))
    assert read_pickle(path) == value


def test_damaged_pickles_are_refused(tmp_path) -> None:
    path = tmp_path / "p.pkl"
    whole = pickle.dumps(np.arange(1000), protocol=4)
    for content in (b"", b"hello", whole[:-100], b"\x80\x04r\xff\xff\xff\xff.", b"\x80\x04P1\n."):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"p\.pkl is not a readable pickle"):
            read_pickle(path)
    path.write_bytes(pickle.dumps(np.arange(4, dtype=np.int8), protocol=3).replace(b"K\x04\x85", b"K\x09\x85"))
    with pytest.raises(InputError, match=r"shape \(9,\) with 4 numbers"):
        read_pickle(path)


# ---- the repository ----


def test_the_parts_of_a_clone(tmp_path) -> None:
    clone = write_clone(tmp_path / "clone", {"lima_author_2": 4, "mtbench_math_3": -1}, "it|||Say&&&A")
    write_attribution(clone, "tuned", "lima_author_2", levels(0, 7))
    write_attribution(clone, "tuned", "unknown_9", levels(0, 7))
    published = load_published(clone)
    assert list(published.prompts) == ["lima_author_2", "mtbench_math_3"]
    assert published.prompts["lima_author_2"] == Prompt(
        "Say it.\n A 😀.", ["Say it."], ["A 😀."], "lima_author_2", reference="ref\nlima_author_2"
    )
    assert published.spans["lima_author_2"] == ("it", "Say")
    assert published.references["mtbench_math_3"] == "ref\nmtbench_math_3"
    assert published.sets() == ("LIMA",)
    assert published.attributions["base"] == {}
    (released,) = published.attributions["tuned"].values()
    assert released.id == "lima_author_2"
    assert released.in_tokens == tuple(PIECES)
    assert released.out_tokens == ("▁x",) * 7
    np.testing.assert_array_equal(released.levels.numpy(), levels(0, 7))
    rated = published.ratings[published.ratings.model == "vicuna_7B"]
    assert rated.prompt_id.tolist() == ["lima_author_2", "mtbench_math_3"]
    assert rated.rating.tolist() == [4, -1]
    assert rated.response.tolist() == ["So\nlima_author_2", "So\nmtbench_math_3"]


def test_only_the_prompts_are_required(tmp_path) -> None:
    clone = write_clone(tmp_path / "clone", {"lima_author_2": 4})
    (clone / "datasets" / "AnnotatedDataset.tsv").unlink()
    published = load_published(str(clone))
    assert published.ratings.empty
    assert published.sets() == ()
    assert list(published.word_pairs()) == []
    assert list(published.concepts()) == []
    with pytest.raises(InputError, match=r"is no clone of the authors' repository, expected datasets/FinalDataset.tsv"):
        load_published(tmp_path)


def test_folders_are_found_in_any_case(tmp_path) -> None:
    clone = write_clone(tmp_path / "clone", {"lima_author_2": 4})
    path = write_attribution(clone, "base", "lima_author_2", levels(0, 3))
    path.parent.rename(path.parent.with_name("ifa_llama_7B"))
    assert list(load_published(clone).attributions["base"]) == ["lima_author_2"]


def test_a_rating_must_be_a_number(tmp_path) -> None:
    clone = write_clone(tmp_path / "clone", {"lima_author_2": 4})
    table = clone / "datasets" / "AnnotatedDataset.tsv"
    table.write_text(table.read_text(encoding="utf-8").replace("\t4", "\tgood"), encoding="utf-8")
    with pytest.raises(InputError, match=r"AnnotatedDataset\.tsv, line 3: the rating 'good' is no whole number"):
        _ = load_published(clone).ratings


def test_sets_go_by_the_prompt_s_id() -> None:
    known = {"lima_author_1": "LIMA", "user_oriented_task_0": "Self-Instruct", "mtbench_math_7": "MT-Bench"}
    assert {key: set_of(key) for key in known} == known
    assert set_of("limax_1") is set_of("lima_author") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Explain": np.zeros((2, 3))}, r"Explain has the shape \(2, 3\), expected \(11, 3\)"),
        ({"Explain": [[1.0]]}, r"Explain has the shape \(0,\)"),
        ({"Explain": np.full((11, 3), 11.0)}, "other values than the levels 0..10"),
        ({"Explain": np.full((11, 3), 0.5)}, "other values than the levels 0..10"),
        ({"Explain": np.full((11, 3), np.nan)}, "other values than the levels 0..10"),
        ({"Input": "abc"}, "Input and Output must be lists of token pieces"),
        ({"Output": [1, 2, 3]}, "Input and Output must be lists of token pieces"),
        (None, "is no attribution, expected a dict with ID, Input, Output and Explain"),
    ],
)
def test_an_unusable_attribution_is_refused(tmp_path, change, message: str) -> None:
    clone = write_clone(tmp_path / "clone", {"lima_author_2": 4})
    path = write_attribution(clone, "base", "lima_author_2", levels(0, 3))
    record = pickle.loads(path.read_bytes())
    path.write_bytes(pickle.dumps([1] if change is None else record | change, protocol=4))
    with pytest.raises(InputError, match=rf"lima_author_2\.pkl.*{message}"):
        _ = load_published(clone).attributions


def test_an_empty_response_has_an_empty_map(tmp_path) -> None:
    clone = write_clone(tmp_path / "clone", {"lima_author_2": 4})
    path = write_attribution(clone, "base", "lima_author_2", levels(0, 0))
    path.write_bytes(pickle.dumps(pickle.loads(path.read_bytes()) | {"Explain": np.zeros(0)}, protocol=4))
    assert load_published(clone).attributions["base"]["lima_author_2"].levels.shape == (11, 0)


def test_spans_are_found_in_the_joined_pieces(tmp_path) -> None:
    clone = write_clone(tmp_path / "clone", {"lima_author_2": 4})
    write_attribution(clone, "base", "lima_author_2", levels(0, 3))
    released = load_published(clone).attributions["base"]["lima_author_2"]

    def covered(*spans: str) -> tuple[str, int]:
        mask, missing = released.mask(spans)
        return "".join(str(int(hit)) for hit in mask), missing

    assert covered("Say it.") == ("11100000000", 0)
    assert covered("ay i") == ("11000000000", 0)
    assert covered("it.\n A") == ("01111000000", 0)
    assert covered("\n A ") == ("00001000000", 0)  # a newline and a bare word boundary at the ends
    assert covered("A 😀") == ("00001111110", 0)
    assert covered("😀", "Say") == ("10000011110", 0)
    assert covered(".") == ("00100000000", 0)  # the first hit
    assert covered("nowhere", "it") == ("01000000000", 1)
    assert covered() == ("00000000000", 0)


def test_a_word_boundary_with_a_quote_is_dropped_at_the_ends_only() -> None:
    pieces = ("▁Ask", ":", '▁"', "Why", '▁"', "so", '"', ".")
    released = ReleasedAttribution("a", pieces, (), torch.zeros(8, 0, dtype=torch.int8))
    assert released.mask(['"Why "so".'])[0].int().tolist() == [0, 0, 0, 1, 1, 1, 1, 1]
    assert released.mask(['Ask: "'])[0].int().tolist() == [1, 1, 0, 0, 0, 0, 0, 0]


# ---- word tables ----


def test_word_pairs_come_from_pieces_that_continue_each_other(tmp_path) -> None:
    clone = write_clone(tmp_path / "clone", {"lima_author_2": 4})
    folder = clone / "results" / "bilinear_interpret"
    folder.mkdir(parents=True)
    rows = "llama\t7B\t0\tqk\t3\t5\t1\t0.25\tcafé=thé|||a=b|||a==b\nvicuna\t7B\t31\tqk\t0\t127\t2\t-1.5\t\n"
    whole = (PAIR_HEADER + rows + PAIR_HEADER + rows).encode()
    cuts = [0, 10, whole.index("é".encode()) + 1, 150, len(whole)]  # within the header, a character and a line
    for letter, start, end in zip("abcd", cuts, cuts[1:], strict=False):
        (folder / f"bilinear_words_split.tsv{letter}").write_bytes(whole[start:end])
    published = load_published(clone)
    first, second, *again = published.word_pairs()
    assert again == [first, second]
    assert first[:8] == ("llama", "7B", 0, "qk", 3, 5, 1, 0.25)
    assert first.pairs() == (("café", "thé"), ("a", "b"))
    assert second.entries == ()
    assert second.score == -1.5
    (folder / "bilinear_words.tsv").write_text(rows.splitlines()[0], encoding="utf-8")  # joined by hand
    assert list(published.word_pairs()) == [first]


def test_concepts(tmp_path) -> None:
    clone = write_clone(tmp_path / "clone", {"lima_author_2": 4})
    folder = clone / "results" / "linear_interpret"
    folder.mkdir(parents=True)
    table = folder / "linear_words.tsv"
    table.write_text(CONCEPT_HEADER + "llama\t7B\t2\tffn\t0\t300\t0.0125\tsun|||moon\n", encoding="utf-8")
    (concept,) = load_published(clone).concepts()
    assert concept == ("llama", "7B", 2, "ffn", 0, None, 300, 0.0125, ("sun", "moon"))
    for line, message in (("llama\t7B\n", "2 fields, expected Model"), ("m\t7B\tx\tffn\t0\t1\t0\ta\n", "'x'")):
        table.write_text(CONCEPT_HEADER + line, encoding="utf-8")
        with pytest.raises(InputError, match=rf"linear_words\.tsv, line 2: .*{message}"):
            list(load_published(clone).concepts())


# ---- the real material ----


@needs_real
def test_the_released_files_are_read_in_seconds_and_hold_every_span() -> None:
    started = time.perf_counter()
    published = load_published(REAL)
    count = {model: len(maps) for model, maps in published.attributions.items()}
    assert time.perf_counter() - started < 20
    assert len(published.prompts) == 632
    assert count["tuned"] == count["base"] >= 300
    lengths = [len(m.in_tokens) for key, m in published.attributions["tuned"].items() if set_of(key) == "LIMA"]
    assert round(float(np.mean(lengths)), 1) == 29.1
    assert all(prompt.instruction for prompt in published.prompts.values())
    for key, released in published.attributions["tuned"].items():
        mask, missing = released.mask([span for span in published.prompts[key].instruction if isinstance(span, str)])
        assert missing == 0
        assert mask.any()
