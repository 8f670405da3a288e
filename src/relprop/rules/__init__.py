"""The mathematics of LRP: one function a rule.

affine      zero, epsilon, gamma, alpha_beta, z_plus, flat, w_square, z_box, power; magnitude for sums
pool        winner
lrn         lrn_taylor for local response normalization
taylor      taylor for elementwise functions of several inputs
pointwise   activation, pass_, signal, half, move, held, first_order, tokens
call        the call of an op as a rule sees it
registry    @rule declares a rule; get and names look rules up
"""

from .affine import alpha_beta, epsilon, flat, gamma, magnitude, power, w_square, z_box, z_plus, zero
from .call import Call, Linear, kept
from .lrn import lrn_taylor
from .pointwise import activation, first_order, half, held, move, pass_, signal, tokens
from .pool import winner
from .registry import Rule, get, names, rule
from .taylor import taylor

__all__ = [
    "Call", "Linear", "Rule", "activation", "alpha_beta", "epsilon", "first_order", "flat", "gamma", "get", "half",
    "held", "kept", "lrn_taylor", "magnitude", "move", "names", "pass_", "power", "rule", "signal", "taylor", "tokens",
    "w_square", "winner", "z_box", "z_plus", "zero",
]  # fmt: skip
