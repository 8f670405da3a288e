"""Which threads may run beside each other: torch.export changes what all of them share.

While a thread exports a model, torch has patched `nn.Module`, the attributes modules are read by and arithmetic on
sizes, for every thread. So a model is captured, and a program written, by one thread `alone`; programs run `together`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import final


@final
class Turns:
    """One thread alone, or any number together; a thread that holds either may ask for either again.

    Who waits to be alone comes first: threads that explain without a pause would keep it waiting for ever.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """As if no thread were here: none of them is, in a process that was just forked."""
        self._changed = threading.Condition()
        self._alone: int | None = None
        self._depth = 0
        self._waiting = 0
        self._together: dict[int, int] = {}  # how many times each thread is together with others

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No other thread is here meanwhile.

        What this thread runs together with others stands still until then, as when a target explains, so that it need
        not be waited for.
        """
        me = threading.get_ident()
        with self._changed:
            own = self._together.pop(me, 0)
            self._changed.notify_all()
            self._waiting += 1
            try:
                self._changed.wait_for(lambda: self._alone in (None, me) and not self._together)
                self._alone, self._depth = me, self._depth + 1
            finally:  # also where a signal ends the wait
                self._waiting -= 1
                if self._alone != me:
                    self._together |= {me: own} if own else {}
                    self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._depth -= 1
                if not self._depth:
                    self._alone = None
                if own:
                    self._together[me] = own
                self._changed.notify_all()

    @contextmanager
    def together(self) -> Iterator[None]:
        """No thread is alone meanwhile, unless it is this one."""
        me = threading.get_ident()
        with self._changed:
            if me != self._alone and me not in self._together:
                self._changed.wait_for(lambda: self._alone is None and not self._waiting)
            self._together[me] = self._together.get(me, 0) + 1
        try:
            yield
        finally:
            with self._changed:
                self._together[me] -= 1
                if not self._together[me]:
                    del self._together[me]
                self._changed.notify_all()


_TURNS = Turns()
if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_TURNS.forget)
alone, together = _TURNS.alone, _TURNS.together
