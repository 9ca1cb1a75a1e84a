"""Options of an analysis: keys of its table in the config and options of its command, each with its help."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError


class Options(BaseModel):
    """A table of the config: no key but those it names, no value but of its type."""

    model_config = ConfigDict(extra="forbid", strict=True)


def option(default: Any, help: str, *, flag: str = "", factory: bool = False) -> Any:
    """Return a field with its default and its help; `flag` is its name on the command line where that is another.

    With `factory` the default is a function that makes it (of a list).
    """
    extra: Any = {"flag": flag} if flag else {}
    if factory:
        return Field(default_factory=default, description=help, json_schema_extra=extra)
    return Field(default=default, description=help, json_schema_extra=extra)


def contradiction(key: str, message: str) -> PydanticCustomError:
    """Return what a validator raises where choices contradict each other; `key` is the one that the user sees first."""
    return PydanticCustomError("contradiction", "{message}", {"message": message, "key": key})


def flag_of(name: str, field: FieldInfo) -> str:
    """Return a field's name on the command line."""
    extra = field.json_schema_extra
    given = extra.get("flag") if isinstance(extra, dict) else None
    return str(given) if given else f"--{name.replace('_', '-')}"


def _distinct(layers: list[int]) -> list[int]:
    if len(set(layers)) < len(layers):
        raise PydanticCustomError("distinct", "distinct layers", {})
    return layers


def checked_once(name: str, chosen: Sequence[Any]) -> None:
    """Refuse a list in which something comes twice.

    Raises:
        PydanticCustomError: with the list.
    """
    if len(set(chosen)) < len(chosen):
        raise contradiction(name, f"{name.rpartition('.')[2]} {list(chosen)}: one comes twice, expected each once")


Count = Annotated[int, Field(ge=1)]
Number = Annotated[int, Field(ge=0)]
Layers = Annotated[list[Number], Field(min_length=1), AfterValidator(_distinct)]
