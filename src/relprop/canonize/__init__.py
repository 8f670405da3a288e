"""The same function with fewer kinds of op. Each pass is checked to leave the function unchanged.

outputs     ops with several outputs, and spelled-out variants, become ops with one output
recurrent   recurrent networks and cells become one op a layer and direction
cleanup     dropout and identities go; what depends on parameters alone becomes a constant
attention   softmax is one op; masks that depend on sizes alone are written plainly, causal ones as is_causal
batch_norm  folded into the neighbouring weighted layer where that is exact, else one affine op
lrn         local response normalization is one op again
regions     elementwise functions spelled out in several ops count as one activation
final       a last softmax or sigmoid is explained at its logits
naming      values are called after the user's modules
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, fx

from ..captured import Captured, noise_of, run
from ..errors import CanonizeError
from ..values import same, tolerance
from . import attention, batch_norm, cleanup, final, lrn, naming, outputs, recurrent, regions

Pass = Callable[[Captured], list[str]]

PASSES: tuple[Pass, ...] = (
    outputs.single_outputs, recurrent.open_layers, outputs.open_copies, outputs.plain_convolutions,
    outputs.open_glu, outputs.open_variants, cleanup.drop_identities, cleanup.fold_constants, attention.plain_masks,
    attention.written_softmax, batch_norm.as_scale_shift, batch_norm.fold, lrn.recognize, regions.mark,
)  # fmt: skip


def canonize(captured: Captured, tensors: list[Tensor]) -> fx.Node:
    """Rewrite the graph in place; returns the node whose value is explained. `tensors` serve for the checks."""
    with torch.no_grad():
        before = run(captured, tensors)
        noise = noise_of(captured, tensors, before)
        if noise > tolerance(before.dtype):
            captured.notes.append(f"this model amplifies rounding errors to {noise:.0e} of its output; use float64")
        for one in PASSES:
            if not _apply(one, captured):
                continue
            captured.module.graph.lint()
            captured.module.recompile()
            if not same(run(captured, tensors), before, slack=10 * noise):
                raise CanonizeError(
                    f"the pass {one.__module__}.{one.__name__} changed the function of the model; this is a "
                    "bug of relprop, please report it with the model"
                )
    return _named(captured)


def rewrite(captured: Captured) -> fx.Node:
    """`canonize` without its checks: for a caller that compares the result with the model itself."""
    with torch.no_grad():
        for one in PASSES:
            _apply(one, captured)
    captured.module.graph.lint()
    captured.module.recompile()
    return _named(captured)


def _apply(one: Pass, captured: Captured) -> bool:
    """Whether a pass changed something."""
    notes = one(captured)
    captured.notes += [n for n in notes if n]  # an empty note: changed, but not worth a line
    if notes:
        captured.module.graph.eliminate_dead_code()
    return bool(notes)


def _named(captured: Captured) -> fx.Node:
    explained, note = final.logits(captured)
    captured.notes += note
    naming.by_module(captured)
    return explained
