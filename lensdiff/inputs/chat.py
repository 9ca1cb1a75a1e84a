"""Questions to a chat model behind an OpenAI-compatible server, each answer kept on disk by the question's content.

An answer is what the model said, or that it refused; both are kept, so that a question is asked once. What is no answer
is not kept: a question that the server rejects (400, 413, 422), that it answers without any choice, or that the model
answers with something else than was asked for, is reported and asked again by the next run. A server that cannot be
reached, refuses the key, stays busy (429) or fails (5xx) after the client's own retries stops the run: everything
answered until then is on disk. The key is in no message and no file, also where a server repeats it, nor is a password
in the server's address (or a user name that stands there alone, which may be a token), nor what a message says to be
the value of an Authorization header.

The content is model, messages, options and seed. The server's address does not count: the same question to the same
model elsewhere is the same question.
"""

import base64
import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, unquote, urlsplit

from lensdiff.inputs.characters import escaped
from lensdiff.inputs.spans import shorten
from lensdiff.results import InputError
from lensdiff.results.numbers import check_count

Kind = Literal["said", "refused", "malformed", "rejected", "empty"]
FORMATS = ("json_schema", "json_object", "none")
REJECTED = (400, 413, 422)
TROUBLE = 300  # characters of a server's message that are kept
MOST_RETRIES = 100
QUOTED = 200  # characters of a malformed answer that are kept
LIMIT, LIMIT_ELSEWHERE = "max_tokens", "max_completion_tokens"  # two names that servers have for one option
NO_KEY = "none"  # a server of one's own needs no key, but the client insists on one
AUTHORIZATION = re.compile(
    r"\b(authorization[\"']?\s*[:=,]\s*[\"']?)?((bearer|basic)[\s:=]+)(?!\[key\])([^\s,;\"']+)", re.IGNORECASE
)
SECRET = 16  # characters from which on a key is never a word that an answer holds by itself


class AnnotationStopped(RuntimeError):
    """The server gave no answer after all retries; what was answered is kept and is not asked again."""


@dataclass(frozen=True)
class Answer:
    """What came back: `text` is what was said, or why nothing was.

    Attributes:
        kind: "said", "refused" (by the model or a content filter), "malformed" (said, but not what was asked for),
            "rejected" (by the server) or "empty" (no choice).
        finish: the server's finish reason.
        cached: whether it was read from disk.
        value: what the asker read in what was said.
    """

    kind: Kind
    text: str
    finish: str = ""
    cached: bool = False
    value: Any = None


@dataclass(frozen=True)
class AnswerCache:
    """Answers in a folder, one JSON file each, named by the hash of the question."""

    folder: Path

    def get(self, question: dict[str, Any]) -> Answer | None:
        """Return the kept answer; None where there is none, or only the broken file of a crash."""
        try:
            stored = json.loads(self._path(question).read_text("utf-8"))
            return Answer(stored["kind"], stored["text"], stored["finish"], cached=True)
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def put(self, question: dict[str, Any], answer: Answer) -> None:
        """Keep an answer with its question, through a temporary name."""
        path = self._path(question)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        stored = {"kind": answer.kind, "text": answer.text, "finish": answer.finish, "question": question}
        with os.fdopen(handle, "w", encoding="utf-8") as f:
            json.dump(stored, f, ensure_ascii=False, indent=1)
        os.replace(temporary, path)

    def _path(self, question: dict[str, Any]) -> Path:
        content = json.dumps(question, sort_keys=True, ensure_ascii=False)
        name = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
        return self.folder / name[:2] / f"{name}.json"


