"""Annotation against a server on loopback that answers well, wrongly, slowly, with errors, or not at all."""

import base64
import json
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lensdiff.analyses.annotate.annotations import Annotations, parse_description, parse_labels
from lensdiff.analyses.annotate.measure import annotate
from lensdiff.inputs.annotation_prompts import AnnotationPrompts
from lensdiff.inputs.chat import AnnotationStopped, AnswerCache, Chat
from lensdiff.results import InputError
from tests.analyses.mlp.results import concepts
from tests.chat_server import ChatServer, answer, chat_server, is_description, words_in

WORDS = tuple(f"w{i}" for i in range(96))  # eight words for each of the twelve components
CONCEPTS = concepts("tiny", words=WORDS)
PLACES = 12


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with chat_server() as (found, url):
        found.url = url  # type: ignore[attr-defined]
        yield found


def run(server: Any, cache: Path, **options: Any) -> Annotations:
    fixed = {"model": "fake", "base_url": server.url, "seeds": (0,), "concurrency": 4, "timeout": 20.0}
    return annotate(CONCEPTS, cache=cache, **(fixed | options))


def test_components_are_described_and_then_classified(server: Any, tmp_path: Path) -> None:
    def script(body: dict, n: int) -> str:
        if not is_description(body):
            first = int(words_in(body)[0][1:])
            return answer(body, tasks=("translation", "coding") if first % 16 == 0 else (), level="morphology")
        return answer(body)

    server.script = script
    found = run(server, tmp_path / "cache", seeds=(3, 5))
    frame = found.to_df()
    columns = ["layer", "side", "component", "seed", "status", "description", "tasks", "level", "reason"]
    assert list(frame.columns) == columns
    assert len(frame) == PLACES * 2
    assert (frame.status == "explained").all()
    for _, row in frame.iterrows():
        words = CONCEPTS.words_of(row.layer, row.side, row.component)
        assert row.description == f"words like {words[0]}"
        assert row.tasks == ("coding; translation" if int(words[0][1:]) % 16 == 0 else "")
        assert row.level == "morphology"
    assert Counter(body["seed"] for body in server.requests) == {3: 2 * PLACES, 5: 2 * PLACES}
    assert set(server.paths) == {"/v1/chat/completions"}
    assert found.counts().to_dict() == dict.fromkeys(["unexplained", "refused", "malformed", "rejected"], 0) | {
        "explained": 2 * PLACES
    }
    assert len(found.top(5)) == 5
    again = Annotations.load(found.save(tmp_path / "a.safetensors"))
    assert again.to_df().equals(frame)
    assert again.groups["writing"] == ("daily_writing", "literary_writing", "professional_writing")


def test_requests_hold_schema_options_and_words(server: Any, tmp_path: Path) -> None:
    options = {"top_words": 2, "temperature": 0.5, "max_tokens": 77, "layers": [3], "components": 1, "concurrency": 1}
    found = run(server, tmp_path, **options)
    assert found.status.shape == (1, 2, 1, 1)
    first, second = server.requests[:2]  # one after the other, so in order
    assert is_description(first)
    assert words_in(first) == CONCEPTS.words_of(3, "value", 0, 2)
    assert (first["model"], first["temperature"], first["max_tokens"]) == ("fake", 0.5, 77)
    schema = first["response_format"]["json_schema"]
    assert (schema["strict"], set(schema["schema"]["properties"])) == (True, {"explainable", "description"})
    labels = next(body for body in server.requests if not is_description(body))["response_format"]["json_schema"]
    assert labels["schema"]["properties"]["level"]["enum"] == list(AnnotationPrompts.default().levels)
    assert second["messages"][0]["role"] == "system"
    options = found.provenance.options
    assert (options["annotator"], options["top_words"], options["temperature"]) == ("fake", 2, 0.5)
    assert options["prompts"] == AnnotationPrompts.default().digest


