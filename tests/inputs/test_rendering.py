"""Where the user's words lie in a chat template's text, found without looking for them there."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lensdiff.inputs import Prompt
from lensdiff.inputs.prompts import load_prompts
from lensdiff.inputs.rendering import Rendering, rendered
from lensdiff.results import InputError

ASK = [{"role": "user", "content": "user"}]
CHAT = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "user"},
    {"role": "assistant", "content": "Be short."},
    {"role": "user", "content": "assistant"},
]


def plain(messages: list[dict[str, str]], begins: bool) -> str:
    """A template that writes the words of roles, and white space around messages."""
    text = "".join(f"<{m['role']}>\n {m['content'].strip()} \n" for m in messages)
    return text + ("<assistant>\n" if begins else "")


def placed(found: Any) -> list[str]:
    return [found.text[start:end] for start, end in found.places]


def test_words_that_the_template_writes_too_are_not_taken_for_the_users():
    found = rendered(ASK, plain)
    assert found.text == "<user>\n user \n<assistant>\n"
    assert found.places == ((8, 12),)  # and not (1, 5)
    assert found.rendering.written == ((0, 8), (12, len(found.text)))


def test_messages_that_repeat_each_other_keep_their_own_places():
    found = rendered(CHAT, plain)
    assert placed(found) == ["Be short.", "user", "Be short.", "assistant"]
    starts = [start for start, _ in found.places]
    assert starts == sorted(set(starts))


@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip), min_size=1, max_size=4)
)
def test_any_words_are_found_where_they_were_put(contents):
    messages = [{"role": "user", "content": content.strip()} for content in contents]
    found = rendered(messages, plain)
    assert found.text == plain(messages, True)
    assert placed(found) == [m["content"] for m in messages]
    written = "".join(found.text[start:end] for start, end in found.rendering.written)
    assert written == "<user>\n  \n" * len(messages) + "<assistant>\n"


def test_a_template_that_puts_messages_in_another_order_is_followed():
    def turned(messages: list[dict[str, str]], begins: bool) -> str:
        return "".join(f"[{m['content']}]" for m in reversed(messages))

    found = rendered(CHAT[:2], turned)
    assert found.text == "[user][Be short.]"
    assert placed(found) == ["Be short.", "user"]


def test_what_stands_between_prompt_and_answer_is_the_templates():
    def spaced(messages: list[dict[str, str]], begins: bool) -> str:
        text = "".join(f"{m['role']}: {m['content']}\n" for m in messages)
        return text + ("assistant:" if begins else "")

    def without_answers(messages: list[dict[str, str]], begins: bool) -> str:
        if messages[-1]["role"] == "assistant":
            raise InputError("no answers")
        return spaced(messages, begins)

    def otherwise(messages: list[dict[str, str]], begins: bool) -> str:
        return spaced(messages, begins) + ("(think)" if begins else "")

    assert rendered(ASK, spaced).rendering.between == " "
    assert rendered(ASK, without_answers).rendering.between == ""
    assert rendered(ASK, otherwise).rendering.between == ""


@pytest.mark.parametrize(("bos", "opening"), [("<user>", "<user>"), ("<user>\n u", ""), ("</s>", ""), ("", "")])
def test_the_bos_is_an_opening_only_where_the_template_wrote_all_of_it(bos, opening):
    assert rendered(ASK, plain, bos=bos).rendering.opening == opening


CANNOT_BE_TOLD = "changes a message's words, or what it writes itself depends on them"


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda m, b: f"{m[0]['content']}{m[0]['content']}", r"writes 2 times message 0 \(user\), expected it once"),
        (lambda m, b: "hello", r"leaves out message 0 \(user\), expected it once"),
        (lambda m, b: m[0]["content"][:2], r"leaves out message 0"),
        (lambda m, b: m[0]["content"].upper(), CANNOT_BE_TOLD),
        (lambda m, b: f"{len(m[0]['content'])}: {m[0]['content']}", CANNOT_BE_TOLD),
        (lambda m, b: m[0]["content"].replace("us", "ab"), CANNOT_BE_TOLD),
    ],
)
def test_a_template_that_hides_where_words_lie_is_refused(write, message):
    with pytest.raises(InputError, match=message):
        rendered(ASK, write)


# prompts


def test_a_chat_is_a_prompt_with_the_spans_of_each_message():
    prompt = Prompt.of_messages(
        [
            {"role": "system", "content": "  Answer in French. ", "instruction": "Answer in French."},
            {"role": "user", "content": "The sea. Say more.", "instruction": ["Say more."], "context": [[0, 8]]},
        ],
        id="chat",
        kind="say",
    )
    assert prompt.text == "Answer in French.\n\nThe sea. Say more."
    assert [prompt.text[a:b] for a, b in prompt.ranges("instruction")] == ["Answer in French.", "Say more."]
    assert [prompt.text[a:b] for a, b in prompt.ranges("context")] == ["The sea."]
    assert prompt.messages == [
        {"role": "system", "content": "Answer in French."},
        {"role": "user", "content": "The sea. Say more."},
    ]
    assert (prompt.id, prompt.kind, prompt.template) == ("chat", "say", "raw")


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], r"prompt 'p' has the messages \[\], expected at least one"),
        ("hello", "has the messages 'hello', expected at least one"),
        (["hello"], "message 0 of prompt 'p': it is 'hello', expected a role and a content"),
        ([{"content": "a"}], "message 0 of prompt 'p': its role is None, expected a word such as 'user'"),
        ([{"role": "user", "content": " "}], "message 0 of prompt 'p': its content is ' ', expected words"),
        ([*ASK, {"role": "user", "content": "a", "context": "b"}], "message 1 of prompt 'p': context .*'b' is not in"),
        (
            [*ASK, {"role": "assistant", "content": "a"}],
            "last message of prompt 'p' is the assistant's, expected one that is to",
        ),
    ],
)
def test_what_is_no_chat_is_refused(messages, message):
    with pytest.raises(InputError, match=message):
        Prompt.of_messages(messages, id="p")


@pytest.mark.parametrize(
    "turns", [(("user", 0, 9),), (("user", 3, 1),), (("a", 2, 3), ("b", 0, 1)), (("user", -1, 2),)]
)
def test_turns_that_are_no_ranges_are_refused(turns):
    with pytest.raises(InputError, match=r"prompt 'p' has the turns .*, expected ranges of its text in order"):
        Prompt("abc", id="p", turns=turns)


def test_chats_are_read_from_a_file(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text(
        '{"messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Why?"}], "id": 7}\n'
        '{"text": "Raw.", "messages": "ignored beside a text"}\n'
    )
    chat, raw = load_prompts(path)
    assert (chat.id, chat.text, len(chat.turns)) == ("7", "Be short.\n\nWhy?", 2)
    assert (raw.text, raw.turns) == ("Raw.", ())
    path.write_text('{"messages": [{"role": "user"}]}\n')
    with pytest.raises(InputError, match="line 1: message 0 of prompt '1': its content is None"):
        load_prompts(path)


def test_segments_of_a_rendered_text_add_up_to_it():
    prompt = Prompt("user: write. Sea!", ["write."], ["Sea!"])
    found = rendered(prompt.messages, plain)
    moved = {part: found.moved(prompt.ranges(part), ((0, 17),)) for part in ("instruction", "context")}
    chat = Prompt(found.text, **moved, turns=(("user", *found.places[0]),), rendering=found.rendering)
    assert chat.segments() == [
        *[("template", "<user>\n "), ("other", "user: "), ("instruction", "write."), ("other", " ")],
        *[("context", "Sea!"), ("template", " \n<assistant>\n")],
    ]
    assert chat.stripped == found.text  # white space that a template wrote stays
    assert Prompt("user: write. Sea!").segments() == [("other", "user: write. Sea!")]


def test_a_token_that_reaches_into_the_words_is_not_the_templates():
    chat = Prompt("ab cd", turns=(("user", 2, 4),), rendering=Rendering(((0, 2), (4, 5))))
    offsets = [(0, 1), (1, 2), (1, 3), (2, 3), (3, 5), (4, 5), (5, 5)]
    assert chat.mask("template", offsets).tolist() == [True, True, False, False, False, True, True]
    assert not Prompt("ab cd").mask("template", offsets).any()


def test_a_span_over_two_messages_comes_in_two():
    prompt = Prompt.of_messages([{"role": "system", "content": "ab"}, {"role": "user", "content": "cd"}])
    found = rendered(prompt.messages, plain)
    moved = found.moved([(1, 5)], [(start, end) for _, start, end in prompt.turns])
    assert [found.text[a:b] for a, b in moved] == ["b", "c"]


def test_a_response_follows_as_the_prompt_is_written():
    assert Prompt(" a ").answered(" b ") == "a b"
    assert Prompt("a:\n", rendering=Rendering(((1, 3),), between="~")).answered(" b ") == "a:\n~b"
    assert torch.equal(Prompt("a b").mask("template", []), torch.zeros(0, dtype=torch.bool))
