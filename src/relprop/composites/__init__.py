"""Which rule for which layer: patterns, composites, and the published recipes by name.

pattern    path, kind, op, family, depth, first, last, everything; & | ~
composite  Composite, the defaults of each family, and the assignment of rules to nodes
presets    the recipes; names() lists them, get(name, **options) makes one
"""

from .composite import Assigned, Assignment, Composite, assign
from .pattern import (
    Pattern,
    activated,
    centred,
    convolution,
    dense,
    depth,
    everything,
    family,
    first,
    gated,
    kind,
    last,
    normalizing,
    op,
    path,
    weighted,
)  # fmt: skip
from .presets import (
    alpha_beta,
    attnlrp,
    auto,
    binder2016,
    cp_lrp,
    deep_taylor,
    epsilon,
    epsilon_alpha2_beta1,
    epsilon_alpha2_beta1_flat,
    epsilon_gamma_box,
    epsilon_plus,
    epsilon_plus_flat,
    excitation_backprop,
    flat,
    gamma,
    get,
    lrp_zero,
    montavon2019,
    names,
    signature,
    w_square,
    z_plus,
)  # fmt: skip

__all__ = [
    "Assigned", "Assignment", "Composite", "Pattern", "activated", "alpha_beta", "assign", "attnlrp", "auto",
    "binder2016", "centred", "convolution", "cp_lrp", "deep_taylor", "dense", "depth", "epsilon",
    "epsilon_alpha2_beta1", "epsilon_alpha2_beta1_flat", "epsilon_gamma_box", "epsilon_plus", "epsilon_plus_flat",
    "everything", "excitation_backprop", "family", "first", "flat", "gamma", "gated", "get", "kind", "last",
    "lrp_zero", "montavon2019", "names", "normalizing", "op", "path", "signature", "w_square", "weighted", "z_plus",
]  # fmt: skip
