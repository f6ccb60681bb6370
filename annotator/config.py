"""Dataclass <-> YAML <-> flags: one check by name and type for everything a user can set."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml

from annotator.characters import refuse_control
from annotator.errors import ConfigError
from annotator.limits import Limits, Share, check_fields, check_numbers
from annotator.spelling import Spell, current_spelling, in_python, option, spelled
from annotator.wording import shown

Parameters = TypeVar("Parameters")
PrecisionChoice = Literal["auto", "fp32", "bf16"]
"""What `--precision` takes."""
REASON_LENGTH = 300
MAX_PIXELS = 178_956_970
"""Photos with more pixels are refused unless asked for: Pillow's own limit for decompression bombs, doubled."""


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Everything `annotate run` can be told; `annotate run --config FILE` reads the same names from YAML.

    The second group decides speed and limits only, never a label, and may change between resumes.
    """

    images: str | None = None
    labeler: str = "dinoiser"
    vocab: str | None = None
    pack: str = "auto"
    weights: dict[str, str] = dataclasses.field(default_factory=dict)
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    out: str | None = None
    precision: PrecisionChoice = "auto"
    compile: bool = False
    full_decode: bool = False

    device: str = "auto"
    batch_size: Annotated[int | None, Limits(1, 65_536)] = None
    workers: Annotated[int | None, Limits(0, 1024)] = None
    limit: Annotated[int | None, Limits(0, 10**12)] = None
    max_failure_rate: Share = 0.5
    max_pixels: Annotated[int, Limits(1, 10**12)] = MAX_PIXELS
    overwrite: bool = False
    retry_failed: bool = False
    engine: Literal["local", "ray"] = "local"
    ray_address: str | None = None
    actors: Annotated[int | None, Limits(1, 100_000)] = None
    gpus_per_actor: Annotated[float | None, Limits(0, 64)] = None

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("ray_address", "actors", "gpus_per_actor"):
            if self.engine != "ray" and getattr(self, name) is not None:
                raise ValueError(
                    f"{option(name)}: expected with the engine 'ray' only, but the engine is {self.engine!r}"
                )

    @classmethod
    def load(cls, path: str | Path | None, given: Mapping[str, Any]) -> RunConfig:
        """Defaults, then the YAML file, then the flags that were given (those that are not None).

        `settings` and `weights` of both are joined, name by name.
        """
        values = read_yaml(path) if path else {}
        for name, value in given.items():
            if isinstance(value, dict) and isinstance(values.get(name), dict):
                values[name] = {**values[name], **value}
            elif value not in (None, {}):
                values[name] = value
        typed, flags = current_spelling(), {name for name, value in given.items() if value not in (None, {})}

        def spell(name: str, value: Any = None, /) -> str:
            return in_python(name, value) if path and name not in flags else typed(name, value)

        return parameters_from(cls, values, str(path or "annotate run"), spell)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML file that holds names and values."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    content = parse_yaml(text, str(path))
    if not isinstance(content or {}, dict):
        raise ConfigError(f"{path}: expected `name: value` lines, but found {type(content).__name__}")
    return content or {}


def parse_yaml(text: str, where: str) -> Any:
    """What a text in YAML says. where: names it, for the message."""
    try:
        return yaml.safe_load(text)
    except RecursionError:
        raise ConfigError(f"{where}: not valid YAML: nested too deeply; write it flatter") from None
    except Exception as error:  # PyYAML has many more than its own: of `!!int x`, or of a 31st of February
        raise ConfigError(f"{where}: not valid YAML: {' '.join(str(error).split())[:REASON_LENGTH]}") from None


def parameters_from(
    kind: type[Parameters], given: Mapping[str, Any], owner: str, spell: Spell = in_python
) -> Parameters:
    """Builds the dataclass `kind` from values by name; a wrong name or type is a one-line error.

    owner: whose parameters these are, for the message ("labeler dinoiser").
    spell: how whoever gave them writes their names.
    """
    hints = typing.get_type_hints(kind, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name in given:
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1) if isinstance(name, str) else ()
            hint = f"; did you mean {_shown(near[0], spell)}?" if near else ""
            known = ", ".join(map(spell, fields)) or "none"
            raise ConfigError(f"{owner} has no setting {_shown(name, spell)} (it has {known}){hint}")
    values = {name: _checked(value, hints[name], f"{owner}: {spell(name)}") for name, value in given.items()}
    missing = [
        name
        for name, field in fields.items()
        if name not in values and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{owner}: {', '.join(map(spell, missing))} must be set")
    try:
        with spelled(spell):
            return kind(**values)
    except (ValueError, ConfigError) as error:
        raise ConfigError(f"{owner}: {error}") from None


def _shown(name: Any, spell: Spell) -> str:
    """A name in quotes, where nothing else sets it off from the sentence."""
    return shown(name) if not isinstance(name, str) or spell(name) == name else spell(name)


class Setting(typing.NamedTuple):
    """One field of a parameters dataclass, for people.

    value:       what stands for its value, such as N or polygon|rle; True or False where giving it switches it so.
    default:     "" where there is none worth telling.
    description: from the field's metadata.
    """

    name: str
    value: str | bool
    default: str
    description: str


def settings_of(kind: type) -> list[Setting]:
    """Every setting in a parameters dataclass, in order."""
    hints = typing.get_type_hints(kind)
    return [
        Setting(
            field.name,
            not field.default if hints[field.name] is bool else _placeholder(hints[field.name]),
            _default(field.default),
            field.metadata.get("description", ""),
        )
        for field in dataclasses.fields(kind)
    ]


def _default(value: Any) -> str:
    if value is True:
        return "on"
    return "" if value in (None, "", False, dataclasses.MISSING) else str(value)


def _placeholder(kind: Any) -> str:
    """What stands for a value of that type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return "|".join(map(str, arguments))
    if origin in (types.UnionType, typing.Union):
        return _placeholder(next(argument for argument in arguments if argument is not type(None)))
    return {int: "N", float: "NUMBER", str: "TEXT"}.get(kind, "VALUE")


