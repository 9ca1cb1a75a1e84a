"""Long trouble, not a part of the tests: kills, a full disk, two writers, many prompts, hostile strings.

`make soak` runs it, on the shipped toy pair and with the real command, and prints its figures as one table. What is
killed or finds no room is run again until it ends, and has to hold, value by value, what an undisturbed run holds.

    python -m tests.soak.run --kills 25 --prompts 500 --strings 2000
"""

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path

from lensdiff.inputs import toy_pair
from lensdiff.pipeline.report import Report
from lensdiff.results import ResultStore
from tests.pipeline.resuming import assert_same
from tests.views.directories import with_attribution
from tests.views.hostile import HOSTILE

SMALL = """
max_prompts = 4
max_new_tokens = 6
instruction_use = {draws = 1, max_tokens = 6}
attribute = {deletion_draws = 1}
heads = {top_k = 10, layers_per_group = 1}
mlp = {n_components = 8, ranks = [1, 4], top_words = 5}
[controls]
kinds = ["spectrum"]
instruction_use = 2
attention = 2
heads = 2
mlp = 2
value_rotation = 2
attribute = 1
"""
MANY = """
analyses = ["attribute"]
max_new_tokens = 4
attribute = {deletion_draws = 1}
[controls]
attribute = 0
"""
ROOM = 300 * 1024  # bytes on the disk that is full
LIMIT = 600.0  # seconds that one command may take
SEED = 0


class Figures:
    """The lines of the table, printed as they come and once more at the end."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str]] = []

    def add(self, what: str, found: str) -> None:
        self.rows.append((what, found))
        print(f"{what}: {found}", flush=True)

    def table(self) -> str:
        width = max(len(what) for what, _ in self.rows)
        return "\n".join(f"{what:<{width}}  {found}" for what, found in self.rows)


def command(config: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "lensdiff", "run", str(config), "--out", str(out), "--quiet"]


def start(config: Path, out: Path, limit: int | None = None) -> subprocess.Popen[str]:
    """Begin the real command, as a process of its own; `limit` is the most bytes that a file of it may have."""

    def limited() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command(config, out), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment,
        preexec_fn=limited,
    )  # fmt: skip


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """The exit code of a command and the last line that it wrote to standard error."""
    _, err = process.communicate(timeout=LIMIT)
    assert "Traceback" not in err, err
    return process.returncode, (err.strip().split("\n") or [""])[-1]


def finish(config: Path, out: Path) -> None:
    code, said = ended(start(config, out))
    assert code == 0, said


def config_of(folder: Path, body: str, prompts: Path = toy_pair.PROMPTS) -> Path:
    path = folder / f"{len(list(folder.glob('*.toml')))}.toml"
    models = f'base = "{toy_pair.BASE}"\ntuned = "{toy_pair.TUNED}"\nprompts = "{prompts}"\ndevice = "cpu"\n'
    path.write_text(models + body)
    return path


def kills(folder: Path, config: Path, fresh: ResultStore, seconds: float, n: int, figures: Figures) -> None:
    """Kill the command at random moments of its life; a directory that is done is compared, and another one begun."""
    rng, killed, compared, at = random.Random(SEED), 0, 0, []
    out = folder / "killed-0"
    while killed < n:
        process = start(config, out)
        wait, expected = rng.uniform(0.2, 1.0) * seconds, [0]
        try:
            process.wait(timeout=wait)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            killed, at = killed + 1, [*at, units_done(out)]
            expected.append(-signal.SIGKILL)
        code, said = ended(process)
        assert code in expected, (code, said)
        if code == 0:
            compared = compared + compare(out, fresh)
            out = folder / f"killed-{killed}"
    finish(config, out)
    compared += compare(out, fresh)
    figures.add("kills", f"{killed} (SIGKILL, with {min(at)} to {max(at)} units done)")
    figures.add("directories that were killed and resumed", f"{compared}, each value as undisturbed")


def units_done(out: Path) -> int:
    store = ResultStore(out)
    return sum(len(state.units) for state in store.manifest.steps.values()) if store.exists() else 0


def compare(out: Path, fresh: ResultStore) -> int:
    assert_same(ResultStore(out), fresh)
    return 1


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Callable[[int], None] | None]:
    """A disk of its own, and what makes it larger; None where this user may not mount one."""
    folder.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mounted, capture_output=True, check=False).returncode != 0:
        yield None
        return
    try:
        yield lambda new: subprocess.run(["mount", "-o", f"remount,size={new}", str(folder)], check=True) and None
    finally:
        subprocess.run(["umount", str(folder)], check=False)


def full_disk(folder: Path, config: Path, fresh: ResultStore, figures: Figures) -> None:
    """Run where there is too little room, then where there is enough."""
    with small_disk(folder / "disk", ROOM) as enlarge:
        out = folder / "disk" / "results"
        code, said = ended(start(config, out, limit=ROOM // 10 if enlarge is None else None))
        assert code == 1, (code, said)
        if enlarge is not None:
            enlarge(2**30)
        done = units_done(out)
        finish(config, out)
        compare(out, fresh)
    how = f"a disk of {ROOM // 1024} KiB" if enlarge is not None else f"files of at most {ROOM // 10240} KiB"
    figures.add("full disk", f"{how}: exit 1 with {done} units done ({said[:60]}...), resumed, each value the same")


def two_writers(folder: Path, config: Path, fresh: ResultStore, figures: Figures) -> None:
    """Start two commands on one directory at once: one works, the other says why not."""
    out = folder / "two"
    found = sorted(ended(process) for process in [start(config, out), start(config, out)])
    assert [code for code, _ in found] == [0, 2], found
    assert "another run is writing" in found[1][1], found
    compare(out, fresh)
    figures.add("two writers", "one exit 0, one exit 2 in one sentence, each value the same")


def many_prompts(folder: Path, n: int, figures: Figures) -> None:
    """Run over many prompts, each another text."""
    given = [json.loads(line) for line in toy_pair.PROMPTS.read_text().splitlines()]
    path, most = folder / "many.jsonl", {}
    with path.open("w") as file:
        for i in range(n):
            row = given[i % len(given)] | {"id": f"p{i}"}
            file.write(json.dumps(row | {"text": row["text"] + "!" * (i // len(given))}) + "\n")
    for count in (n // 10, n):
        process = start(config_of(folder, f"max_prompts = {count}\n{MANY}", path), folder / f"many-{count}")
        began = time.monotonic()
        _, status, used = os.wait4(process.pid, 0)
        assert status == 0, process.stderr.read() if process.stderr else ""
        most[count] = used.ru_maxrss / 1024
        seconds = time.monotonic() - began
    store = ResultStore(folder / f"many-{n}")
    found = store.load_table("instruction_scores").prompt_id.nunique()
    assert found == n, found
    grown = most[n] - most[n // 10]
    figures.add("prompts", f"{n} in {seconds:.0f} s, {most[n]:.0f} MiB at most, {grown:+.0f} MiB beside {n // 10}")


ACTIVE = (
    "script",
    "style",
    "meta",
    "noscript",
    "button",
)  # as many as of plain words: what acts is never drawn of words


class Tags(HTMLParser):
    """What a browser would make of a page: elements, attributes that run something, and where links lead."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: dict[str, int] = {}
        self.handlers: list[str] = []
        self.away: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found[tag] = self.found.get(tag, 0) + 1
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        self.away += [
            f"{name}={to}" for name, to in attrs if name in ("href", "src") and not (to or "").startswith("#")
        ]


