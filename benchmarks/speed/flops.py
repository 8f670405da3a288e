"""FLOPs of one call, by the formulas of `torch.utils.flop_counter`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

T = TypeVar("T")


def flops(run: Callable[[], T]) -> tuple[int, T]:
    """Of everything dispatched while `run` is called; and what it returns.

    torch's own FlopCounterMode also puts hooks on modules, to tell them apart, and these collide with
    `torch.autograd.grad` and with the hooks of other libraries; here operations alone are seen.
    """
    with _Counter() as counter:
        result = run()
    return counter.total, result


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        formula = flop_registry.get(func._overloadpacket)
        if formula is None:
            with self:  # an operation made of others arrives whole where no gradient is recorded
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        result = func(*args, **kwargs)
        if formula is not None:
            self.total += formula(*args, **kwargs, out_val=result)
        return result
