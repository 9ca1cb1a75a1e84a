"""Headers that speak of more than their file holds: refused before anything is made of them."""

import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest

from lensdiff.models import load_model
from lensdiff.models.controlling import store
from lensdiff.models.loading.gguf_header import check_header
from lensdiff.results import InputError
from tests.checkpoints import hf_model, save_checkpoint
from tests.conftest import ROOT
from tests.gguf_files import write_gguf
from tests.results.small import Numbers

HUGE = 2**60
U32, U64, F32, TEXT, LIST = 4, 10, 6, 8, 9


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def key(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def array(kind: int, count: int, values: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, count) + values


def tensor(*shape: int, start: int = 0, name: str = "a", axes: int | None = None) -> bytes:
    sizes = struct.pack(f"<{len(shape)}Q", *shape)
    return text(name) + struct.pack("<I", len(shape) if axes is None else axes) + sizes + struct.pack("<IQ", 0, start)


def gguf(*, keys: tuple[bytes, ...] = (), tensors: tuple[bytes, ...] = (), n_keys=None, n_tensors=None) -> bytes:
    counts = (len(tensors) if n_tensors is None else n_tensors, len(keys) if n_keys is None else n_keys)
    return b"GGUF" + struct.pack("<IQQ", 3, *counts) + b"".join((*keys, *tensors))


NAME = key("general.architecture", TEXT, text("llama"))
NESTED = b"".join(array(LIST, 1) for _ in range(10)) + array(U32, 0)
GGUFS = {
    "keys": (gguf(keys=(NAME,), n_keys=HUGE), rf"keys of {HUGE} entries"),
    "tensors": (gguf(keys=(NAME,), n_tensors=HUGE), rf"tensors of {HUGE} entries"),
    "a key's name": (gguf(keys=(struct.pack("<Q", HUGE) + b"a" * 100,)), rf"a key of {HUGE} entries"),
    "a text": (gguf(keys=(key("a", TEXT, struct.pack("<Q", HUGE)),)), rf"a text of {HUGE} entries"),
    "an array of numbers": (gguf(keys=(NAME, key("a", LIST, array(F32, HUGE)))), rf"an array of {HUGE} entries"),
    "an array of texts": (gguf(keys=(key("a", LIST, array(TEXT, HUGE)),)), rf"an array of {HUGE} entries"),
    "an array of arrays": (gguf(keys=(key("a", LIST, array(LIST, HUGE)),)), rf"an array of {HUGE} entries"),
    "the largest count": (gguf(keys=(key("a", LIST, array(U64, 2**64 - 1)),)), rf"an array of {2**64 - 1} entries"),
    "arrays without end": (gguf(keys=(key("a", LIST, NESTED),)), "more than 4 arrays within one another"),
    "an unknown type": (gguf(keys=(key("a", 99, b"\0" * 8),)), "unknown type 99"),
    "a shape": (gguf(keys=(NAME,), tensors=(tensor(2**31, 2**31),)), r"a tensor of 2147483648 x 2147483648 at byte 0"),
    "a shape beyond 64 bits": (gguf(keys=(NAME,), tensors=(tensor(2**40, 2**40),)), r"a tensor of \d+ x \d+"),
    "axes": (gguf(keys=(NAME,), tensors=(tensor(2, axes=2**31),)), "a tensor of 2147483648 axes"),
    "a place": (gguf(keys=(NAME,), tensors=(tensor(2, start=HUGE),)), rf"at byte {HUGE}"),
    "cut off": (gguf(keys=(NAME,), n_keys=2) + b"\1\0\0\0" * 3, "bytes of the file left"),
    "nothing": (b"GGUF", "bytes of the file left"),
    "another kind": (b"GGML" * 20, "does not begin with GGUF"),
    "the other order": (b"GGUF" + struct.pack(">IQQ", 3, 0, HUGE), rf"keys of {HUGE} entries"),
}


@pytest.mark.parametrize("name", GGUFS)
def test_a_gguf_file_that_speaks_of_more_than_it_holds_is_never_given_to_a_reader(tmp_path, monkeypatch, name):
    content, message = GGUFS[name]
    (tmp_path / "m.gguf").write_bytes(content)
    monkeypatch.setattr("gguf.GGUFReader", lambda *_: pytest.fail("read"))
    with pytest.raises(InputError, match=rf"^/.*m\.gguf cannot be read as a GGUF file: .*{message}"):
        load_model(tmp_path / "m.gguf", device="cpu")


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_whole_header_passes_whatever_its_order(tmp_path, order):
    name = struct.pack(f"{order}Q", 1) + b"a"
    keys = name + struct.pack(f"{order}IIQ", LIST, F32, 2) + b"\0" * 8
    entry = name + struct.pack(f"{order}IQQIQ", 2, 2, 3, 0, 0)
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + struct.pack(f"{order}IQQ", 3, 1, 1) + keys + entry + b"\0" * 64)
    check_header(tmp_path / "m.gguf")


