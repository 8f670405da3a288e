"""The mathematics of LRP: one function a rule.

affine      zero, epsilon, gamma, alpha_beta, z_plus, flat, w_square, z_box, power; magnitude for sums
pool        winner
lrn         lrn_taylor for local response normalization
taylor      taylor for elementwise functions of several inputs
pointwise   activation, pass_, move, first_order, tokens
normalize   held for LayerNorm and its kin
product     signal, half for products of two live values
attention   attention_values, attention_shared for fused attention
recurrent   recurrent for layers of LSTM, GRU and RNN
call        the call of an op as a rule sees it
registry    @rule declares a rule; get and names look rules up
"""

from .affine import alpha_beta, epsilon, flat, gamma, magnitude, power, w_square, z_box, z_plus, zero
from .attention import attention_shared, attention_values
from .call import Call, Linear, kept, narrowed
from .lrn import lrn_taylor
from .normalize import held
from .pointwise import activation, first_order, move, pass_, tokens
from .pool import winner
from .product import half, signal
from .recurrent import recurrent
from .registry import Rule, get, names, rule
from .taylor import taylor

__all__ = [
    "Call", "Linear", "Rule", "activation", "alpha_beta", "attention_shared", "attention_values", "epsilon",
    "first_order", "flat", "gamma", "get", "half", "held", "kept", "lrn_taylor", "magnitude", "move", "names",
    "narrowed", "pass_", "power", "recurrent", "rule", "signal", "taylor", "tokens", "w_square", "winner", "z_box",
    "z_plus", "zero",
]  # fmt: skip
