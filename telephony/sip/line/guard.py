"""No exception may leave a callback that PJSIP made: in C++ it would abort the process, and every call in it."""

import functools
import traceback
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar


class _Reporter(Protocol):
    def report(self, fault: str) -> None:
        """Pass a fault on to the log."""


_P = ParamSpec("_P")
_S = TypeVar("_S", bound=_Reporter)


def guarded(callback: Callable[Concatenate[_S, _P], None]) -> Callable[Concatenate[_S, _P], None]:
    """Catch, and ``report``, whatever ``callback`` raises."""

    @functools.wraps(callback)
    def wrapper(self: _S, *args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            callback(self, *args, **kwargs)
        except Exception:  # the border between Python and C++
            self.report(f"{callback.__qualname__}: {traceback.format_exc(limit=-3)}")

    return wrapper  # type: ignore[return-value]  # wraps() keeps the name `self` in its type
