"""Options of an analysis: keys of its table in the config and options of its command, each with its help."""

from collections.abc import Sequence
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from lensdiff.defaults import LARGEST_SEED, MOST


class Options(BaseModel):
    """A table of the config: no key but those it names, no value but of its type."""

    model_config = ConfigDict(extra="forbid", strict=True)


def option(default: Any, help: str, *, flag: str = "", factory: bool = False, example: Any = None) -> Any:
    """Return a field with its default and its help, which names all choices that there are.

    Args:
        flag: its name on the command line where that is another.
        factory: the default is a function that makes it (of a list).
        example: what an example config shows where the default is None; the help says what None means.
    """
    assert default is not None or example is not None, f"an option without a default needs an example: {help}"
    extra: Any = {"flag": flag} if flag else {}
    given: Any = {"default_factory" if factory else "default": default}
    return Field(description=help, json_schema_extra=extra, examples=[] if example is None else [example], **given)


def contradiction(key: str, message: str) -> PydanticCustomError:
    """Return what a validator raises where choices contradict each other; `key` is the one that the user sees first."""
    return PydanticCustomError("contradiction", "{message}", {"message": message, "key": key})


def expected(what: str) -> PydanticCustomError:
    """Return what a validator raises where a value is none of those expected; `what` is what was."""
    return PydanticCustomError("expected", "{what}", {"what": what})


def flag_of(name: str, field: FieldInfo) -> str:
    """Return a field's name on the command line."""
    extra = field.json_schema_extra
    given = extra.get("flag") if isinstance(extra, dict) else None
    return str(given) if given else f"--{name.replace('_', '-')}"


def are_layers(field: FieldInfo) -> bool:
    """Return whether a field's values are layers, which the command line takes as `0,1,5-8`."""
    of_type = {Layers, LayersToTheEnd} & {field.annotation, *get_args(field.annotation)}
    return bool(of_type) or any(getattr(item, "func", None) is _distinct for item in field.metadata)


def choosable(field: FieldInfo, n_layers: int) -> range:
    """Return the layers that such a field may name, of a model with so many."""
    to_the_end = LayersToTheEnd in (field.annotation, *get_args(field.annotation)) or TO_THE_END in field.metadata
    return range(n_layers + to_the_end)


def example_of(field: FieldInfo) -> Any:
    """Return what an example config shows of a field: its default, or an example where that is None."""
    default = field.get_default(call_default_factory=True)
    return default if default is not None else next(iter(field.examples or ()), None)


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


Count = Annotated[int, Field(ge=1, le=MOST)]
Number = Annotated[int, Field(ge=0, le=MOST)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
Layers = Annotated[list[Number], Field(min_length=1), AfterValidator(_distinct)]
TO_THE_END = "to the end"
# of the stream: where it enters a layer, and one more, where it leaves the last
LayersToTheEnd = Annotated[list[Number], Field(min_length=1), AfterValidator(_distinct), TO_THE_END]
