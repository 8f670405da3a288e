"""Every error and warning relprop raises on purpose. Each says what is wrong, where, and what to write instead."""

from __future__ import annotations

import torch


class RelpropError(Exception):
    """Base of all errors of this package; catching it catches every refusal and no bug."""


class InputError(RelpropError, ValueError):
    """An input tensor is missing, of another shape or type, or not finite."""


class TargetError(RelpropError, ValueError):
    """The target does not name an output of the model."""


class CaptureError(RelpropError):
    """The model's `forward` cannot be turned into a graph."""


class CanonizeError(RelpropError):
    """A rewriting of the graph changed the function; a bug of relprop that must not pass in silence."""


class CompositeError(RelpropError, ValueError):
    """A recipe, pattern, rule name or parameter is unknown, out of range, or matches nothing."""


class RuleError(RelpropError):
    """An operation has no rule, or a rule is not defined for it."""


class NonFiniteError(RelpropError):
    """NaN or infinity in weights, activations or relevance, named by where it first appeared."""


class AmplifiedWarning(UserWarning):
    """Relevance has outgrown the output by so much that the map means nothing, though it is finite and conserved."""


class TheoryError(RelpropError):
    """What theory promises does not hold: conservation, positivity, or that a rule is a Taylor expansion."""


class WeightsError(RelpropError):
    """A weight file is missing, corrupt, pickled, or belongs to another model."""


class OutputError(RelpropError, OSError):
    """A result cannot be written where it was asked for."""


class OutOfMemoryError(RelpropError, torch.OutOfMemoryError):
    """One sample alone does not fit into memory."""