@pytest.mark.parametrize(("name", "sent"), [("json_object", {"type": "json_object"}), ("none", None)])
def test_servers_without_schemas_can_be_asked_too(server: Any, tmp_path: Path, name: str, sent: Any) -> None:
    run(server, tmp_path, response_format=name, temperature=None, components=1)
    assert all(body.get("response_format") == sent for body in server.requests)
    assert not any("temperature" in body for body in server.requests)


def test_a_component_that_cannot_be_explained_is_not_classified(server: Any, tmp_path: Path) -> None:
    server.script = lambda body, n: json.dumps({"explainable": False, "description": ""})
    found = run(server, tmp_path)
    assert found.counts().to_dict()["unexplained"] == PLACES == len(server.requests)
    assert not found.task.any()
    assert (found.level == -1).all()


BAD = {
    "no JSON": ("They are all verbs.", "Expecting value"),
    "a list": ("[true, 3]", "expected an object with"),
    "another key": ('{"explainable": true, "description": "x", "more": 1}', "expected an object with"),
    "a word for true": ('{"explainable": "yes", "description": "x"}', "explainable is a str, expected bool"),
    "no description": ('{"explainable": true, "description": " "}', "explainable, but without a description"),
    "nothing": ({"content": None}, "Expecting value"),
    "cut off": ({"content": '{"explainable": tr', "finish_reason": "length"}, "cut off at max_tokens"),
    "no choices": ({"body": {"id": "1", "choices": [], "model": "fake"}}, "holds no choice"),
    "broken body": ({"body": '{"id": '}, "is no JSON"),
    "another body": ({"body": "[1]"}, "holds no choice"),
    "choices of another kind": ({"body": {"id": "1", "choices": {"a": 1}, "model": "fake"}}, "holds no choice"),
    "a choice of another kind": ({"body": {"id": "1", "choices": ["x"], "model": "fake"}}, "holds no choice"),
    "a deep answer": ("[" * 100_000, "nested too deeply"),
    "a deep object": ('{"a":' * 100_000, "nested too deeply"),
    "a deep object in prose": ("Well: " + '{"a":' * 100_000, "nested too deeply"),
    "a deep body": ({"body": "[" * 100_000}, "is no JSON"),
    "half a character": ("\ud83d", "Expecting value: line 1 column 1 (char 0): \\ud83d"),
    "half a character described": ('{"explainable": true, "description": "x\\ud83d"}', "holds half a character"),
    "half a character in it": ('{"explainable": true, "description": "x\ud83d"}', "holds half a character"),
    "a long number": ('{"explainable": ' + "1" * 10_000 + "}", "integer string conversion"),
    "reasoning alone": ('<think>{"explainable": true, "description": "x"}', "the reasoning has no end"),
    "reasoning cut off": ({"content": "<think>so it", "finish_reason": "length"}, "no end, cut off at max_tokens"),
    "two answers": (
        '{"explainable": true, "description": "x"} or {"explainable": true, "description": "y"}',
        "2 answers that differ",
    ),
    "a key twice": ('{"explainable": true, "description": "x", "description": "y"}', "a key twice"),
    "a key twice in prose": ('So: {"explainable": false, "explainable": true, "description": "x"}.', "a key twice"),
    "a key twice within": ('So: {"explainable": true, "description": "x", "a": [{"b": 1, "b": 1}]}', "a key twice"),
    "no number": ('{"explainable": NaN, "description": "x"}', "nan is no number of JSON"),
    "no number in prose": ('So: {"explainable": -Infinity, "description": "x"}', "-inf is no number of JSON"),
    "a number too large": ('{"explainable": 1e999, "description": "x"}', "inf is no number of JSON"),
    "within another that is malformed": (
        'So: {"a": 1, "a": 2, "answer": {"explainable": true, "description": "x"}}',
        "expected an object with",
    ),
    "within another": ('Here: {"answer": {"explainable": true, "description": "x"}}', "expected an object with"),
    "parts without text": ({"content": [{"type": "image", "text": "{}"}, 3]}, "Expecting value"),
    "a number": ({"content": 7}, "expected an object with"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_malformed_answer_is_recorded_and_nothing_invented(server: Any, tmp_path: Path, name: str) -> None:
    reply, reason = BAD[name]
    server.script = lambda body, n: dict(reply) if isinstance(reply, dict) else reply
    found = run(server, tmp_path, components=1)
    frame = found.to_df()
    assert (frame.status == "malformed").all()
    assert frame.reason.str.contains(reason, regex=False).all()
    assert (frame.tasks == "").all()
    assert (frame.level == "").all()
    assert frame.reason.str.len().max() < 700
    Annotations.load(found.save(tmp_path / "a.safetensors"))  # it can be written
    assert not list(tmp_path.glob("*/*.json"))
    server.script = lambda body, n: answer(body)
    assert run(server, tmp_path, components=1).counts().to_dict()["explained"] == 4


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ('{"tasks": ["poetry"], "level": "syntax"}', "unknown task 'poetry'"),
        ('{"tasks": [1], "level": "syntax"}', "unknown task 1"),
        ('{"tasks": "coding", "level": "syntax"}', "tasks is a str, expected list"),
        ('{"tasks": [], "level": "pragmatics"}', "unknown level 'pragmatics'"),
    ],
)
def test_labels_that_do_not_exist_are_malformed(server: Any, tmp_path: Path, labels: str, reason: str) -> None:
    server.script = lambda body, n: answer(body) if is_description(body) else labels
    frame = run(server, tmp_path, components=1).to_df()
    assert (frame.status == "malformed").all()
    assert frame.description.str.startswith("words like").all()
    assert frame.reason.str.contains(reason, regex=False).all()