@dataclass(frozen=True, eq=False)
class Chat:
    """A chat model behind a server; safe to use from several threads.

    Attributes:
        key: what no message may hold; secrets: more of that, out of the server's address; login: a user name that
            stands alone there.
        names: options that the server turned out to know by another name.
    """

    client: Any
    model: str
    cache: AnswerCache
    options: dict[str, Any] = field(default_factory=dict)
    response_format: str = "json_schema"
    key: str = field(default=NO_KEY, repr=False)
    names: dict[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    login: str = field(default="", repr=False)

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
        check_count("max_tokens", max_tokens)
        check_count("max_retries", max_retries, least=0, most=MOST_RETRIES)
        if not (isinstance(timeout, int | float) and 0 < timeout < math.inf):
            raise InputError(f"timeout={timeout!r} given, expected seconds above 0")
        if temperature is not None and not (isinstance(temperature, int | float) and 0 <= temperature < math.inf):
            raise InputError(f"temperature={temperature!r} given, expected a number of at least 0, or None")
        if base_url is not None:
            _check_url(base_url)
        if response_format not in FORMATS:
            raise InputError(f"response_format={response_format!r} is none of {', '.join(FORMATS)}")
        try:
            import openai
        except ImportError as error:
            raise InputError("annotating needs the package openai: pip install 'lensdiff[annotate]'") from error
        key = api_key or os.environ.get("OPENAI_API_KEY") or (NO_KEY if base_url else None)
        if key is None:
            raise InputError("no api_key given and OPENAI_API_KEY is not set: give one, or base_url of a local server")
        client = openai.OpenAI(base_url=base_url, api_key=key, max_retries=max_retries, timeout=timeout)
        options: dict[str, Any] = {LIMIT: max_tokens}
        if temperature is not None:
            options["temperature"] = temperature
        secrets, login = _secrets_in(base_url)
        answers = AnswerCache(Path(cache))
        return cls(client, model, answers, options, response_format, key, secrets=secrets, login=login)

    def ask(
        self,
        messages: list[dict[str, str]],
        name: str,
        schema: dict[str, Any],
        seed: int,
        read: Callable[[str], Any],
    ) -> Answer:
        """Return the answer to a question, from disk if it was answered before.

        Args:
            read: makes of what was said what was asked for; where it raises a ValueError the answer is malformed.

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
        if known is not None and (known := self._understood(known, read)).kind in ("said", "refused"):
            return known
        answer = self._understood(self._send(question), read)
        if answer.kind in ("said", "refused"):
            self.cache.put(question, answer)
        return answer

    def _understood(self, answer: Answer, read: Callable[[str], Any]) -> Answer:
        if answer.kind != "said":
            return answer
        try:
            return replace(answer, value=read(answer.text))
        except ValueError as error:
            cut = ", cut off at max_tokens" if answer.finish == "length" else ""
            said = self._hidden(answer.text)[:QUOTED]
            return replace(answer, kind="malformed", text=f"{self._told(error)}{cut}: {said}")

    def _send(self, question: dict[str, Any]) -> Answer:
        import openai

        try:
            return self._answer(self._create(question))
        except openai.APIStatusError as error:
            if error.status_code in REJECTED:
                return Answer("rejected", f"{error.status_code}: {self._told(error)}")
            raise self._stopped(f"the server answers {error.status_code}", error) from self._cause(error)
        except openai.APIConnectionError as error:
            where = f"the server at {self._hidden(str(self.client.base_url))} does not answer"
            raise self._stopped(where, error) from self._cause(error)
        except (ValueError, RecursionError) as error:  # a body that is no JSON, or nested too deeply
            return Answer("empty", f"the server's answer is no JSON ({self._told(error)})")

    def _create(self, question: dict[str, Any]) -> Any:
        """Send a question; once more where the server seems to know the limit of tokens by its other name."""
        import openai

        create = self.client.chat.completions.create
        sent = {self.names.get(name, name): value for name, value in question.items()}
        try:
            return create(**sent)
        except openai.APIStatusError as error:
            names_it = any(name in f"{error} {error.body}" for name in (LIMIT, LIMIT_ELSEWHERE))
            if error.status_code not in REJECTED or LIMIT not in sent or not names_it:
                raise
            try:
                found = create(**{LIMIT_ELSEWHERE if name == LIMIT else name: value for name, value in sent.items()})
            except openai.APIStatusError as second:
                raise (error if second.status_code in REJECTED else second) from None
            self.names[LIMIT] = LIMIT_ELSEWHERE
            return found

    def _answer(self, found: Any) -> Answer:
        choices = getattr(found, "choices", None)
        first = choices[0] if isinstance(choices, list) and choices else None
        message = getattr(first, "message", None)
        if message is None:
            return Answer("empty", f"the server's answer holds no choice: {self._told(repr(found))}")
        finish = escaped(str(getattr(first, "finish_reason", None) or ""))
        refusal = getattr(message, "refusal", None)
        if refusal or finish == "content_filter":
            return Answer("refused", self._told(refusal or "the content filter stopped the answer"), finish)
        said = escaped(_text_of(getattr(message, "content", None)))
        return Answer("said", self._hidden(said, answer=True), finish)

    def _told(self, problem: object) -> str:
        """Return what a server or an error says as it may be kept: short, writable, without the key."""
        return AUTHORIZATION.sub(_without_value, self._hidden(escaped(str(problem))))[:TROUBLE]

    def _hidden(self, text: str, *, answer: bool = False) -> str:
        for secret in (self.key, *self.secrets, self.login):
            may_be_word = len(secret) < SECRET and (secret == self.login or len(self.key) < SECRET)
            if secret not in ("", NO_KEY) and not (answer and may_be_word):
                for spelled in (secret, repr(secret)[1:-1], json.dumps(secret)[1:-1], quote(secret, safe="")):
                    text = text.replace(spelled, "[key]")
        return text

    def _cause(self, error: Exception) -> Exception | None:
        # a traceback shows the cause in its own words
        return error if AUTHORIZATION.sub(_without_value, self._hidden(str(error))) == str(error) else None

    def _stopped(self, what: str, error: Exception) -> AnnotationStopped:
        return AnnotationStopped(f"{what}: {self._told(error)}")


def _secrets_in(base_url: str | None) -> tuple[tuple[str, ...], str]:
    """Return the password in a server's address with the header that a client makes of it, and a user name without."""
    found = urlsplit(base_url or "")
    name, password = unquote(found.username or ""), unquote(found.password or "")
    if not name and not password:
        return (), ""
    header = base64.b64encode(f"{name}:{password}".encode()).decode()
    return ((header, password), "") if password else ((header,), name)


def _without_value(found: re.Match[str]) -> str:
    """Return what says that a value of an Authorization header follows, without that value.

    The word "basic" is also one of ordinary texts: what follows it is a value behind the header's name, where it is
    what such values are (base64 of NAME:PASSWORD), or where it is no word.
    """
    header, kind, scheme, value = found.groups()
    if scheme.lower() == "basic" and not header and not _is_login(value):
        return found[0]
    return f"{header or ''}{kind}[key]"


def _is_login(value: str) -> bool:
    padded = value.rstrip("=") + "=" * (-len(value.rstrip("=")) % 4)
    try:
        if b":" in base64.b64decode(padded, validate=True):
            return True
    except ValueError:
        pass
    return any(letter.isdigit() for letter in value) and any(letter.isalpha() for letter in value)


def _without_login(url: str) -> str:
    """Return an address as an error may show it: without what stands before the last @."""
    login, at, rest = url.rpartition("@")
    scheme, slashes, _ = login.partition("//")
    return f"{scheme}{slashes}[key]@{rest}" if at and slashes else f"[key]@{rest}" if at else url


def _check_url(url: str) -> None:
    """Refuse what is no address of a server, before a client tries it again and again."""
    try:
        parts = urlsplit(url)
        found = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:  # a port that is no number, half a bracket
        found = False
    if not found or not url.isprintable() or " " in url:
        raise InputError(
            f"base_url={shorten(_without_login(url))} is no address of a server, expected one like http://127.0.0.1:8000/v1"
        )


def _text_of(content: Any) -> str:
    """Return a message's text, which some servers give in parts, with reasoning among them."""
    if isinstance(content, list):
        texts = (part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text")
        return "".join(text for text in texts if isinstance(text, str))
    return "" if content is None else str(content)
