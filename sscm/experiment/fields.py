"""Settings classes from nested tables of values: every key is checked, none is passed over."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from sscm.errors import ConfigError

T = TypeVar("T")


def build(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """An instance of a settings class.

    Args:
        cls: a dataclass; its fields may be dataclasses too.
        values: field → value, nested tables for nested classes, as TOML has them.
        where: what the values were read from, for messages.

    Raises:
        ConfigError: a key that is no field, a value of another type, a field missing, or one that the class refuses.
    """
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    require_known(values, fields, where)
    given = {name: _value(hints[name], value, f"{where}.{name}") for name, value in values.items()}
    missing = [
        name
        for name, field in fields.items()
        if name not in given and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{where}: {', '.join(missing)} missing; expected a value")
    try:
        return cls(**given)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def require_known(values: Mapping[str, Any], known: typing.Iterable[str], where: str) -> None:
    """Check that a table has no other keys.

    Raises:
        ConfigError: it has; the known ones are named.
    """
    names = list(known)
    unknown = sorted(set(values) - set(names))
    if unknown:
        raise ConfigError(f"{where}: unknown {', '.join(map(repr, unknown))}; known are {', '.join(names)}")


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Values with those of another table over them, nested tables key by key."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat


def _value(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, hint):
            return value
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} = {value!r}; expected a table")
        return build(hint, value, where)
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value not in options:
            raise ConfigError(f"{where} = {value!r}; expected one of {', '.join(map(repr, options))}")
        return value
    if origin in (typing.Union, types.UnionType):
        return _first_fitting(options, value, where)
    if origin in (tuple, list) and isinstance(value, (list, tuple)):
        inner = options[0] if options else Any
        items = [_value(inner, item, f"{where}[{place}]") for place, item in enumerate(value)]
        return origin(items)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if origin is Mapping and isinstance(value, Mapping):
        return value
    if hint is Path and isinstance(value, str):
        return Path(value)
    plain = isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool))
    if hint is Any or plain or (hint is type(None) and value is None):
        return value
    raise ConfigError(f"{where} = {value!r}; expected {getattr(hint, '__name__', hint)}")


def _first_fitting(options: tuple[Any, ...], value: Any, where: str) -> Any:
    for option in options:
        try:
            return _value(option, value, where)
        except ConfigError as error:
            last = error
            if isinstance(value, Mapping) and dataclasses.is_dataclass(option):
                raise  # what is wrong inside a table says more than that it does not fit
    raise last