def test_the_header_of_a_model_passes_and_cut_off_anywhere_it_does_not(tmp_path):
    path = write_gguf(tmp_path / "m.gguf", hf_model("llama"))
    check_header(path)
    whole = path.read_bytes()
    header = whole.index(b"blk.1.ffn_down.weight")
    for end in range(0, header, 997):
        (tmp_path / "cut.gguf").write_bytes(whole[:end])
        with pytest.raises(InputError, match=r"cut\.gguf cannot be read as a GGUF file"):
            check_header(tmp_path / "cut.gguf")


def stated(length: int, header: object, data: bytes = b"\0" * 64) -> bytes:
    encoded = json.dumps(header).encode()
    return struct.pack("<Q", length or len(encoded)) + encoded + data


def one(shape: list[int], end: int) -> dict[str, object]:
    return {"model.norm.weight": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}


SAFETENSORS = {
    "a header's length": stated(HUGE, {}),
    "the largest length": stated(2**64 - 1, {}),
    "a shape": stated(0, one([2**31, 2**31], 64)),
    "a shape and its place": stated(0, one([2**31, 2**29], 2**62)),
    "a place": stated(0, one([16], HUGE)),
    "a shape beyond 64 bits": stated(0, one([2**40, 2**40], 64)),
    "half a length": b"\1\0\0",
}


def refusals_of_folder(folder: Path, content: bytes) -> list[str]:
    """What is said of a checkpoint, of a saved result and of a kept control whose file is this."""
    save_checkpoint("llama", folder / "model")
    (folder / "model" / "model.safetensors").write_bytes(content)
    (folder / "result.safetensors").write_bytes(content)
    store._path(folder, "kept").parent.mkdir(exist_ok=True)
    store._path(folder, "kept").write_bytes(content)
    assert store.load(folder, "kept") is None  # it is made anew
    return [
        said_by(lambda: load_model(folder / "model", device="cpu")),
        said_by(lambda: Numbers.load(folder / "result.safetensors")),
    ]


def refusals_of_adapter(folder: Path, content: bytes) -> list[str]:
    tuned = peft.get_peft_model(hf_model("llama"), peft.LoraConfig(r=2, target_modules=["q_proj"]))
    tuned.save_pretrained(folder / "adapter")
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(content)
    return [said_by(lambda: load_model(folder / "adapter", base=hf_model("llama"), device="cpu"))]


def said_by(call: Callable[[], object]) -> str:
    try:
        call()
    except InputError as error:
        return str(error)
    raise AssertionError("it is not refused")


def peak() -> int:
    """The most memory that this program had; `getrusage` counts what its parent had when it was begun as its own."""
    said = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert said is not None
    return int(said[1]) * 1024


MOST = 2**28


def report(folder: str) -> None:
    """Print what is said of each file and by how much it raised the most memory that this process ever had."""
    load_model(save_checkpoint("llama", Path(folder, "good")), device="cpu")  # what any load takes
    found: dict[str, Any] = {}
    for of in (refusals_of_folder, refusals_of_adapter):
        for number, (name, content) in enumerate(SAFETENSORS.items()):
            here, before = Path(folder, of.__name__, str(number)), peak()
            here.mkdir(parents=True)
            found[f"{of.__name__} {name}"] = (of(here, content), peak() - before)
    before = peak()
    held = b"\1" * (2 * MOST)
    found["what is taken is seen"] = ([str(len(held))], peak() - before)
    sys.stdout.write(json.dumps(found))


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """In a process of its own: the most that this one ever had may be more than a file could take."""
    code = "import sys; from tests.models.test_headers import report; report(sys.argv[1])"
    command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path_factory.mktemp("headers"))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.strip().split("\n")[-1])


@pytest.mark.parametrize("name", SAFETENSORS)
def test_a_safetensors_file_that_speaks_of_more_than_it_holds_is_refused(reported, name):
    (of_model, of_result), taken = reported[f"refusals_of_folder {name}"]
    assert re.match(r"^cannot load model: \S", of_model)
    assert "is not a saved result" in of_result
    assert taken < MOST


@pytest.mark.parametrize("name", SAFETENSORS)
def test_an_adapter_that_speaks_of_more_than_it_holds_is_refused(reported, name):
    (of_adapter,), taken = reported[f"refusals_of_adapter {name}"]
    assert re.match(r"^cannot load the adapter adapter: \S", of_adapter)
    assert taken < MOST


def test_memory_that_is_taken_would_be_seen(reported):
    assert reported["what is taken is seen"][1] > MOST
