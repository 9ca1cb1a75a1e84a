"""A chat server on loopback that answers from the words it is asked about, or misbehaves as a test tells it to."""

import contextlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# a message, its content, a status code, with or without an error's message, or None to cut the connection
Reply = dict[str, Any] | str | int | tuple[int, str] | None
Script = Callable[[dict[str, Any], int], Reply]  # of the request and how often it came before


class ChatServer:
    """Answers to requests, and a record of them.

    Attributes:
        script: what to reply; `answer` unless a test sets another.
        requests: bodies, in order.
        most_at_once: the largest number of requests in work at a time.
        delay: seconds that every answer takes.
    """

    def __init__(self) -> None:
        self.script: Script = lambda body, n: answer(body)
        self.requests: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.keys: list[str] = []
        self.most_at_once = self.at_once = 0
        self.delay = 0.0
        self.seen: Counter[str] = Counter()
        self.lock = threading.Lock()

    def handle(self, body: dict[str, Any]) -> Reply:
        name = json.dumps(body, sort_keys=True)
        with self.lock:
            before = self.seen[name]
            self.seen[name] += 1
            self.requests.append(body)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            time.sleep(self.delay)
            return self.script(body, before)
        finally:
            with self.lock:
                self.at_once -= 1


def words_in(body: dict[str, Any]) -> list[str]:
    """The words that a request asks about."""
    line = body["messages"][1]["content"].splitlines()[0]
    return line.split(": ", 1)[1].split(", ")


def is_description(body: dict[str, Any]) -> bool:
    return "Description:" not in body["messages"][1]["content"]


def answer(body: dict[str, Any], *, tasks: tuple[str, ...] = ("coding",), level: str = "semantics") -> str:
    """A proper answer."""
    if is_description(body):
        return json.dumps({"explainable": True, "description": f"words like {words_in(body)[0]}"})
    return json.dumps({"tasks": list(tasks), "level": level})


@contextlib.contextmanager
def chat_server() -> Iterator[tuple[ChatServer, str]]:
    """Run a server for the length of a test; yields it and its base URL."""
    chat = ChatServer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            chat.paths.append(self.path)
            chat.keys.append(self.headers.get("Authorization", ""))
            reply = chat.handle(body)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.reply(reply)

        def reply(self, reply: Reply) -> None:
            if reply is None:
                self.close_connection = True
                self.connection.close()
            elif isinstance(reply, int | tuple):
                status, message = reply if isinstance(reply, tuple) else (reply, f"planted {reply}")
                self.send(status, {"error": {"message": message}}, {"retry-after-ms": "1"})
            else:
                said = {"content": reply} if isinstance(reply, str) else reply
                self.send(200, said.pop("body", None) or completion(said))

        def send(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
            data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield chat, f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def completion(message: dict[str, Any]) -> dict[str, Any]:
    """A chat completion that says a message."""
    finish = message.pop("finish_reason", "stop")
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": None, **message}}
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "fake", "choices": [choice]}
