"""Strict reading of environment variables: a malformed value stops the start and says why."""

import os
import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlparse

from django.core.exceptions import ImproperlyConfigured

T = TypeVar("T")


def _read(name: str, default: T, parse: Callable[[str], T], expected: str) -> T:
    raw = os.environ.get(name, "").strip()
    if not raw:
        return default
    try:
        return parse(raw)
    except ValueError:
        raise ImproperlyConfigured(f"{name} is {raw!r}; expected {expected}.") from None


def env_str(name: str, default: str = "") -> str:
    """A text; blank means unset."""
    return _read(name, default, str, "a text")


def env_bool(name: str, default: bool) -> bool:
    """`true` or `false` (also 1/0, yes/no, on/off)."""
    words = {"1": True, "true": True, "yes": True, "on": True}
    words |= {"0": False, "false": False, "no": False, "off": False}

    def parse(raw: str) -> bool:
        if raw.lower() not in words:
            raise ValueError
        return words[raw.lower()]

    return _read(name, default, parse, "true or false")


def env_int(name: str, default: int, least: int, most: int) -> int:
    """A whole number from `least` to `most`."""

    def parse(raw: str) -> int:
        value = int(raw)
        if not least <= value <= most:
            raise ValueError
        return value

    return _read(name, default, parse, f"a whole number from {least} to {most}")


def env_share(name: str, most: float) -> float:
    """A number from 0, the default, to `most`."""

    def parse(raw: str) -> float:
        value = float(raw)
        if not 0 <= value <= most:
            raise ValueError
        return value

    return _read(name, 0.0, parse, f"a number from 0 to {most:g}")


def env_amount(name: str) -> Decimal | None:
    """An amount of money, 0 or more; None when it is unset."""

    def parse(raw: str) -> Decimal | None:
        try:
            amount = Decimal(raw)
        except InvalidOperation:
            raise ValueError from None
        if not amount.is_finite() or amount < 0:
            raise ValueError
        return amount

    return _read(name, None, parse, "an amount such as 50 or 12.50")


def env_list(name: str, default: list[str], pattern: str = r".+") -> list[str]:
    """Words separated by commas, each like `pattern`."""

    def parse(raw: str) -> list[str]:
        words = [word.strip() for word in raw.split(",") if word.strip()]
        if not words or not all(re.fullmatch(pattern, word) for word in words):
            raise ValueError
        return words

    like = "" if pattern == r".+" else f", each like {pattern}"
    return _read(name, default, parse, f"words separated by commas{like}")


def env_choice(name: str, default: str, choices: list[str]) -> str:
    """One of `choices`."""

    def parse(raw: str) -> str:
        if raw not in choices:
            raise ValueError
        return raw

    return _read(name, default, parse, "one of " + ", ".join(choices))


def env_path(name: str, default: Path) -> Path:
    """A folder, made absolute."""
    return _read(name, default, lambda raw: Path(raw).expanduser().resolve(), "a path")


def env_location(name: str, default: str) -> str:
    """A folder, made absolute, or a place in a bucket (`gs://bucket/prefix`)."""

    def parse(raw: str) -> str:
        if raw.startswith("gs://"):
            return raw
        if "://" in raw:
            raise ValueError
        return str(Path(raw).expanduser().resolve())

    return _read(name, default, parse, "a path or gs://bucket/prefix")


def env_url(name: str, default: str, schemes: list[str]) -> str:
    """A URL with one of `schemes`. The message never repeats the value: it may hold a password."""
    raw = env_str(name, default)
    if raw and urlparse(raw).scheme not in schemes:
        raise ImproperlyConfigured(f"{name} must be a URL that starts with {schemes}.")
    return raw
