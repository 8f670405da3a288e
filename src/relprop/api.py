"""explain, Explainer, examine: from a model and inputs to an explanation."""

from __future__ import annotations

import threading
from typing import Any, Literal, final

import torch
from torch import Tensor, fx, nn

from . import chunks, composites, neon
from .capture import undisturbed
from .captured import Inputs
from .chunks import MaxBatch
from .composites import Composite
from .errors import CaptureError, CompositeError, RelpropError
from .execution import Execution
from .explanation import Explanation
from .guards import check_model
from .ops import name as op_name
from .prepared import Prepared
from .program import source
from .report import Report, RuleTable
from .targets import Target
from .turns import alone, together


@final
class Explainer:
    """A model captured and its relevance program emitted once, to be called on many inputs.

    `model`: an nn.Module, or a fitted scikit-learn estimator (`relprop.neon`) as it is now: fitted again, it needs a
    new Explainer.

    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> explainer = Explainer(model, torch.randn(2, 4), composite="epsilon")
    >>> explainer(torch.randn(5, 4), target=1).relevance.shape
    torch.Size([5, 4])

    `example_inputs` fix the shapes; the batch size is free. When the model's weights change, the next call captures
    them anew. `rules` is the rule table, `code` the program as Python text, `program` the program as a graph module.

    Any number of threads may explain at once. While one captures a model, which takes seconds, the others wait, for
    torch.export changes `nn.Module` for all of them; modules of your own had better not be made or called meanwhile,
    and a target or a `forward` must not wait for another thread that explains.

    What follows changes no rule, and is the same in `relprop.explain`. `compile`: the program is compiled by
    `torch.compile`, as one graph; worth its seconds where the same shapes are explained many times. `checkpoint`: the
    way back computes the model's values again, segment by segment, instead of keeping them: less memory where a network
    is deep and its layers are of like size, for up to one more forward pass. `precision="bf16"`: linear maps,
    convolutions, matrix products and attention in bfloat16, relevance and its sums in float32. `max_batch`: explain at
    most so many samples at a time, or "auto": as many as fit into memory.
    """

    def __init__(
        self,
        model: Any,
        example_inputs: Any,
        composite: str | Composite = "auto",
        *,
        compile: bool = False,
        checkpoint: bool = False,
        precision: Literal["bf16"] | None = None,
        max_batch: MaxBatch = None,
        **rule_options: Any,
    ) -> None:
        network, example_inputs = _network(model, example_inputs, rule_options)
        self.model, self.composite = network, _composite(composite, rule_options)
        self.execution = Execution(compile, checkpoint, precision, max_batch)
        self._lock = threading.Lock()
        self._states: dict[int | None, Prepared] = {}
        state, _ = self._state(chunks.example(example_inputs, max_batch))
        state.program(False, ())

    def __call__(
        self, inputs: Any, target: Any = None, *, ledger: bool = False, record: tuple[str, ...] | list[str] = ()
    ) -> Explanation:
        """Explain the outputs for `inputs`; see `relprop.explain` for the arguments."""
        inputs, target = neon.as_inputs(self.model, inputs), neon.as_target(self.model, target)
        names = (record,) if isinstance(record, str) else tuple(record)
        most = self.execution.max_batch
        if most is None:
            return self._explain(inputs, target, ledger, names)
        state = self._present(inputs)
        state.check(inputs)
        return chunks.explain(
            lambda some, t: self._explain(some, t, ledger, names),
            inputs, target, most, state.captured, state.program(ledger, names), state.places(names),
        )  # fmt: skip

    def _present(self, inputs: Inputs) -> Prepared:
        """The first capture, with the model's present weights; where they changed, a new one, from a few samples."""
        with together(), self._lock:
            if self._states and not any(s.stale(self.model) for s in self._states.values()):
                return self._any
        return self._state(chunks.example(inputs, self.execution.max_batch))[0]

    def _explain(self, inputs: Inputs, target: Target, ledger: bool, record: tuple[str, ...]) -> Explanation:
        state, tensors = self._state(inputs)
        program = state.program(ledger, record)
        differentiate = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
        with undisturbed(tensors[0].device) if state.draws else together(), torch.set_grad_enabled(differentiate):
            return state.run(program, tensors, target, ledger)

    def _state(self, inputs: Inputs) -> tuple[Prepared, list[Tensor]]:
        """What fits these inputs and the model's present weights: the capture for any batch size, or for this one."""
        with together(), self._lock:
            state, batch = self._known(inputs)
            if state is not None:
                tensors = state.check(inputs)
                if state.known_to_fit(batch):
                    return state, tensors
        with alone(), self._lock:  # the turn before the lock: who holds the lock waits for nobody's turn
            state, batch = self._known(inputs)
            if state is not None:
                tensors = state.check(inputs)
                if state.fits(self.model, tensors, batch):
                    return state, tensors
            state = Prepared(self.model, inputs, self.composite, self.execution, dynamic=None not in self._states)
            any_size = (state.captured.dynamic or state.captured.single) and None not in self._states
            self._states[None if any_size else state.captured.batch] = state
            return state, state.check(inputs)

    def _known(self, inputs: Inputs) -> tuple[Prepared | None, int]:
        """What was captured of the present model for inputs of this batch size, and that size."""
        if any(s.stale(self.model) for s in self._states.values()):
            self._states.clear()
        if not self._states:
            return None, 0
        batch = self._any.samples(inputs)
        return self._states.get(batch) or self._states.get(None), batch

    @property
    def _any(self) -> Prepared:
        if not self._states:
            raise CaptureError("the model has changed and could not be captured anew: a call of the explainer says why")
        return next(iter(self._states.values()))

    @property
    def rules(self) -> RuleTable:
        """The rule of every op, with its parameters and why it was chosen."""
        return self._any.table()

    @property
    def program(self) -> fx.GraphModule:
        """The program as a graph module: (*inputs, target) -> (output, score, target, relevance, recorded, ledger)."""
        return self._any.program(False, ()).whole

    @property
    def code(self) -> str:
        """The program as a Python file that runs by itself, one line a value."""
        return source(self.program, type(self.model).__name__)


