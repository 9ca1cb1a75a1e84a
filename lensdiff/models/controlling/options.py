"""What each kind of control can be told, checked at the door."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from lensdiff.defaults import TRAINING_BATCH, TRAINING_RATE, TRAINING_STEPS
from lensdiff.inputs.prompts import Prompt
from lensdiff.results import InputError
from lensdiff.results.numbers import check_count

Kind = Literal["distilled", "shuffled", "gradient-noise", "spectrum", "norm", "self"]
KINDS: tuple[str, ...] = get_args(Kind)
TRAINED = ("distilled", "shuffled")
KEPT = ("distilled", "shuffled", "gradient-noise")  # what they are made from is kept on disk
DATA_LENGTH = 256  # of tuning data's rows
Divide = Literal["none", "rms"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a control is trained.

    Attributes:
        steps: of AdamW, without weight decay.
        rate: its learning rate.
        batch: rows of a step.
        length: tokens of a row; of tuning data, the longest row (256 unless given, what is beyond is cut).
        rank: of the low-rank factors; None for that of the real change where all its matrices are low-rank, else full
            training.
    """

    steps: int = TRAINING_STEPS
    rate: float = TRAINING_RATE
    batch: int = TRAINING_BATCH
    length: int = 64
    rank: int | None = None

    def __post_init__(self) -> None:
        lowest = {"steps": 1, "batch": 1, "length": 2} | ({} if self.rank is None else {"rank": 1})
        for name, least in lowest.items():
            check_count(name, getattr(self, name), least=least)
        if isinstance(self.rate, bool) or not isinstance(self.rate, int | float) or not 0 < self.rate < math.inf:
            raise InputError(f"rate={self.rate!r} is no positive number")


@dataclass(frozen=True, kw_only=True)
class GradientNoise:
    """What gradient noise is summed over.

    Attributes:
        texts: the text; None for the base's own samples.
        tokens: of own samples; None for twice the fewest that are enough. Texts are taken whole.
        divide: "none", or "rms": each entry divided by its root mean square over the random signs, as Adam does.
    """

    texts: tuple[str, ...] | None = None
    tokens: int | None = None
    divide: str = "none"

    def __post_init__(self) -> None:
        if self.divide not in get_args(Divide):
            raise InputError(f"divide={self.divide!r} is none of {', '.join(get_args(Divide))}")
        if self.tokens is not None:
            check_count("tokens", self.tokens)
        if self.tokens is not None and self.texts is not None:
            raise InputError("tokens says how many of the base's own samples are drawn: texts are taken whole")


Pair = tuple[Prompt, str]


@dataclass(frozen=True)
class Options:
    """The checked options of one control.

    Attributes:
        recipe: of a trained kind.
        data: prompts with their responses, of "shuffled".
        noise: of "gradient-noise".
        folder: where what is expensive is kept between runs; None for nowhere.
    """

    recipe: Recipe = Recipe()
    data: tuple[Pair, ...] = ()
    noise: GradientNoise = GradientNoise()
    folder: Path | None = None

    def recorded(self, kind: str) -> dict[str, Any]:
        """Return what the provenance says: every option that decides the numbers, long ones by digest."""
        if kind == "gradient-noise":
            texts = self.noise.texts
            return asdict(self.noise) | {"texts": None if texts is None else _digest(texts)}
        if kind not in TRAINED:
            return {}
        return asdict(self.recipe) | ({"data": _digest(self.data)} if kind == "shuffled" else {})


def checked(kind: str, given: Mapping[str, Any], default: Path) -> Options:
    """Return the options of a kind.

    Args:
        default: the folder that `cache=True` means.

    Raises:
        InputError: the kind is unknown, an option is unknown or another kind's, or a value is not what is expected.
    """
    if kind not in KINDS:
        raise InputError(f"kind={kind!r} is none of {', '.join(KINDS)}")
    available = _available(kind)
    for name in given:
        if name not in available:
            others = [other for other in KINDS if name in _available(other)]
            is_of = f"an option of {' and '.join(others)}" if others else "no option"
            listed = f"takes {', '.join(available)}" if available else "takes none"
            raise InputError(f"{name} is {is_of}, a control of kind {kind!r} {listed}")
    values = dict(given)
    folder = _folder(values.pop("cache", True), default) if kind in KEPT else None
    if kind == "gradient-noise":
        texts = _texts(values.pop("texts", None))
        return Options(noise=GradientNoise(texts=texts, **values), folder=folder)
    if kind not in TRAINED:
        return Options()
    data = _data(values.pop("data", None)) if kind == "shuffled" else ()
    if kind == "shuffled":
        values.setdefault("length", DATA_LENGTH)
    return Options(Recipe(**values), data, folder=folder)


def unusual(kind: str, recorded: Mapping[str, Any]) -> list[str]:
    """Return the recorded options of a control that are not its kind's defaults, as `name=value`; data are none."""
    recipe = Recipe(length=DATA_LENGTH) if kind == "shuffled" else Recipe()
    usual = Options(recipe).recorded(kind)
    return [f"{name}={value}" for name, value in recorded.items() if name != "data" and value != usual[name]]


def _available(kind: str) -> list[str]:
    recipe, noise = ([field.name for field in fields(options)] for options in (Recipe, GradientNoise))
    found = {"distilled": recipe, "shuffled": ["data", *recipe], "gradient-noise": noise}.get(kind, [])
    return [*found, *(["cache"] if kind in KEPT else [])]


def _folder(cache: Any, default: Path) -> Path | None:
    if cache is None or cache is False:
        return None
    if cache is not True and not isinstance(cache, str | Path):
        raise InputError(f"cache={cache!r} is no folder, expected a path, True for the user's own or None for nowhere")
    folder = default if cache is True else Path(cache).expanduser()
    if folder.exists() and not folder.is_dir():
        raise InputError(f"cache={str(folder)!r} is a file, expected a folder")
    return folder


def _texts(given: Any) -> tuple[str, ...] | None:
    if given is None:
        return None
    if isinstance(given, str) or not isinstance(given, Sequence) or not all(isinstance(t, str) for t in given):
        raise InputError("texts is no list of texts")
    return tuple(given)


def _data(given: Any) -> tuple[Pair, ...]:
    wanted = "data is a list of (prompt, response), each a text (the prompt may be a Prompt)"
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise InputError(f"a shuffled control needs data: {wanted}")
    found: list[Pair] = []
    for n, row in enumerate(given):
        if not isinstance(row, tuple | list) or len(row) != 2:
            raise InputError(f"{wanted}, row {n} is {type(row).__name__}")
        prompt, response = row
        if not isinstance(prompt, Prompt | str) or not isinstance(response, str) or not response.strip():
            raise InputError(f"{wanted}, row {n} holds something else or an empty response")
        found.append((prompt if isinstance(prompt, Prompt) else Prompt(prompt), response))
    if len(found) < 2:
        raise InputError(f"a shuffled control needs at least 2 rows of data to permute, got {len(found)}")
    return tuple(found)


def _digest(value: Any) -> str:
    text = repr([(p.stripped, r) for p, r in value] if value and isinstance(value[0], tuple) else list(value))
    return f"{len(value)} rows, {hashlib.blake2b(text.encode('utf-8', 'surrogatepass'), digest_size=8).hexdigest()}"