def test_malformed_labels_are_asked_for_again_and_their_description_is_not(server: Any, tmp_path: Path) -> None:
    server.script = lambda body, n: answer(body) if is_description(body) else '{"tasks": [], "level": "tone"}'
    assert run(server, tmp_path).counts().to_dict()["malformed"] == PLACES
    before = len(server.requests)
    server.script = lambda body, n: answer(body)
    assert run(server, tmp_path).counts().to_dict()["explained"] == PLACES
    assert [is_description(body) for body in server.requests[before:]] == [False] * PLACES


def test_a_kept_answer_that_cannot_be_read_is_asked_for_again(server: Any, tmp_path: Path) -> None:
    run(server, tmp_path)
    kept = sorted(tmp_path.glob("*/*.json"))
    for path, text in ((kept[0], "They are all verbs."), (kept[1], "[" * 100_000)):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"text": text}))
    kept[2].write_text("[" * 100_000)
    before = len(server.requests)
    assert run(server, tmp_path).counts().to_dict()["explained"] == PLACES
    assert len(server.requests) == before + 3


def test_many_malformed_answers_are_no_server_that_rejects_everything(server: Any, tmp_path: Path) -> None:
    words = {CONCEPTS.words_of(layer, "value", i)[0] for layer in (0, 3) for i in range(2)}
    server.script = lambda body, n: "no" if words_in(body)[0] in words else 400
    counts = run(server, tmp_path, seeds=range(4), concurrency=1).counts().to_dict()
    assert (counts["malformed"], counts["rejected"]) == (16, 32)


SAID = '{"explainable": true, "description": "sets like {a} and \\"}\\""}'
WRAPPED = {
    "alone": SAID,
    "a byte-order mark": "\ufeff" + SAID,
    "a fence": f"```json\n{SAID}\n```",
    "a fence in prose": f"Here it is:\n\n```json\n{SAID}\n```\nI hope this {{helps}}.",
    "prose": f"The words {{a, b}} are sets. {SAID} Shall I go on?",
    "the same twice": f"{SAID}\nTo repeat: {SAID}",
    "another object before": f'{{"note": 1}} {SAID}',
    "another malformed object before": f'{{"note": 1, "note": NaN}} {SAID}',
    "a draft in the reasoning": f'<think>Perhaps {{"explainable": false, "description": ""}}?</think>\n{SAID}',
    "a block that the template opened": f'{{"explainable": false, "description": ""}} no</think>{SAID}',
    "two blocks": f"<think>a</think><think>{{}}</think>{SAID}",
    "another name": f"<thinking>{{</thinking>{SAID}",
    "brackets": f'[THINK]{{"explainable": false, "description": ""}}[/THINK]{SAID}',
    "prose after a block": f"<think>x</think>So: {SAID}.",
}


