"""Who a model and a tokenizer are: names that tell the two models of a pair apart, and a digest of a tokenizer."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from lensdiff.models.view import ModelView
from lensdiff.results import InputError

_DIGEST = "_tokenizer_digest"  # a view carries it: a large vocabulary takes a second


def distinct_ids(ids: tuple[str, str], sources: tuple[Any, Any], revisions: tuple[Any, Any]) -> tuple[str, str]:
    """Return names of two models that are not the same.

    Two folders (or files) of one name get the shortest ends of their paths that differ ("x/hf" and "y/hf"), two
    revisions of one hub name get the revision; where a model is compared with itself, or neither of two objects has a
    name of its own, the second one gets " (2)".
    """
    if ids[0] != ids[1]:
        return ids
    base, tuned = (_parts(source) for source in sources)
    if base and tuned and base != tuned:
        n = next(n for n in range(2, max(len(base), len(tuned)) + 1) if base[-n:] != tuned[-n:])
        return _end(base, n), _end(tuned, n)
    if base and not tuned:
        return _end(base, 2), ids[1]
    if tuned and not base:
        return ids[0], _end(tuned, 2)
    if not base and revisions[0] != revisions[1]:
        named = [f"{name}@{revision}" if revision else name for name, revision in zip(ids, revisions, strict=True)]
        return named[0], named[1]
    return ids[0], f"{ids[1]} (2)"


def _parts(source: Any) -> tuple[str, ...]:
    """Return the parts of the path of a folder or file, none of anything else."""
    if not isinstance(source, str | Path) or not Path(source).expanduser().exists():
        return ()
    path = Path(os.path.abspath(Path(source).expanduser()))
    return (path.with_suffix("") if path.is_file() else path).parts


def _end(parts: tuple[str, ...], n: int) -> str:
    return str(Path(*parts[-n:]))


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a digest of what decides which ids a text becomes: vocabulary, rules, special tokens."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    state = json.loads(backend.to_str()) if backend is not None else tokenizer.get_vocab()
    if backend is not None:  # what the last call asked for
        state = {key: value for key, value in state.items() if key not in ("truncation", "padding")}
    whole = json.dumps([state, tokenizer.special_tokens_map], sort_keys=True, default=str)
    return hashlib.blake2b(whole.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def digest_of(view: ModelView) -> str:
    """Return the digest of a model's tokenizer, "" where it has none."""
    if view._tokenizer is None:
        return ""
    size, known = len(view._tokenizer), vars(view).get(_DIGEST)
    if known is None or known[0] != size:  # tokens were added since
        known = vars(view)[_DIGEST] = size, tokenizer_digest(view._tokenizer)
    return known[1]


def check_ids(view: ModelView, ids: tuple[int, ...], text: str, model: str) -> None:
    """Refuse token ids of another tokenizer that are not the same text in this model's.

    Args:
        text: what the tokenizer that they are of makes of them.
        model: the name of the model that they are of.

    Raises:
        InputError: an id means another string here; the first such id is named.
    """
    decoded = str(view.tokenizer.decode(list(ids)))
    if decoded == text:
        return
    so_far = (str(view.tokenizer.decode(list(ids[: n + 1]))).rstrip("\ufffd") for n in range(len(ids)))
    n = next((n for n, begun in enumerate(so_far) if not text.startswith(begun)), len(ids) - 1)
    raise InputError(
        f"the response of {model or 'another model'!r} has ids of another tokenizer: id {ids[n]} at position {n} is "
        f"{str(view.tokenizer.decode([ids[n]]))!r} in {view.info.id!r}, which makes {decoded[:60]!r} of {text[:60]!r}; "
        "give the response's text instead"
    )
