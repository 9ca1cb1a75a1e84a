import json
import subprocess
import sys

import pytest
import torch
from pydantic import TypeAdapter
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from lensdiff.inputs import Prompt, load_prompts, token_mask
from lensdiff.inputs.spans import as_span, sentences, shorten, widen_to_sentences
from lensdiff.inputs.tables import read_rows, split_spans, unescape
from lensdiff.results import InputError

TSV_HEADER = "ID\tPrompt\tResponse\tInstruct&Context\n"

SCRIPTS = {
    "arabic": ("قل مرحبا بالعالم الآن", "مرحبا بالعالم"),
    "devanagari": ("कृपया नमस्ते दुनिया लिखो", "नमस्ते दुनिया"),
    "thai": ("แปลคำว่าสวัสดีเป็นภาษาอังกฤษ", "สวัสดี"),
    "chinese": ("请把你好翻译成法语。谢谢", "你好翻译"),
    "emoji with joiners": ("Say 👩‍👩‍👧‍👦 and 🏳️‍🌈 now", "👩‍👩‍👧‍👦 and 🏳️‍🌈"),
    "combining": ("write cafe\u0301 in caps", "cafe\u0301"),
}


def byte_level(*, trim_offsets: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(["Say and now, write in caps, translate the word"] * 3, trainer)
    return tokenizer


def sentencepiece_like(text: str) -> Tokenizer:
    """A word boundary is put before the text and shares the first word's characters, as Llama's tokenizer does."""
    pieces = ["<unk>", "▁", *(f"<0x{i:02X}>" for i in range(256)), *sorted({c for c in text if c.isascii()} - {" "})]
    tokenizer = Tokenizer(
        models.BPE({p: i for i, p in enumerate(pieces)}, [], byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    return tokenizer


# ---- Prompt ----


def test_spans_are_kept_as_tuples_and_located_at_the_first_hit() -> None:
    prompt = Prompt("Fix the bug, fix the bug.", ["the bug", (13, 16)], "bug", "a")
    assert prompt.instruction == ("the bug", (13, 16))
    assert prompt.context == ("bug",)  # one substring alone
    assert prompt.ranges("instruction") == ((4, 11), (13, 16))
    assert prompt.ranges("context") == ((8, 11),)


def test_ranges_count_the_stripped_text() -> None:
    prompt = Prompt(" \n Translate: chat \n", ["Translate:", (0, 7), " chat \n"])
    assert prompt.stripped == "Translate: chat"
    assert prompt.ranges("instruction") == ((0, 10), (0, 4), (10, 15))
    assert [prompt.stripped[slice(*r)] for r in prompt.ranges("instruction")] == ["Translate:", "Tran", " chat"]


def test_prompt_survives_json() -> None:
    prompt = Prompt(" 請 say 👩‍👩‍👧‍👦", ["say", (1, 2)], [(3, 6)], "id 1", "say", "請")
    adapter = TypeAdapter(Prompt)
    stored = json.loads(json.dumps(adapter.dump_python(prompt, mode="json")))
    assert adapter.validate_python(stored) == prompt
    assert adapter.validate_python(stored).ranges("context") == prompt.ranges("context")


def test_prompts_are_values() -> None:
    assert Prompt("a b", ["a"]) == Prompt("a b", ("a",))
    assert len({Prompt("a b", ["a"]), Prompt("a b", ["a"])}) == 1
    with pytest.raises(AttributeError):
        Prompt("a").text = "b"  # type: ignore[misc]


REFUSING = """
import sys
from lensdiff.inputs.prompts import Prompt, load_prompts
for make in (
    lambda: Prompt(5, id="q1"),
    lambda: Prompt("a", id="q1", kind=3),
    lambda: Prompt("a", id="q1", reference=["b"]),
    *(lambda path=path: load_prompts(path) for path in sys.argv[1:]),
):
    try:
        make()
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
"""


def test_what_is_no_text_is_refused(tmp_path) -> None:
    # in a process without the type checks of tests, which would refuse it first
    paths = []
    for i, wrong in enumerate(({"kind": False}, {"reference": {"a": 1}})):
        paths.append(tmp_path / f"{i}.jsonl")
        paths[-1].write_text('{"text": "fine"}\n' + json.dumps({"text": "a"} | wrong), encoding="utf-8")
    ran = subprocess.run([sys.executable, "-c", REFUSING, *map(str, paths)], capture_output=True, text=True)
    assert ran.stdout.splitlines() == [
        "InputError: prompt 'q1' has the text 5, expected words",
        "InputError: prompt 'q1' has the kind 3, expected words",
        "InputError: prompt 'q1' has the reference ['b'], expected words",
        f"InputError: {paths[0]}, line 2: prompt '2' has the kind False, expected words",
        f"InputError: {paths[1]}, line 2: prompt '2' has the reference {{'a': 1}}, expected words",
    ]


@pytest.mark.parametrize("text", ["", "  \n\t"])
def test_empty_text_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="prompt 'q1' has the empty text"):
        Prompt(text, id="q1")


@pytest.mark.parametrize(
    ("span", "message"),
    [
        ("dog", r"instruction of prompt 'q1': the span 'dog' is not in the text 'the cat sat'"),
        ("", "the span '' is empty"),
        ("  ", "the span '  ' is empty"),
        ((4, 4), r"the span \(4, 4\) is no range"),
        ((5, 2), r"the span \(5, 2\) is no range"),
        ((-3, 2), r"the span \(-3, 2\) is no range"),
        ((8, 12), r"\(8, 12\) is no range \(start, end\) within the text's 11 characters"),
        ((3, 4), "holds only white space"),
    ],
)
def test_an_unusable_span_is_refused_by_name(span: str | tuple[int, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Prompt("the cat sat", [span], id="q1")


@pytest.mark.parametrize("value", [(1, 2, 3), (1.0, 2.0), (False, True), 3, None, [["a"]]], ids=repr)
def test_what_is_no_span_is_refused(value: object) -> None:
    with pytest.raises(InputError, match=r"the span .* is neither a substring nor a pair \(start, end\)"):
        as_span(value)
    assert as_span([1, 2]) == (1, 2)
    assert as_span("ab") == "ab"


def test_long_spans_are_shortened_in_errors() -> None:
    with pytest.raises(InputError) as caught:
        Prompt("a b", ["x" * 500], id="q1")
    assert len(str(caught.value)) < 200
    assert shorten("x" * 500) == "'" + "x" * 36 + "..." + "x" * 19 + "'"
    assert shorten("short") == "'short'"


# ---- tokens ----


@pytest.mark.parametrize("trim_offsets", [False, True])
@pytest.mark.parametrize(("text", "span"), SCRIPTS.values(), ids=list(SCRIPTS))
def test_the_mask_decodes_to_the_span_in_any_script(text: str, span: str, trim_offsets: bool) -> None:
    tokenizer = byte_level(trim_offsets=trim_offsets)
    prompt = Prompt(text, [span])
    encoding = tokenizer.encode(prompt.stripped)
    mask = prompt.mask("instruction", encoding.offsets)
    chosen = [token for token, hit in zip(encoding.ids, mask.tolist(), strict=True) if hit]
    assert tokenizer.decode(chosen).strip() == span


def test_the_bytes_of_one_character_all_count() -> None:
    encoding = byte_level(trim_offsets=False).encode("a👩b")
    assert encoding.offsets == [(0, 1), (1, 2), (1, 2), (1, 2), (1, 2), (2, 3)]
    assert token_mask([(1, 2)], encoding.offsets, "a👩b").tolist() == [False, True, True, True, True, False]


def test_zero_width_tokens_count_only_inside_a_range() -> None:
    offsets = [
        (0, 0),
        (0, 1),
        (2, 2),
        (2, 3),
        (4, 4),
        (4, 5),
        (0, 0),
    ]  # special, a, trimmed space, b, space, c, special
    assert token_mask([(0, 3)], offsets, "a b c").int().tolist() == [0, 1, 1, 1, 0, 0, 0]
    assert token_mask([(2, 4)], offsets, "a b c").int().tolist() == [0, 0, 0, 1, 0, 0, 0]


def test_white_space_at_a_range_s_ends_is_dropped_and_kept_within() -> None:
    text, offsets = "a \nb c\n d", [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 7), (7, 9)]
    assert token_mask([(1, 7)], offsets, text).int().tolist() == [0, 0, 0, 1, 1, 1, 0, 0]
    assert token_mask([(1, 8)], offsets, text).int().tolist() == [
        0,
        0,
        0,
        1,
        1,
        1,
        1,
        1,
    ]  # " d" holds more than white space


def test_ranges_are_united_and_none_selects_none() -> None:
    offsets = [(i, i + 1) for i in range(6)]
    assert token_mask([(0, 2), (1, 3), (5, 6)], offsets, "abcdef").int().tolist() == [1, 1, 1, 0, 0, 1]
    assert not token_mask([], offsets, "abcdef").any()
    assert token_mask([(0, 2)], [], "abcdef").shape == (0,)
    assert token_mask([(0, 2)], offsets, "abcdef").dtype == torch.bool


def test_a_word_boundary_put_before_the_text_is_told_by_its_spelling() -> None:
    prompt = Prompt("👩 say 1", ["👩 say"])
    encoding = sentencepiece_like(prompt.text).encode(prompt.stripped)
    assert encoding.tokens[:2] == ["▁", "<0xF0>"]
    assert encoding.offsets[0] == encoding.offsets[1]
    assert prompt.mask("instruction", encoding.offsets).int().tolist() == [1] * 9 + [0, 0]
    assert prompt.mask("instruction", encoding.offsets, pieces=encoding.tokens).int().tolist() == [0] + [1] * 8 + [0, 0]
    with pytest.raises(ValueError, match="2 pieces for 1 offsets"):
        token_mask([(0, 1)], [(0, 1)], "a", pieces=["▁", "a"])


# ---- sentences and the authors' escapes ----


def test_sentences_end_before_white_space_only() -> None:
    text = "Use v1.2 now! Is it? Yes: a.b\n\n  Input: x\nOutput:"
    assert sentences(text) == ["Use v1.2 now!", "Is it?", "Yes:", "a.b", "Input:", "x", "Output:"]


def test_spans_widen_to_the_first_sentence_that_contains_each_piece() -> None:
    text = "Come up with synonyms for the word. Be brief! The word\nInput:joys of life"
    assert widen_to_sentences(["synonyms"], text) == ("Come up with synonyms for the word.",)
    assert widen_to_sentences(["Be", "word. Be"], text) == ("Be brief!", "Come up with synonyms for the word.")
    assert widen_to_sentences(["of life"], text) == ("joys of life",)
    assert widen_to_sentences(["Input:", "absent", " "], text) == ("joys of life",)
    assert widen_to_sentences(["Input:"], "Do it. Input: x") == ()  # only the mark itself


def test_escapes() -> None:
    assert unescape('a/nb/tc ""d"" "e"') == 'a\nb\tc "d" "e"'
    assert split_spans("a/nb|||c&&&d|||") == (("a\nb", "c"), ("d",))
    assert split_spans("a") == (("a",), ())
    assert split_spans(" &&&b") == ((), ("b",))


# ---- files ----


def test_jsonl(tmp_path) -> None:
    path = tmp_path / "p.jsonl"
    lines = [
        {"id": "a", "text": "Say hi 👩‍👩‍👧‍👦\u2028 now", "instruction": ["Say", [4, 6]], "context": "now", "note": 1},
        {"id": 7, "text": "x"},
        {"text": "y"},
    ]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n\n".join(json.dumps(x, ensure_ascii=False) for x in lines).encode())
    assert load_prompts(path) == [
        Prompt("Say hi 👩‍👩‍👧‍👦\u2028 now", ["Say", (4, 6)], ["now"], "a"),
        Prompt("x", id="7"),
        Prompt("y", id="5"),
    ]
    assert load_prompts(str(path))[0].id == "a"


def test_jsonl_brings_kind_and_reference(tmp_path) -> None:
    path = tmp_path / "p.jsonl"
    lines = [
        {"text": "What is a sea?", "instruction": "What is", "kind": "define", "reference": " Much water.\n"},
        {"text": "x", "kind": "define", "reference": None},
        {"text": "y", "kind": None, "reference": ""},
        {"text": "z", "other": 3},
    ]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    assert load_prompts(path) == [
        Prompt("What is a sea?", ["What is"], id="1", kind="define", reference=" Much water.\n"),
        Prompt("x", id="2", kind="define"),
        Prompt("y", id="3"),
        Prompt("z", id="4"),
    ]
    assert [(prompt.kind, prompt.reference) for prompt in load_prompts(path)[2:]] == [("", "")] * 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"p\.jsonl, line 2: not JSON"),
        ("[1]", r"line 2: expected an object with a string \"text\", got \[1\]"),
        ('{"txt": "a"}', "line 2: expected an object with a string"),
        ('{"text": 3}', "line 2: expected an object with a string"),
        ('{"text": "a", "id": null}', 'line 2: "id" is None'),
        ('{"text": "a", "id": true}', 'line 2: "id" is True'),
        ('{"text": "a", "context": 4}', 'line 2: "context" is 4, expected a list of spans'),
        ('{"text": "a", "id": "q", "instruction": ["b"]}', "line 2: instruction of prompt 'q': the span 'b' is not in"),
        ('{"text": "a", "instruction": [0, 1]}', "line 2: the span 0 is neither"),
        ('{"text": " "}', "line 2: prompt '2' has the empty text"),
        ('{"text": "again", "id": "one"}', "line 2: the id 'one' was used before"),
        ('{"text": "a", "id": "q\\ud800"}', r"line 2: the id 'q\\ud800' holds half a character, expected whole ones"),
        ('{"text": ' + "[" * 100_000, r"line 2: not JSON that can be read \(nested too deeply\)"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line: str, message: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"id": "one", "text": "fine"}\n' + line, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        load_prompts(path)


def test_a_text_with_half_a_character_is_read_and_left_to_whoever_tokenises_it(tmp_path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"text": "a \\ud83d b", "instruction": "b"}\n{"text": "\\ud83d\\ude00"}\n', encoding="utf-8")
    half, whole = load_prompts(path)
    assert (half.text, half.ranges("instruction"), whole.text) == ("a \ud83d b", ((4, 5),), "\U0001f600")


def test_tsv(tmp_path) -> None:
    path = tmp_path / "FinalDataset.tsv"
    row = 'q\tRewrite ""it"" now./n/nInput: a/tb. c\tR\tRewrite&&&b\r\n'
    path.write_bytes((TSV_HEADER.replace("\n", "\r\n") + row + "\n").encode())
    assert load_prompts(path) == [
        Prompt('Rewrite "it" now.\n\nInput: a\tb. c', ['Rewrite "it" now.'], ["a\tb."], "q", reference="R")
    ]


def test_a_tsv_response_is_the_reference_with_its_escapes(tmp_path) -> None:
    path = tmp_path / "p.tsv"
    path.write_text(TSV_HEADER + 'q\tSay hi now\t""Hi""/nthere/tyou\tSay\nr\tSay it\t\tSay\n', encoding="utf-8")
    first, second = load_prompts(path)
    assert (first.reference, first.kind) == ('"Hi"\nthere\tyou', "")
    assert second.reference == ""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("ID\tPrompt\tResponse\n", "line 1: no column 'Instruct&Context'"),
        (TSV_HEADER + "q\ta\n", "line 2: 2 fields, expected the header's 4"),
        (TSV_HEADER + "q\t \tr\ta\n", "line 2: prompt 'q' has the empty text"),
        (TSV_HEADER + "q\ta\tr\ta\nq\tb\tr\tb\n", "line 3: the id 'q' was used before"),
        (TSV_HEADER, "holds no prompts"),
    ],
)
def test_a_bad_tsv_is_refused(tmp_path, content: str, message: str) -> None:
    path = tmp_path / "p.tsv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        load_prompts(path)


def test_columns_go_by_name(tmp_path) -> None:
    path = tmp_path / "t.tsv"
    path.write_text("b\tx\ta\n1\t2\t3\n", encoding="utf-8")
    assert list(read_rows(path, ("a", "b"))) == [(2, {"a": "3", "b": "1"})]


def test_unusable_files_are_refused(tmp_path) -> None:
    with pytest.raises(InputError, match=r"p\.csv is no prompt file, expected a name that ends in \.jsonl or \.tsv"):
        load_prompts(tmp_path / "p.csv")
    with pytest.raises(InputError, match="no file at"):
        load_prompts(tmp_path / "p.jsonl")
    (tmp_path / "p.jsonl").write_bytes(b'{"text": "\xff"}')
    with pytest.raises(InputError, match=r"not UTF-8 text \(invalid start byte at byte 10\)"):
        load_prompts(tmp_path / "p.jsonl")
    (tmp_path / "p.jsonl").write_bytes(b"\n")
    with pytest.raises(InputError, match="holds no prompts"):
        load_prompts(tmp_path / "p.jsonl")