@pytest.mark.parametrize("name", WRAPPED)
def test_the_object_is_found_in_what_is_around_it(server: Any, tmp_path: Path, name: str) -> None:
    server.script = lambda body, n: WRAPPED[name] if is_description(body) else f"<think>{{</think>{answer(body)} Done."
    frame = run(server, tmp_path, components=1).to_df()
    assert (frame.status == "explained").all()
    assert (frame.description == 'sets like {a} and "}"').all()
    assert (frame.tasks == "coding").all()


def test_a_tag_within_an_answer_is_a_part_of_it() -> None:
    said = '{"explainable": true, "description": "tags such as <think> and </think>"}'
    assert parse_description(said) == (True, "tags such as <think> and </think>")
    said = '{"explainable": true, "description": "tags such as <think>"}'
    assert parse_description(f"Here: {said}") == (True, "tags such as <think>")


LONG = ("{" * 200_000, '{"x' * 100_000, "</thin" * 50_000, '{"a": 1} ' * 50_000, "<think>" * 50_000)


@pytest.mark.parametrize("text", LONG, ids=lambda text: text[:8])
def test_a_long_answer_without_an_object_is_malformed(text: str) -> None:
    with pytest.raises(ValueError, match=r"Expecting|expected an object|no end|1000 braces that begin no object"):
        parse_description(text)


def test_a_message_may_come_in_parts(server: Any, tmp_path: Path) -> None:
    def script(body: dict, n: int) -> dict:
        thought = {"type": "thinking", "thinking": [{"type": "text", "text": "{}"}]}
        said = answer(body)
        return {"content": [thought, {"type": "text", "text": said[:9]}, {"type": "text", "text": said[9:]}]}

    server.script = script
    assert run(server, tmp_path).counts().to_dict()["explained"] == PLACES


UNSUPPORTED = "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."


@pytest.mark.parametrize("status", [400, 422])
def test_a_server_that_knows_the_limit_by_its_other_name_is_asked_by_that(
    server: Any, tmp_path: Path, status: int
) -> None:
    server.script = lambda body, n: (status, UNSUPPORTED) if "max_tokens" in body else answer(body)
    found = run(server, tmp_path, max_tokens=77, concurrency=1)
    assert found.counts().to_dict()["explained"] == PLACES
    first, *rest = server.requests
    assert first["max_tokens"] == 77
    assert len(rest) == 2 * PLACES  # one request too many in the whole run
    assert all(body["max_completion_tokens"] == 77 and "max_tokens" not in body for body in rest)
    run(server, tmp_path, max_tokens=77)
    assert len(server.requests) == 1 + 2 * PLACES  # it is the same question


def test_a_limit_that_is_refused_under_both_names_is_reported_in_the_first_words(server: Any, tmp_path: Path) -> None:
    server.script = lambda body, n: (400, "max_tokens is too large" if "max_tokens" in body else "unknown field")
    frame = run(server, tmp_path, components=1).to_df()
    assert (frame.status == "rejected").all()
    assert frame.reason.str.contains("max_tokens is too large").all()
    assert len(server.requests) == 2 * len(frame)
    server.script = lambda body, n: (500 if "max_completion_tokens" in body else 400, UNSUPPORTED)
    with pytest.raises(AnnotationStopped, match="the server answers 500"):
        run(server, tmp_path, components=1, max_retries=0)


