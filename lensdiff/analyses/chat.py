"""Questions to a chat model behind an OpenAI-compatible server, each answer kept on disk by the question's content.

An answer is what the model said, or that it refused; both are kept, so that a question is asked once. What is no answer
is not kept: a question that the server rejects (400, 413, 422) or answers without any choice is reported and asked
again by the next run. A server that cannot be reached, refuses the key, stays busy (429) or fails (5xx) after the
client's own retries stops the run: everything answered until then is on disk.

The content is model, messages, options and seed. The server's address does not count: the same question to the same
model elsewhere is the same question.
"""

import hashlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from lensdiff.results import InputError

Kind = Literal["said", "refused", "rejected", "empty"]
FORMATS = ("json_schema", "json_object", "none")
REJECTED = (400, 413, 422)
TROUBLE = 300  # characters of a server's message that are kept


class AnnotationStopped(RuntimeError):
    """The server gave no answer after all retries; what was answered is kept and is not asked again."""


@dataclass(frozen=True)
class Answer:
    """What came back: `text` is what was said, or why nothing was.

    Attributes:
        kind: "said", "refused" (by the model or a content filter), "rejected" (by the server) or "empty" (no choice).
        finish: the server's finish reason.
        cached: whether it was read from disk.
    """

    kind: Kind
    text: str
    finish: str = ""
    cached: bool = False


@dataclass(frozen=True)
class AnswerCache:
    """Answers in a folder, one JSON file each, named by the hash of the question."""

    folder: Path

    def get(self, question: dict[str, Any]) -> Answer | None:
        """Return the kept answer; None where there is none, or only the broken file of a crash."""
        try:
            stored = json.loads(self._path(question).read_text("utf-8"))
            return Answer(stored["kind"], stored["text"], stored["finish"], cached=True)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, question: dict[str, Any], answer: Answer) -> None:
        """Keep an answer with its question, through a temporary name."""
        path = self._path(question)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        stored = {name: value for name, value in asdict(answer).items() if name != "cached"} | {"question": question}
        with os.fdopen(handle, "w", encoding="utf-8") as f:
            json.dump(stored, f, ensure_ascii=False, indent=1)
        os.replace(temporary, path)

    def _path(self, question: dict[str, Any]) -> Path:
        content = json.dumps(question, sort_keys=True, ensure_ascii=False)
        name = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
        return self.folder / name[:2] / f"{name}.json"


@dataclass(frozen=True, eq=False)
class Chat:
    """A chat model behind a server; safe to use from several threads."""

    client: Any
    model: str
    cache: AnswerCache
    options: dict[str, Any] = field(default_factory=dict)
    response_format: str = "json_schema"

    @classmethod
    def connect(
        cls,
        model: str,
        cache: str | Path,
        *,
        base_url: str | None,
        api_key: str | None,
        temperature: float | None,
        max_tokens: int,
        response_format: str,
        max_retries: int,
        timeout: float,
    ) -> "Chat":
        """Return a chat with a server; nothing is sent yet.

        Raises:
            InputError: the openai package is missing, there is no key, or an option cannot be.
        """
        if response_format not in FORMATS:
            raise InputError(f"response_format={response_format!r} is none of {', '.join(FORMATS)}")
        try:
            import openai
        except ImportError as error:
            raise InputError("annotating needs the package openai: pip install 'lensdiff[annotate]'") from error
        # a server of one's own needs no key, but the client insists on one
        key = api_key or os.environ.get("OPENAI_API_KEY") or ("none" if base_url else None)
        if key is None:
            raise InputError("no api_key given and OPENAI_API_KEY is not set: give one, or base_url of a local server")
        client = openai.OpenAI(base_url=base_url, api_key=key, max_retries=max_retries, timeout=timeout)
        options: dict[str, Any] = {"max_tokens": max_tokens}
        if temperature is not None:
            options["temperature"] = temperature
        return cls(client, model, AnswerCache(Path(cache)), options, response_format)

    def ask(self, messages: list[dict[str, str]], name: str, schema: dict[str, Any], seed: int) -> Answer:
        """Return the answer to a question, from disk if it was asked before.

        Raises:
            AnnotationStopped: the server gave none after all retries.
        """
        question = {"model": self.model, "messages": messages, "seed": seed} | self.options
        if self.response_format == "json_schema":
            named = {"name": name, "strict": True, "schema": schema}
            question["response_format"] = {"type": "json_schema", "json_schema": named}
        elif self.response_format == "json_object":
            question["response_format"] = {"type": "json_object"}
        known = self.cache.get(question)
        if known is not None:
            return known
        answer = self._send(question)
        if answer.kind in ("said", "refused"):
            self.cache.put(question, answer)
        return answer

    def _send(self, question: dict[str, Any]) -> Answer:
        import openai

        try:
            found = self.client.chat.completions.create(**question)
        except openai.APIStatusError as error:
            if error.status_code in REJECTED:
                return Answer("rejected", f"{error.status_code}: {str(error)[:TROUBLE]}")
            raise AnnotationStopped(f"the server answers {error.status_code}: {str(error)[:TROUBLE]}") from error
        except openai.APIConnectionError as error:
            raise AnnotationStopped(f"the server at {self.client.base_url} does not answer: {error}") from error
        except ValueError as error:  # a body that is no JSON
            return Answer("empty", f"the server's answer is no JSON ({error})"[:TROUBLE])
        return _read(found)


def _read(found: Any) -> Answer:
    choices = getattr(found, "choices", None)
    if not choices or getattr(choices[0], "message", None) is None:
        return Answer("empty", f"the server's answer holds no choice: {found!r}"[:TROUBLE])
    message, finish = choices[0].message, choices[0].finish_reason or ""
    refusal = getattr(message, "refusal", None)
    if refusal or finish == "content_filter":
        return Answer("refused", refusal or "the content filter stopped the answer", finish)
    return Answer("said", message.content or "", finish)
