"""Options as people give them."""

from __future__ import annotations

import math
import operator
from typing import Any, Sequence

from .errors import InvalidError

_NAME_MAX = 200
SECONDS_MAX = 1e9


def whole(name: str, value: Any, least: int, most: int = 1 << 62) -> int:
    """A whole number of any type (NumPy's among them). InvalidError, naming it, for what is none or out of range."""
    try:
        number = operator.index(value)
    except TypeError:
        raise InvalidError(f"{name}: {value!r} is no whole number") from None
    _within(name, number, least, most, 1 << 62)
    return number


def real(name: str, value: Any, least: float, most: float = math.inf) -> float:
    """A finite number, of any type. InvalidError, naming it, for what is none or out of range."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InvalidError(f"{name}: {value!r} is no number") from None
    if not math.isfinite(number):
        raise InvalidError(f"{name}: {number} is not finite")
    _within(name, number, least, most, math.inf)
    return number


def _within(name: str, number: float, least: float, most: float, unbounded: float) -> None:
    if number < least or number > most:
        raise InvalidError(f"{name}: {number} is " + (f"below {least}" if most == unbounded else
                                                      f"not between {least} and {most}"))


def one_of(name: str, value: Any, words: tuple[str, ...]) -> str:
    """One of the words."""
    if value not in words:
        raise InvalidError(f"{name}: {value!r} is none of {', '.join(words)}")
    return str(value)


def layer_name(value: Any) -> str:
    """What servers, files and dashboards can call a layer."""
    if not isinstance(value, str) or not 1 <= len(value) <= _NAME_MAX or not all("!" <= c <= "~" for c in value):
        raise InvalidError(f"the name of a layer: {value!r} is not 1 to {_NAME_MAX} letters, digits and marks of ASCII "
                           "without spaces")
    return value


def addresses(servers: str | Sequence[str]) -> list[str]:
    """Of servers, in a list or one text."""
    listed: Any = servers
    try:
        listed = [servers] if isinstance(servers, str) else list(servers)
    except TypeError:
        listed = []
    if not listed or not all(isinstance(server, str) for server in listed):
        raise InvalidError(f"servers: {servers!r}: give addresses tcp://HOST:PORT")
    return [str(server) for server in listed]