@pytest.mark.parametrize("key", ["mine", "sk-'quoted\\\\key-of-many-characters", "sk-" + "0123456789" * 30])
def test_the_key_is_in_no_message_and_no_file(server: Any, tmp_path: Path, key: str) -> None:
    def echo(status: int) -> Any:
        return lambda body, n: (status, f"Not with {server.keys[-1]}, nor {key!r}, nor {json.dumps(key)}")

    def assert_hidden(text: str) -> None:
        assert "[key]" in text
        assert all(spelled not in text for spelled in (key, key[:40], repr(key)[1:-1], json.dumps(key)[1:-1]))

    for status in (401, 500):
        server.script = echo(status)
        with pytest.raises(AnnotationStopped, match=f"answers {status}") as caught:
            run(server, tmp_path, api_key=key, max_retries=0)
        assert_hidden("".join(traceback.format_exception(caught.value)))
    server.script = echo(400)
    for reason in run(server, tmp_path, components=1, api_key=key).to_df().reason:
        assert_hidden(reason)
    replies: list[Any] = [f"I got {key}", {"refusal": f"Not for {key}"}, {"body": {"id": key, "choices": []}}]
    for i, reply in enumerate(replies):
        server.script = lambda body, n, reply=reply: dict(reply) if isinstance(reply, dict) else reply
        for reason in run(server, tmp_path / str(i), components=1, api_key=key).to_df().reason:
            assert_hidden(reason)
    said = json.dumps({"explainable": True, "description": f"like {key}"})
    server.script = lambda body, n: said if is_description(body) else answer(body)
    described = run(server, tmp_path / "said", components=1, api_key=key).to_df().description
    assert (described == ("like mine" if key == "mine" else "like [key]")).all()  # a short one may be a word
    kept = "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    assert "mine" in kept if key == "mine" else key not in kept


def test_a_password_in_the_address_is_in_no_message_and_no_file(server: Any, tmp_path: Path) -> None:
    hidden, url = "p@ss/word-of-mine", server.url.replace("://", "://me:p%40ss%2Fword-of-mine@")
    header = base64.b64encode(f"me:{hidden}".encode()).decode()
    server.script = lambda body, n: (400, f"Not with {server.keys[-1]} nor {hidden} nor {url}")
    found = run(server, tmp_path, components=1, base_url=url)
    assert server.keys[-1] == f"Basic {header}"
    found.save(tmp_path / "found.safetensors")
    server.script = lambda body, n: None
    with pytest.raises(AnnotationStopped, match="does not answer") as caught:
        run(server, tmp_path, components=1, base_url=url, max_retries=0)
    told = "".join(traceback.format_exception(caught.value)).encode()
    for text in (told, *(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())):
        assert b"[key]" in text
        assert all(spelled.encode() not in text for spelled in (header, hidden, "p%40ss%2Fword"))


@pytest.mark.parametrize("name", ["me", "a-token-of-many-characters"])
@pytest.mark.parametrize("end", ["@", ":@"])
def test_a_user_name_that_stands_alone_in_the_address_is_hidden_too(
    server: Any, tmp_path: Path, name: str, end: str
) -> None:
    url = server.url.replace("://", f"://{name}{end}")
    header = base64.b64encode(f"{name}:".encode()).decode()
    server.script = lambda body, n: (400, f"Not with {server.keys[-1]} nor {name} nor {url}")
    run(server, tmp_path, components=1, base_url=url).save(tmp_path / "found.safetensors")
    assert server.keys[-1] == f"Basic {header}"
    server.script = lambda body, n: None
    with pytest.raises(AnnotationStopped, match="does not answer") as caught:
        run(server, tmp_path, components=1, base_url=url, max_retries=0)
    for text in (str(caught.value).encode(), (tmp_path / "found.safetensors").read_bytes()):
        assert b"[key]" in text
        assert header.encode() not in text
        assert f"nor {name}".encode() not in text
        assert f"{name}@".encode() not in text
    said = json.dumps({"explainable": True, "description": f"of {name}"})
    server.script = lambda body, n: said if is_description(body) else answer(body)
    given = {"base_url": url, "api_key": "sk-" + "0123456789" * 3}
    described = run(server, tmp_path / "said", components=1, **given).to_df().description
    assert (described == ("of me" if name == "me" else "of [key]")).all()  # a short one may be a word