def explain(
    model: Any,
    inputs: Any,
    target: Any = None,
    composite: str | Composite = "auto",
    *,
    ledger: bool = False,
    record: tuple[str, ...] | list[str] = (),
    compile: bool = False,
    checkpoint: bool = False,
    precision: Literal["bf16"] | None = None,
    max_batch: MaxBatch = None,
    **rule_options: Any,
) -> Explanation:
    """Layer-wise relevance propagation of the model's decision on `inputs` (Bach et al. 2015; Montavon et al. 2019).

    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> e = explain(model, torch.randn(2, 4), composite="epsilon", ledger=True)
    >>> e.relevance.shape, e.ledger.closes()
    (torch.Size([2, 4]), True)

    `model`: an nn.Module, or a fitted scikit-learn estimator, which is made a network first (`relprop.neon`); for it,
    `inputs` may be an array or a table, and relevance is in float64. `inputs` of a module: a tensor (batch, ...), a
    tuple of positional or a dict of keyword arguments of `forward`. `target`:
    None (arg-max of each sample), a class index, a LongTensor with one index a sample, a callable from the output
    to one score a sample, or a floating point tensor like the output (initial relevance); a list of targets gives
    the relevance of each in a leading dimension, for one forward pass. `composite`: a recipe's name
    (`relprop.composites.names()`), with `rule_options` for it, or a `Composite`. `ledger`: account for every op.
    `record`: module paths whose relevance is returned in `recorded`. Relevance is in the units of the explained
    output. `compile`, `checkpoint`, `precision`, `max_batch`: see `Explainer`.

    Raises `relprop.errors`: InputError, TargetError, CaptureError, CompositeError, RuleError, NonFiniteError.
    """
    explainer = Explainer(
        model, inputs, composite, compile=compile, checkpoint=checkpoint, precision=precision, max_batch=max_batch,
        **rule_options,
    )  # fmt: skip
    return explainer(inputs, target, ledger=ledger, record=record)


@alone()
def examine(model: Any, inputs: Any, composite: str | Composite = "auto", **rule_options: Any) -> Report:
    """What relprop would do with a model, before anything runs backward; never raises for a missing rule.

    >>> print(examine(torch.nn.Linear(2, 2), torch.zeros(1, 2)).ready)
    True
    """
    name = type(model).__name__
    try:
        network, inputs = _network(model, inputs, rule_options)
        state = Prepared(network, inputs, _composite(composite, rule_options), Execution(), strict=False)
    except CompositeError:
        raise
    except RelpropError as e:
        return Report(name, error=str(e))
    counts: dict[str, int] = {}
    for n in state.reading.graph.nodes:
        if n in state.reading.reached and n.op == "call_function":
            counts[op_name(n.target)] = counts.get(op_name(n.target), 0) + 1
    missing = [composites.composite.missing_message(n, state.reading) for n in state.assignment.missing]
    missing += state.interleaved()
    unmatched = state.assignment.idle(state.reading)
    return Report(name, "", missing, unmatched, state.table(), counts)


def _network(model: Any, inputs: Any, options: dict[str, Any]) -> tuple[nn.Module, Any]:
    """What is explained, and the inputs it takes: an estimator as a network, and its table as a tensor."""
    network = model
    if neon.is_estimator(model):
        network = neon.neuralize(model)
        for name in sorted(neon.options_of(model) & set(options)):
            raise CompositeError(
                f"{name} is an option of the network, not of a rule: explain neuralize(estimator, {name}=...), of "
                "relprop.neon"
            )
    check_model(network)
    return network, neon.as_inputs(network, inputs)


def _composite(composite: str | Composite, options: dict[str, Any]) -> Composite:
    if isinstance(composite, str):
        return composites.get(composite, **options)
    if isinstance(composite, (list, tuple)):
        composite = Composite(composite)
    if not isinstance(composite, Composite):
        raise CompositeError(
            f"composite is a {type(composite).__name__}; give a recipe's name or a relprop.composites.Composite"
        )
    if options:
        raise CompositeError(
            f"{', '.join(options)}: options go to recipes given by name; bind them with functools.partial"
        )
    return composite