def parse_pair(text: str) -> tuple[str, str]:
    """`name=value` of the command line."""
    name, separator, value = text.partition("=")
    if not separator or not name.strip():
        raise ConfigError(f"expected NAME=VALUE, but got {text!r}")
    return name.strip(), value


def parse_setting(text: str) -> tuple[str, Any]:
    """The same with the value read as YAML (0.3, true, none, [1, 2]), or as text where it is none."""
    name, value = parse_pair(text)
    try:
        return name, parse_yaml(value, name)
    except ConfigError:
        return name, value


def _checked(value: Any, kind: Any, where: str) -> Any:
    """The value as that type, its numbers within their limits."""
    converted = _convert(value, kind, where)
    check_numbers(converted, kind, where)
    return converted


def _convert(value: Any, kind: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return _convert(value, arguments[0], where)
    if origin is Literal:
        if value not in arguments:
            raise ConfigError(f"{where}: expected one of {', '.join(map(str, arguments))}, but got {shown(value)}")
        return value
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        return _convert(value, next(argument for argument in arguments if argument is not type(None)), where)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{where}: expected a list, but got {shown(value)}")
        return tuple(_convert(item, arguments[0], where) for item in value)
    if origin is dict and isinstance(value, dict):
        names = {name: name if isinstance(name, str) else shown(name) for name in value}
        return {names[name]: _convert(item, arguments[1], f"{where}.{names[name]}") for name, item in value.items()}
    if kind is Any:
        return value
    if isinstance(kind, type) and dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return parameters_from(kind, value, where)
    if kind is float and isinstance(value, int | str) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):
            return float(value)  # YAML reads 1e-3 as text
    kind = origin or kind  # dict[str, str] -> dict
    if isinstance(kind, type) and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
        raise ConfigError(f"{where}: expected {kind.__name__}, but got {shown(value)}")
    if isinstance(value, str):
        refuse_control(value, where)
    return value


def shipped_names(folder: str) -> list[str]:
    """Of the .yaml files in configs/FOLDER, without the suffix."""
    files = (resources.files("configs") / folder).iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


def shipped_or_own(name: str | Path, folder: str, kind: str) -> Path:
    """The file of one of `shipped_names`, or the .yaml file that is named."""
    if str(name).endswith(".yaml"):
        return Path(name)
    if name not in (known := shipped_names(folder)):
        raise ConfigError(f"no {kind} {str(name)!r}; known are {', '.join(known)}, or give a .yaml file")
    return Path(str(resources.files("configs") / folder / f"{name}.yaml"))