@pytest.mark.parametrize(
    "url", ["ftp://me:hidden@a/v1", "http://me:hidden@a:port/v1", "http://me:hid/den@a/v1", "me:hidden@a", "//hidden@a"]
)
def test_an_address_that_is_refused_is_shown_without_its_password(tmp_path: Path, url: str) -> None:
    with pytest.raises(InputError, match=r"^base_url='[a-z:/]*\[key\]@a\S*' is no address of a server") as caught:
        annotate(CONCEPTS, model="fake", cache=tmp_path, base_url=url)
    assert "hid" not in str(caught.value)


LOGIN = base64.b64encode(b"mine:secret").decode()


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        ("only basic support, and basic: words", None),
        ("The bearer [key] is basic knowledge.", None),
        (f"basic {LOGIN} is wrong", "basic [key] is wrong"),
        (f"basic {LOGIN.rstrip('=')}", "basic [key]"),
        ("Authorization: Basic hunter", "Authorization: Basic [key]"),
        ("{'authorization': 'basic hunter'}", "{'authorization': 'basic [key]'}"),
        ("('Proxy-Authorization', 'Basic hunter')", "('Proxy-Authorization', 'Basic [key]')"),
        ("bearer hunter", "bearer [key]"),
    ],
)
def test_a_text_about_what_is_basic_is_kept_as_it_is(tmp_path: Path, told: str, kept: str | None) -> None:
    chat = Chat(None, "fake", AnswerCache(tmp_path))
    assert chat._told(told) == (told if kept is None else kept)
    assert (chat._cause(RuntimeError(told)) is None) is (kept is not None)


@pytest.mark.parametrize("said", ["Bearer abc.def-123", 'Authorization: "bearer abc.def-123"', "basic: abc.def-123,"])
def test_the_value_of_an_authorization_header_is_kept_nowhere(server: Any, tmp_path: Path, said: str) -> None:
    server.script = lambda body, n: (400, f"wrong header {said}")  # of another than ours: a proxy's
    reasons = run(server, tmp_path, components=1, api_key="mine").to_df().reason
    assert reasons.str.contains("[key]", regex=False).all()
    assert not reasons.str.contains("abc|123").any()


def test_a_fence_is_taken_off_and_tasks_come_in_their_order() -> None:
    prompts = AnnotationPrompts.default()
    assert parse_description('```json\n{"explainable": true, "description": " x "}\n```') == (True, "x")
    assert parse_labels('{"tasks": ["coding", "mathematics", "coding"], "level": "syntax"}', prompts) == (
        ("mathematics", "coding"),
        "syntax",
    )


@pytest.mark.parametrize(
    "reply", [{"refusal": "I would rather not."}, {"content": "x", "finish_reason": "content_filter"}]
)
def test_a_refusal_is_recorded_and_kept(server: Any, tmp_path: Path, reply: dict) -> None:
    server.script = lambda body, n: answer(body) if is_description(body) else dict(reply)
    found = run(server, tmp_path, components=1)
    assert (found.to_df().status == "refused").all()
    before = len(server.requests)
    assert run(server, tmp_path, components=1).to_df().equals(found.to_df())
    assert len(server.requests) == before


def test_a_question_that_the_server_rejects_is_asked_again_by_the_next_run(server: Any, tmp_path: Path) -> None:
    bad = CONCEPTS.words_of(0, "value", 1)[0]
    server.script = lambda body, n: 400 if words_in(body)[0] == bad else answer(body)
    found = run(server, tmp_path)
    assert found.counts().to_dict()["rejected"] == 1
    assert "400" in found.to_df().query("status == 'rejected'").reason.item()
    server.script = lambda body, n: answer(body)
    before = len(server.requests)
    assert run(server, tmp_path).counts().to_dict()["explained"] == PLACES
    assert len(server.requests) == before + 2


