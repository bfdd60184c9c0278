"""What a check is, and how a list of them is walked through."""

from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from typing import NamedTuple

from django.db import DatabaseError, InterfaceError

from engine.errors import SentinelleError


class State(StrEnum):
    """How a check ended."""

    OK = "ok"
    FAULT = "fault"
    NOT_LOOKED = "not looked at"


class Fault(Exception):
    """Something is wrong: what was found, and what to do. Commands in the advice are whole."""

    def __init__(self, found: str, advice: str) -> None:
        super().__init__(found)
        self.found = found
        self.advice = advice


class NotLooked(Exception):
    """There is nothing to look at; the argument says why."""


class Check(NamedTuple):
    """One thing that has to be right.

    `look` returns what was found, in words, when all is well; it raises Fault or NotLooked.
    `needs` names checks before it without which it can't be looked at.
    """

    name: str
    look: Callable[[], str]
    needs: tuple[str, ...] = ()


class Finding(NamedTuple):
    """What a check found."""

    name: str
    state: State
    words: str
    advice: str = ""


def look(checks: Iterable[Check]) -> Iterator[Finding]:
    """Carry the checks out in order; a check never ends the walk."""
    wrong: set[str] = set()
    for check in checks:
        missing = [name for name in check.needs if name in wrong]
        if missing:
            found = Finding(check.name, State.NOT_LOOKED, f"it needs: {', '.join(missing)}")
        else:
            found = _found(check)
        if found.state is not State.OK:
            wrong.add(check.name)
        yield found


def _found(check: Check) -> Finding:
    try:
        return Finding(check.name, State.OK, check.look())
    except Fault as fault:
        return Finding(check.name, State.FAULT, fault.found, fault.advice)
    except NotLooked as reason:
        return Finding(check.name, State.NOT_LOOKED, str(reason))
    except SentinelleError as error:
        # What is refused says itself what to do.
        return Finding(check.name, State.FAULT, error.detail)
    except (DatabaseError, InterfaceError) as error:
        words = f"the database failed: {_one_line(error)}"
        return Finding(check.name, State.FAULT, words, DATABASE)
    except OSError as error:
        return Finding(check.name, State.FAULT, _one_line(error), "Look at that file or address.")
    except Exception as error:
        # What was found is stranger than what the check knows; those after it are still of use.
        words = f"this could not be looked at: {type(error).__name__}: {_one_line(error)}"
        return Finding(check.name, State.FAULT, words, STRANGE)


STRANGE = "Look at what it names. If all is well there, the fault is in this check itself."
DATABASE = "Look at the check of the database above, and at DATABASE_URL."


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
