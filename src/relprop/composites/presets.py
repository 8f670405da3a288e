"""The published recipes, by name. One function a recipe; its keyword arguments are its options.

Every recipe also takes the options of `Common`. Averages, sums, residual additions and unfolded BatchNorm use the ε
rule unless the recipe's paper says otherwise.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from torch import Tensor

from .. import rules
from ..errors import CompositeError
from ..rules.parameters import complete_alpha_beta, plain
from ..rules.registry import RuleFunction
from .composite import Composite, bind
from .pattern import (
    Pattern,
    activated,
    centred,
    convolution,
    dense,
    depth,
    family,
    first,
    gated,
    normalizing,
    units,
    weighted,
)  # fmt: skip

Pairs = list[tuple[Pattern | str, RuleFunction | str]]
Bound = float | Tensor


@dataclass(frozen=True)
class Common:
    """Options of every recipe.

    `epsilon`, `epsilon_mode`, `bias`: of every rule that has them. `max_pool`: "winner" or "sum". `residual`: how a
    sum of branches, and the memory of a recurrent network, shares: "epsilon" (by the summands) or "magnitude" (by
    their absolute values, bounded).
    `lrn`: local response normalization passes relevance as the "identity", or by "taylor" expansion, of the first or
    second order: `lrn_order`. `gate`: a product with a sigmoid gives all to the "signal", or "half" to each factor.
    `attention`: "values" take all, the weights held, which conserves relevance; or it is "shared" by values and,
    through the softmax, queries and keys (AttnLRP).
    """

    epsilon: float = 1e-6
    epsilon_mode: str = "rms"
    bias: str | None = None
    max_pool: str = "winner"
    residual: str = "epsilon"
    lrn: str = "identity"
    lrn_order: int = 1
    gate: str = "signal"
    attention: str = "values"

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                listed = ", ".join(repr(c) for c in choices if c is not None)
                raise CompositeError(f"{name}={getattr(self, name)!r}: it is one of {listed}")
        if self.lrn_order != 1 and self.lrn != "taylor":
            raise CompositeError(f"lrn_order={self.lrn_order} is the order of an expansion: give lrn='taylor' with it")

    def use(self, rule: RuleFunction, **own: Any) -> RuleFunction:
        """The rule with its own parameters and, where it has them, the common ones."""
        parameters = rules.get(rule)[0].parameters
        shared = {k: getattr(self, k) for k in ("epsilon", "epsilon_mode", "bias") if k in parameters}
        return bind(rule, **(shared | own))

    def normalization(self) -> RuleFunction:
        """The rule of local response normalization."""
        return rules.pass_ if self.lrn == "identity" else bind(rules.lrn_taylor, order=self.lrn_order)

    def rest(self, origin: str) -> Composite:
        """Pairs for everything that is no weighted layer."""
        pairs: Pairs = [
            (units, rules.pass_),
            (centred, self.use(rules.epsilon, bias=None)),
            (family("max_pool"), rules.winner if self.max_pool == "winner" else self.use(rules.epsilon)),
            (family("distance"), self.use(rules.distance)),
            (family("contrast"), self.use(rules.contrast)),
            (family("sum"), self.use(rules.epsilon, bias=None) if self.residual == "epsilon" else rules.magnitude),
            (family("average"), self.use(rules.epsilon)),
            (family("batch_norm"), self.use(rules.epsilon)),
            (family("normalize"), self.use(rules.held)),
            (family("lrn"), self.normalization()),
        ]
        gate = rules.signal if self.gate == "signal" else rules.half
        shared = self.attention == "shared"
        fused, written = (rules.attention_shared, rules.half) if shared else (rules.attention_values, rules.signal)
        pairs += [
            (family("attention"), self.use(fused)),
            (family("recurrent"), self.use(rules.recurrent, gate=self.gate, residual=self.residual)),
            (weighted, self.use(written)),
            (normalizing, self.use(rules.signal)),
            (gated, self.use(gate)),
            (family("product"), self.use(rules.half)),
        ]
        return Composite(pairs, required=False, origin=origin)


CHOICES: dict[str, tuple[str | None, ...]] = {
    "epsilon_mode": ("rms", "std", "absolute"),
    "bias": (None, "absorb", "ignore", "share"),
    "max_pool": ("winner", "sum"),
    "residual": ("epsilon", "magnitude"),
    "lrn": ("identity", "taylor"),
    "gate": ("signal", "half"),
    "attention": ("values", "shared"),
}

_RECIPES: dict[str, Callable[..., Composite]] = {}


def recipe(**changed: Any) -> Callable[[Callable[..., Pairs]], Callable[..., Composite]]:
    """Declare a recipe: a function from the common options and its own to the pairs for weighted layers.

    `changed` are common options whose default the recipe's paper sets otherwise.
    """

    def declare(build: Callable[..., Pairs]) -> Callable[..., Composite]:
        own = [p for p in inspect.signature(build).parameters.values() if p.kind is p.KEYWORD_ONLY]
        taken = {p.name for p in own}
        kw = inspect.Parameter.KEYWORD_ONLY
        shared = [
            inspect.Parameter(f.name, kw, default=changed.get(f.name, f.default))
            for f in fields(Common)
            if f.name not in taken
        ]
        signature = inspect.Signature([*own, *shared], return_annotation=Composite)

        def make(**options: Any) -> Composite:
            unknown = sorted(set(options) - set(signature.parameters))
            if unknown:
                raise CompositeError(
                    f"composite {build.__name__!r} has no option {', '.join(unknown)}; it has "
                    + ", ".join(signature.parameters)
                )
            options = {name: plain(value) for name, value in options.items()}
            _check_numbers(build.__name__, signature, options)
            full = {**{n: p.default for n, p in signature.parameters.items()}, **options}
            common = Common(**{p.name: full.pop(p.name) for p in shared})
            pairs = Composite(build(common, **full), required=False, origin=build.__name__)
            if options.get("lrn") == "taylor":  # asked for, so that a network without any is told
                pairs = Composite([(family("lrn"), common.normalization())], origin=build.__name__) + pairs
            return pairs + common.rest(build.__name__)

        make.__name__, make.__doc__, make.__module__ = build.__name__, build.__doc__, build.__module__
        make.__signature__ = signature  # type: ignore[attr-defined]
        _RECIPES[build.__name__] = make
        return make

    return declare


def _check_numbers(recipe: str, signature: inspect.Signature, options: dict[str, Any]) -> None:
    for name, value in options.items():
        wants_number = isinstance(signature.parameters[name].default, float | int)
        if wants_number and (not isinstance(value, float | int) or isinstance(value, bool)):
            raise CompositeError(f"composite {recipe!r}: {name}={value!r} is not a number")


def names() -> list[str]:
    """All recipes by name.

    >>> "epsilon_gamma_box" in names()
    True
    """
    return sorted(_RECIPES)


def get(name: str, **options: Any) -> Composite:
    """The recipe of this name with these options; an unknown name or option is an error that lists what exists."""
    if name not in _RECIPES:
        raise CompositeError(f"composite={name!r} does not exist; there are {', '.join(names())}")
    return _RECIPES[name](**options)


def signature(name: str) -> dict[str, Any]:
    """Options of a recipe with their defaults."""
    if name not in _RECIPES:
        raise CompositeError(f"composite={name!r} does not exist; there are {', '.join(names())}")
    return {n: p.default for n, p in inspect.signature(_RECIPES[name]).parameters.items()}


def _box(name: str, low: Bound | None, high: Bound | None) -> RuleFunction:
    if low is None or high is None:
        raise CompositeError(
            f"composite {name!r} needs low= and high=, the smallest and largest value an input can have after "
            "normalization: numbers, or one value a channel as a tensor of shape (3, 1, 1)"
        )
    return partial(rules.z_box, low=low, high=high)


@recipe(epsilon=0.0)
def lrp_zero(c: Common) -> Pairs:
    """LRP-0 on every layer: gradient × input on ReLU networks (Bach et al. 2015)."""
    linear = family("affine") | family("average") | family("batch_norm")
    sums: Pairs = [(family("sum"), rules.zero)] if c.residual == "epsilon" else []
    return [(linear, c.use(rules.zero)), *sums]


@recipe()
def epsilon(c: Common) -> Pairs:
    """LRP-ε on every layer (Bach et al. 2015)."""
    return [(family("affine"), c.use(rules.epsilon))]


@recipe()
def gamma(c: Common, *, gamma: float = 0.25) -> Pairs:
    """LRP-γ on every layer (Montavon et al. 2019)."""
    return [(family("affine"), c.use(rules.gamma, gamma=gamma))]


@recipe()
def alpha_beta(c: Common, *, alpha: float | None = None, beta: float | None = None) -> Pairs:
    """LRP-αβ on every layer, α = 2 and β = 1 unless one is given (Bach et al. 2015)."""
    a, b = complete_alpha_beta(alpha, beta)
    return [(family("affine"), c.use(rules.alpha_beta, alpha=a, beta=b))]


@recipe()
def z_plus(c: Common) -> Pairs:
    """The z⁺ rule on every layer (Montavon et al. 2017)."""
    return [(family("affine"), c.use(rules.z_plus))]


@recipe()
def w_square(c: Common) -> Pairs:
    """The w² rule on every layer (Montavon et al. 2017)."""
    return [(family("affine"), c.use(rules.w_square))]


@recipe()
def flat(c: Common) -> Pairs:
    """Uniform: the ♭ rule on every layer (Lapuschkin et al. 2019)."""
    return [(family("affine"), c.use(rules.flat))]


@recipe(max_pool="sum")
def montavon2019(
    c: Common,
    *,
    low: Bound | None = None,
    high: Bound | None = None,
    gamma: float = 0.25,
    epsilon: float = 0.25,
    epsilon_mode: str = "std",
) -> Pairs:
    """Montavon et al. 2019, section 10.3: zᴮ on pixels, LRP-γ in lower, LRP-ε in middle layers, LRP-0 on top.

    Lower are convolutions in the first 45 % of the depth (VGG-16: the first seven), top are dense layers. Pooling
    by the sum rule.
    """
    return [
        (first & ~dense, _box("montavon2019", low, high)),
        (dense, c.use(rules.zero)),
        (depth(0, 0.45), c.use(rules.gamma, gamma=gamma)),
        (family("affine"), c.use(rules.epsilon, epsilon=epsilon, epsilon_mode=epsilon_mode)),
    ]


@recipe(epsilon_mode="absolute", lrn="taylor")
def binder2016(c: Common, *, epsilon: float = 0.01, beta: float | None = None, power: int = 1) -> Pairs:
    """Binder et al. 2016: the ε rule (equation 5, exponent p = `power`), or with `beta` the β rule (equation 6).

    Local response normalization by its Taylor expansion (equations 13-15), or with `lrn="identity"` as the identity.
    """
    if beta is not None:
        return [(family("affine"), c.use(rules.alpha_beta, beta=beta))]
    if power != 1:
        return [(family("affine"), c.use(rules.power, power=power, epsilon=epsilon))]
    return [(family("affine"), c.use(rules.epsilon, epsilon=epsilon))]


@recipe()
def epsilon_plus(c: Common) -> Pairs:
    """z⁺ on convolutions, LRP-ε on dense layers."""
    return [(convolution, c.use(rules.z_plus)), (family("affine"), c.use(rules.epsilon))]


@recipe()
def epsilon_plus_flat(c: Common) -> Pairs:
    """♭ on the first layer, z⁺ on convolutions, LRP-ε on dense layers (Lapuschkin et al. 2019)."""
    return [(first, rules.flat), (convolution, c.use(rules.z_plus)), (family("affine"), c.use(rules.epsilon))]


@recipe()
def epsilon_gamma_box(c: Common, *, low: Bound | None = None, high: Bound | None = None, gamma: float = 0.25) -> Pairs:
    """zᴮ on the first layer, LRP-γ on convolutions, LRP-ε on dense layers (Montavon et al. 2019)."""
    return [
        (first, _box("epsilon_gamma_box", low, high)),
        (convolution, c.use(rules.gamma, gamma=gamma)),
        (family("affine"), c.use(rules.epsilon)),
    ]


@recipe()
def epsilon_alpha2_beta1(c: Common) -> Pairs:
    """LRP-α2β1 on convolutions, LRP-ε on dense layers (Lapuschkin et al. 2017)."""
    rule = c.use(rules.alpha_beta, alpha=2.0, beta=1.0)
    return [(convolution, rule), (family("affine"), c.use(rules.epsilon))]


@recipe()
def epsilon_alpha2_beta1_flat(c: Common) -> Pairs:
    """♭ on the first layer, LRP-α2β1 on convolutions, LRP-ε on dense layers (Lapuschkin et al. 2019)."""
    rule = c.use(rules.alpha_beta, alpha=2.0, beta=1.0)
    return [(first, rules.flat), (convolution, rule), (family("affine"), c.use(rules.epsilon))]


@recipe()
def excitation_backprop(c: Common) -> Pairs:
    """z⁺ with the bias left out on every layer: winning probabilities (Zhang et al. 2016)."""
    linear = family("affine") | family("average") | family("batch_norm")
    return [(linear, partial(rules.z_plus, bias=c.bias or "ignore"))]


@recipe()
def deep_taylor(c: Common, *, low: Bound | None = None, high: Bound | None = None) -> Pairs:
    """Montavon et al. 2017: z⁺ on every layer, on the first zᴮ if `low` and `high` are given and w² otherwise."""
    pixels = rules.w_square if low is None and high is None else _box("deep_taylor", low, high)
    return [(first, pixels), (family("affine"), c.use(rules.z_plus))]


@recipe(attention="shared")
def attnlrp(c: Common) -> Pairs:
    """Achtibat et al. 2024: LRP-ε, products shared equally, softmax to first order, activations and norms as identity.

    Not conserving: what the softmax keeps is in the ledger's residual.
    """
    return [(family("affine"), c.use(rules.epsilon))]


@recipe()
def cp_lrp(c: Common) -> Pairs:
    """Ali et al. 2022: LRP-ε with attention weights, gates (of gated linear units too) and 1/σ held; it conserves."""
    return [(family("affine"), c.use(rules.epsilon)), (activated, c.use(rules.signal))]


@recipe(residual="magnitude")
def auto(c: Common, *, gamma: float = 1.0, low: Bound | None = None, high: Bound | None = None) -> Pairs:
    """Chosen from what the graph contains: LRP-γ on convolutions, LRP-ε on dense layers, zᴮ on pixels with a box.

    With `low` and `high` given, a first convolution gets the zᴮ rule; without, LRP-γ as the others. Sums of branches
    share by magnitude: on trained ResNets that was at least as faithful as by the summands (docs/choices.md). Attention
    weights, gates and 1/σ are held, so that the relevance of the inputs and of biases sums to the score.
    """
    pairs: Pairs = [(convolution, c.use(rules.gamma, gamma=gamma)), (family("affine"), c.use(rules.epsilon))]
    return pairs if low is None and high is None else [(first & convolution, _box("auto", low, high)), *pairs]
