"""Check problems that Hypothesis draws, and watch which regimes of the code they meet."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

T = TypeVar("T")
SETTINGS = settings(
    deadline=None,
    derandomize=True,
    database=None,
    print_blob=False,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=(HealthCheck.too_slow, HealthCheck.data_too_large),
)


def attack(
    problems: st.SearchStrategy[T],
    check: Callable[[T], None],
    examples: int,
    repeat: Callable[[T], str],
    number: int | None = None,
) -> None:
    """Check drawn problems; a failure shrinks, and says how to repeat it.

    Args:
        problems: They are drawn from here.
        check: It raises AssertionError.
        examples: Their number.
        repeat: It returns the command that checks a problem again.
        number: Seed of other problems at every run; None draws always the same ones.
    """

    def run(problem: T) -> None:
        checked(problem, check, repeat)

    drawn: Any = given(problems)(run)
    drawn = drawn if number is None else seed(number)(drawn)
    settings(SETTINGS, max_examples=examples, derandomize=number is None)(drawn)()


def checked(problem: T, check: Callable[[T], None], repeat: Callable[[T], str]) -> None:
    """Check one problem; a failure says how to repeat it."""
    try:
        check(problem)
    except BaseException as error:
        if sys.version_info >= (3, 11):
            error.add_note(repeat(problem))
        else:
            print(repeat(problem))
        raise


def random_numbers(minutes: float) -> Iterator[int]:
    """Yield seeds, other ones at every run, for some minutes."""
    number = time.time_ns() % 2**32
    end = time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        yield number
        number += 1


class Watch:
    """The regimes that were met: functions are wrapped so that they name them.

    Attributes:
        seen: Their names.
    """

    def __init__(self, patch: pytest.MonkeyPatch, seen: set[Any] | None = None) -> None:
        self.seen: set[Any] = set() if seen is None else seen
        self._patch = patch

    def before(self, owner: Any, name: str, regimes: Callable[..., Iterable[Any]]) -> None:
        """Have regimes(*args) name them before owner.name is called."""
        original = getattr(owner, name)

        def wrapped(*args: Any, **options: Any) -> Any:
            self.seen.update(regimes(*args, **options))
            return original(*args, **options)

        self._patch.setattr(owner, name, wrapped)

    def after(self, owner: Any, name: str, regimes: Callable[..., Iterable[Any]]) -> None:
        """Have regimes(result, *args) name them after owner.name has returned."""
        original = getattr(owner, name)

        def wrapped(*args: Any, **options: Any) -> Any:
            result = original(*args, **options)
            self.seen.update(regimes(result, *args))
            return result

        self._patch.setattr(owner, name, wrapped)


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Set environment variables."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        yield
