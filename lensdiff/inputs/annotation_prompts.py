"""The prompts and labels of annotation, from one TOML file: lensdiff's own, or one with the same keys."""

import hashlib
import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

from lensdiff.inputs.tables import read_text
from lensdiff.results import InputError
from lensdiff.results.paths import as_path

PLACEHOLDERS = {"describe": ("{words}",), "classify": ("{words}", "{description}")}
Messages = list[dict[str, str]]


@dataclass(frozen=True, eq=False)
class AnnotationPrompts:
    """What is asked, and which answers there are.

    Attributes:
        describe, classify: a system and a user text each.
        tasks, levels: labels with what they mean.
        groups: names for several tasks together.
        digest: of the file's content, which a result records.
    """

    describe: dict[str, str]
    classify: dict[str, str]
    tasks: dict[str, str]
    levels: dict[str, str]
    groups: dict[str, tuple[str, ...]]
    digest: str

    @classmethod
    @cache
    def default(cls) -> "AnnotationPrompts":
        """Return lensdiff's own prompts."""
        return cls.parse((files("lensdiff.inputs") / "data" / "annotation_prompts.toml").read_text("utf-8"), "default")

    @classmethod
    def load(cls, path: str | Path) -> "AnnotationPrompts":
        """Read a file with the same keys as lensdiff's own.

        Raises:
            InputError: there is no such file, it is no UTF-8 or no TOML, or something is missing in it.
        """
        path = as_path(path, "a file of annotation prompts")
        if not path.is_file():
            raise InputError(f"no file of annotation prompts at {path}")
        return cls.parse(read_text(path), str(path))

    @classmethod
    def parse(cls, text: str, name: str) -> "AnnotationPrompts":
        """Read the text of such a file; `name` is for errors.

        Raises:
            InputError: it is no TOML, a key or a placeholder is missing, or a group names an unknown task.
        """
        try:
            data = tomllib.loads(text)
        except (ValueError, RecursionError) as error:  # no TOML, a number of thousands of digits, too deep
            raise InputError(f"the annotation prompts of {name} are no TOML ({error})") from error
        parts = {key: _texts(data, key, name) for key in ("describe", "classify", "tasks", "levels")}
        for step, placeholders in PLACEHOLDERS.items():
            if missing := [part for part in ("system", "user") if part not in parts[step]]:
                raise InputError(f"the annotation prompts of {name} have no {step}.{missing[0]}")
            for placeholder in placeholders:
                if placeholder not in parts[step]["user"]:
                    raise InputError(f"{step}.user of the annotation prompts of {name} does not hold {placeholder}")
        groups = {key: tuple(tasks) for key, tasks in data.get("groups", {}).items()}
        for key, tasks in groups.items():
            if unknown := set(tasks) - set(parts["tasks"]):
                raise InputError(f"group {key!r} of the annotation prompts of {name} names an unknown task {unknown}")
        return cls(**parts, groups=groups, digest=hashlib.sha256(text.encode()).hexdigest()[:16])

    def ask_description(self, words: list[str]) -> Messages:
        """Return the messages that ask what a component's words have in common."""
        return self._messages(self.describe, {"words": ", ".join(words)})

    def ask_labels(self, words: list[str], description: str) -> Messages:
        """Return the messages that ask for a component's tasks and level."""
        return self._messages(self.classify, {"words": ", ".join(words), "description": description})

    def description_schema(self) -> dict[str, Any]:
        """Return the JSON schema of a description."""
        return _object({"explainable": {"type": "boolean"}, "description": {"type": "string"}})

    def label_schema(self) -> dict[str, Any]:
        """Return the JSON schema of labels."""
        tasks = {"type": "array", "items": {"type": "string", "enum": list(self.tasks)}}
        return _object({"tasks": tasks, "level": {"type": "string", "enum": list(self.levels)}})

    def _messages(self, step: dict[str, str], values: dict[str, str]) -> Messages:
        known = values | {name: _listed(getattr(self, name)) for name in ("tasks", "levels")}
        return [{"role": role, "content": _filled(step[role], known).strip()} for role in ("system", "user")]


def _filled(text: str, values: dict[str, str]) -> str:
    # in one pass, so that a word that looks like a placeholder stays a word
    return re.sub("|".join(f"{{{name}}}" for name in values), lambda found: values[found[0][1:-1]], text)


def _listed(labels: dict[str, str]) -> str:
    return "\n".join(f"- {name}: {meaning}" for name, meaning in labels.items())


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _texts(data: dict[str, Any], key: str, name: str) -> dict[str, str]:
    found = data.get(key)
    if not isinstance(found, dict) or not found or not all(isinstance(v, str) for v in found.values()):
        raise InputError(f"the annotation prompts of {name} have no table {key!r} of texts")
    return cast(dict[str, str], found)