def test_a_server_that_rejects_everything_stops_the_run(server: Any, tmp_path: Path) -> None:
    server.script = lambda body, n: 422
    with pytest.raises(AnnotationStopped, match="the server rejected each of 20 requests: 422"):
        run(server, tmp_path, seeds=(0, 1, 2))
    assert len(server.requests) <= 24


@pytest.mark.parametrize("trouble", [429, 500, 503, None])
def test_trouble_that_passes_is_retried_by_the_client(server: Any, tmp_path: Path, trouble: int | None) -> None:
    troubled = CONCEPTS.words_of(3, "key", 2)[0]
    server.script = lambda body, n: trouble if n == 0 and words_in(body)[0] == troubled else answer(body)
    found = run(server, tmp_path)
    assert found.counts().to_dict()["explained"] == PLACES
    assert len(server.requests) == 2 * PLACES + 2


def test_a_slow_answer_is_given_up_and_asked_for_again(server: Any, tmp_path: Path) -> None:
    import time

    def script(body: dict, n: int) -> str:
        if n == 0 and is_description(body):
            time.sleep(1.5)
        return answer(body)

    server.script = script
    found = run(server, tmp_path, timeout=0.5, layers=[0], components=1)
    assert found.counts().to_dict()["explained"] == 2
    assert len(server.requests) == 6


@pytest.mark.parametrize(
    ("trouble", "message"),
    [(500, "the server answers 500"), (429, "answers 429"), (401, "answers 401"), (None, "does not answer")],
)
def test_lasting_trouble_stops_and_a_second_run_repeats_nothing(
    server: Any, tmp_path: Path, trouble: int | None, message: str
) -> None:
    dead = CONCEPTS.words_of(3, "value", 0)[0]
    server.script = lambda body, n: trouble if words_in(body)[0] == dead else answer(body)
    with pytest.raises(AnnotationStopped, match=message) as caught:
        run(server, tmp_path, max_retries=1, concurrency=2)
    assert "of 12 annotations done and kept, run again to go on" in str(caught.value)
    answered = [body for body in server.requests if words_in(body)[0] != dead]
    assert len(answered) >= 10  # the components before it
    server.script = lambda body, n: answer(body)
    before = len(server.requests)
    found = run(server, tmp_path)
    assert found.counts().to_dict()["explained"] == PLACES
    new = server.requests[before:]
    assert len(new) == 2 * PLACES - len(answered)
    asked = {json.dumps(body, sort_keys=True) for body in answered}
    assert not any(json.dumps(body, sort_keys=True) in asked for body in new)


