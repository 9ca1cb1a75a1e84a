"""Which commit a hub name stands for, since its branches move, and what a model's results are known by."""

import re
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, is_offline_mode, try_to_load_from_cache
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

from lensdiff.inputs.fingerprints import fingerprint
from lensdiff.models.loading.places import is_hub_name
from lensdiff.results.errors import InputError

COMMIT = re.compile(r"[0-9a-f]{40}")
CONFIGS = ("config.json", "adapter_config.json")  # one of them is in the cache wherever a model or an adapter is
TIMEOUT = 5.0  # seconds; a hub that cannot be reached at once is answered for by the cache


def commit_of(source: str | Path, revision: str | None) -> str | None:
    """Return the commit that a revision of a hub name, by default "main", stands for at this moment.

    The hub is asked once and for seconds; offline, or where it does not answer, the commit is the one that the cache
    holds, which is what would be loaded. A whole commit hash is itself, whatever the hub and the cache hold.

    Returns:
        40 hex digits, or None of a folder or a file, and where it cannot be told.
    """
    if not is_hub_name(source):
        return None
    if revision is not None and COMMIT.fullmatch(revision):
        return revision
    name = str(source)
    if not is_offline_mode():
        try:
            return _asked(name, revision)
        except Exception:  # the kinds differ between versions of huggingface_hub: httpx's, httpx2's, requests'
            pass
    return _cached(name, revision)


def reach(name: str, revision: str | None) -> str | None:
    """Return the commit of a hub name as `commit_of` does, and refuse at once what cannot be had.

    transformers asks a hub that cannot be reached six times for each file of a model; here it is asked once.

    Raises:
        InputError: the hub cannot be reached and its cache has no such model, or the hub has none.
    """
    if is_offline_mode():
        return commit_of(name, revision)  # what is not in the cache is told at once
    try:
        return _asked(name, revision)
    except Exception as error:
        if (commit := _cached(name, revision)) is not None:
            return commit
        if isinstance(error, RevisionNotFoundError):
            raise InputError(f"cannot load {name}: the hub has no revision {revision!r} of it") from None
        if isinstance(error, RepositoryNotFoundError):  # the hub does not tell what is missing from what is private
            raise InputError(
                f"cannot load {name}: no folder of that name is here, and the hub has no such model, or it is private "
                "or gated: log in to it"
            ) from None
        if any("Connect" in kind.__name__ for kind in type(error).__mro__):
            raise InputError(
                f"cannot load {name}: no folder of that name is here, and the hub cannot be reached"
            ) from None
    return None  # it may answer when files are asked for


def _asked(name: str, revision: str | None) -> str | None:
    return HfApi().model_info(name, revision=revision, timeout=TIMEOUT).sha


def _cached(name: str, revision: str | None) -> str | None:
    for config in CONFIGS:
        try:
            found = try_to_load_from_cache(name, config, revision=revision)
        except (HFValidationError, OSError):  # no name that the hub could know, a cache that cannot be read
            return None
        if isinstance(found, str):
            return commit_in(found)
    return None


def commit_in(file: str | None) -> str | None:
    """Return the commit of a file in the hub's cache, which is the name of its folder; None of any other file."""
    commit = Path(file).parent.name if file is not None else ""
    return commit if COMMIT.fullmatch(commit) else None


def model_identity(source: str | Path, revision: str | None) -> dict[str, Any]:
    """Return what the results of a model are known by, in JSON types.

    Of a folder or a file its fingerprint and not its path: moved, it is the same model. Of an adapter's folder that is
    the adapter's alone, and the base's identity comes beside it. Of a hub name the name and the commit, or the revision
    as it was asked for where the commit cannot be told.

    Raises:
        InputError: a file cannot be read.
    """
    if is_hub_name(source):
        return {"name": str(source), "revision": commit_of(source, revision) or revision}
    return {"files": fingerprint(Path(source).expanduser())}