def strings(folder: Path, n: int, figures: Figures) -> None:
    """Draw hostile strings as tokens, names and ids; the page has the kinds of elements that one of plain words has.

    How many there are of those that only show hangs on the words: what moved most is drawn word by word.
    """
    rng, seen, at_a_time = random.Random(SEED), 0, 100
    pieces = [*HOSTILE[:-1], *map(chr, (*range(1, 128), 0x2028, 0x202E, 0x1F600, 0xFFFE, 0x10FFFF)), "]]>", "\\u003c"]
    while seen < n:
        made = ["".join(rng.choices(pieces, k=rng.randint(1, 6))) for _ in range(at_a_time)]
        plain = [f"word{i}" for i in range(at_a_time)]
        pages = []
        for kind, tokens in (("hostile", made), ("plain", plain)):
            root = folder / f"{kind}-{seen}"
            name = tokens[0].replace("\0", "")[:40].strip() or "name"
            found = Report(with_attribution(root, prompts=2, tokens=(tokens[:80], tokens[80:]), name=name)).html()
            pages.append(Tags())
            pages[-1].feed(found)
        assert set(pages[0].found) == set(pages[1].found), (pages[0].found, pages[1].found)
        assert all(pages[0].found.get(name) == pages[1].found.get(name) for name in ACTIVE), pages[0].found
        assert not pages[0].handlers, pages[0].handlers
        assert not pages[0].away, pages[0].away
        seen += at_a_time
    figures.add("strings", f"{seen} in reports: no element, handler or link but those of plain words")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("kills", 25), ("prompts", 500), ("strings", 2000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked, figures, began = parser.parse_args(), Figures(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="lensdiff-soak-") as name:
        folder = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        config = config_of(folder, SMALL)
        finish(config, folder / "warm")  # what is kept between runs is there from now on
        started = time.monotonic()
        finish(config, folder / "fresh")
        seconds, fresh = time.monotonic() - started, ResultStore(folder / "fresh")
        figures.add("an undisturbed run", f"{seconds:.0f} s, {units_done(fresh.root)} units")
        kills(folder, config, fresh, seconds, asked.kills, figures)
        full_disk(folder, config, fresh, figures)
        two_writers(folder, config, fresh, figures)
        many_prompts(folder, asked.prompts, figures)
        strings(folder, asked.strings, figures)
    figures.add("the whole soak", f"{(time.monotonic() - began) / 60:.0f} minutes")
    print(f"\n{figures.table()}")


if __name__ == "__main__":
    main()
