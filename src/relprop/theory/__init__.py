"""Deep Taylor decomposition one can run: root points, first-order terms, and properties as functions that raise.

`root`               the root point of a rule at a neuron; `Root` has `distance`
`modulation`         c_k, the constant factor of the relevance model
`relevance_model`    max(0, Σ_j a_j w_jk + b_k) · c_k
`first_order_terms`  the Taylor terms of the relevance model at a root point
`zero_order_term`    what is left of it there
`check_rule`         raises unless the first-order terms are the messages of relprop's own rule; returns the `Expansion`
`check_domain`       raises unless root points lie where activations can
`check_conservation` raises unless relevance sums to the score, or to the relevance of the layer above
`check_positivity`   raises where relevance is negative
`root_points`        the picture of root points at neurons with two inputs (needs `relprop[show]`)

The source is Montavon et al. 2019, section 10.2.3 and appendix 10.A, and Montavon et al. 2017.
"""

from .check import Expansion, check_domain, check_rule
from .drawing import root_points
from .properties import check_conservation, check_positivity
from .roots import Root, first_order_terms, modulation, relevance_model, root, zero_order_term

__all__ = [
    "Expansion", "Root", "check_conservation", "check_domain", "check_positivity", "check_rule", "first_order_terms",
    "modulation", "relevance_model", "root", "root_points", "zero_order_term",
]  # fmt: skip