def test_an_interrupted_run_keeps_what_was_answered(server: Any, tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(server, tmp_path, on_progress=interrupt, concurrency=1)
    before = len(server.requests)
    assert before in (10, 11, 12)
    run(server, tmp_path)
    assert len(server.requests) == 2 * PLACES


def test_the_cache_knows_a_question_by_its_content(server: Any, tmp_path: Path) -> None:
    first = run(server, tmp_path)
    assert len(server.requests) == 2 * PLACES
    with chat_server() as (other, url):
        assert run(server, tmp_path, base_url=url).to_df().equals(first.to_df())
        assert other.requests == []  # another address is no other question
    for change in ({"seeds": (1,)}, {"model": "other"}, {"temperature": 0.0}, {"top_words": 3}):
        before = len(server.requests)
        run(server, tmp_path, **change)
        assert len(server.requests) == before + 2 * PLACES
    kept = sorted(tmp_path.glob("*/*.json"))
    assert len(kept) == len(server.requests)
    kept[0].write_text("{ cut")
    before = len(server.requests)
    run(server, tmp_path)
    run(server, tmp_path, seeds=(1,))
    run(server, tmp_path, model="other")
    run(server, tmp_path, temperature=0.0)
    run(server, tmp_path, top_words=3)
    assert len(server.requests) == before + 1
    assert not list(tmp_path.glob("*/*.tmp"))


@pytest.mark.parametrize("concurrency", [1, 3])
def test_no_more_requests_at_a_time_than_asked_for(server: Any, tmp_path: Path, concurrency: int) -> None:
    server.delay = 0.05
    steps: list[tuple[int, int]] = []
    run(server, tmp_path, concurrency=concurrency, on_progress=lambda done, total: steps.append((done, total)))
    assert server.most_at_once == concurrency
    assert steps == [(i, PLACES) for i in range(1, PLACES + 1)]


def test_the_key_is_sent(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    run(server, tmp_path / "a", components=1)
    assert set(server.keys) == {"Bearer none"}
    run(server, tmp_path / "b", components=1, api_key="mine")
    assert server.keys[-1] == "Bearer mine"
    monkeypatch.setenv("OPENAI_API_KEY", "environment")
    run(server, tmp_path / "c", components=1)
    assert server.keys[-1] == "Bearer environment"
    kept = "".join(path.read_text() for path in tmp_path.glob("*/*/*.json"))
    assert "mine" not in kept
    assert "environment" not in kept


def test_prompts_of_ones_own(server: Any, tmp_path: Path) -> None:
    text = """
[describe]
system = "S"
user = "Q: {words}"
[classify]
system = "{tasks} {levels}"
user = "Q: {words} Description: {description}"
[tasks]
only = "the one"
[levels]
high = "h"
"""
    path = tmp_path / "prompts.toml"
    path.write_text(text)
    server.script = lambda body, n: answer(body, tasks=("only",), level="high")
    found = run(server, tmp_path / "cache", prompts=AnnotationPrompts.load(path), components=1)
    assert (found.tasks, found.levels, found.groups) == (("only",), ("high",), {})
    assert server.requests[0]["messages"][0]["content"] in ("S", "- only: the one - high: h")
    cases = [
        ("not toml", "are no TOML"),
        (text.replace("{description}", ""), r"classify.user .* does not hold \{description\}"),
        (text.replace('system = "S"', ""), "have no describe.system"),
        (text.replace("[levels]\nhigh", "[level]\nhigh"), "have no table 'levels'"),
        (text + '[groups]\nall = ["none"]\n', "group 'all' .* names an unknown task"),
    ]
    for wrong, message in cases:
        path.write_text(wrong)
        with pytest.raises(InputError, match=message):
            AnnotationPrompts.load(path)
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert AnnotationPrompts.load(path).tasks == {"only": "the one"}
    path.write_bytes(b"\xff")
    with pytest.raises(InputError, match="is not UTF-8 text"):
        AnnotationPrompts.load(path)
    with pytest.raises(InputError, match="no file of annotation prompts at"):
        AnnotationPrompts.load(tmp_path / "missing.toml")


def test_a_word_that_looks_like_a_placeholder_stays_a_word() -> None:
    prompts = AnnotationPrompts.default()
    content = prompts.ask_labels(["{description}", "{tasks}"], "{words}")[1]["content"]
    assert "Words, nearest first: {description}, {tasks}\nDescription: {words}" in content


def test_errors(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases: list[tuple[dict, str]] = [
        ({"layers": [1]}, r"layers=\[1\] given, expected at least one of 0, 3, each once"),
        ({"layers": []}, r"layers=\[\] given"),
        ({"seeds": ()}, r"seeds=\[\] given"),
        ({"seeds": (1, 1)}, r"seeds=\[1, 1\] given, expected at least one and each once"),
        ({"components": 0}, "components=0 given, expected at least 1"),
        ({"top_words": 0}, "top_words=0 given"),
        ({"concurrency": 0}, "concurrency=0 given, expected at least 1"),
        ({"response_format": "xml"}, "response_format='xml' is none of json_schema, json_object, none"),
    ]
    for options, message in cases:
        with pytest.raises(InputError, match=message):
            run(server, tmp_path, **options)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(InputError, match="no api_key given and OPENAI_API_KEY is not set"):
        run(server, tmp_path, base_url=None)
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(InputError, match=r"pip install 'lensdiff\[annotate\]'"):
        run(server, tmp_path)
    assert server.requests == []
