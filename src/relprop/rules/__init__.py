"""The mathematics of LRP: one function a rule.

affine      zero, epsilon, flat, w_square, z_box, power; magnitude for sums
signs       gamma, alpha_beta, z_plus: rules that tell positive from negative contributions
pool        winner
lrn         lrn_taylor for local response normalization
taylor      taylor for elementwise functions of several inputs
pointwise   activation, pass_, move, first_order, tokens
normalize   held for LayerNorm and its kin
product     signal, half for products of two live values
attention   attention_values, attention_shared for fused attention
recurrent   recurrent for layers of LSTM, GRU and RNN
takes_most  distance, take_most for pools over distances, contrast for differences of groups: neuralized models
call        the call of an op as a rule sees it
linear      linear maps with their transposes, and what rules do to weights
denominator z + e, and what it takes
registry    @rule declares a rule; get and names look rules up
"""

from .affine import epsilon, flat, magnitude, power, w_square, z_box, zero
from .attention import attend, attention_shared, attention_values
from .call import HALF, Call, kept, narrowed
from .denominator import scale
from .linear import Linear, Transform
from .lrn import lrn_taylor
from .normalize import held
from .pointwise import activation, first_order, move, pass_, rectify, tokens
from .pool import located, winner
from .product import half, signal
from .recurrent import recurrent
from .registry import Rule, get, names, rule
from .signs import alpha_beta, gamma, parts, z_plus
from .takes_most import contrast, distance, take_most
from .taylor import taylor

__all__ = [
    "HALF", "Call", "Linear", "Rule", "Transform", "activation", "alpha_beta", "attend", "attention_shared",
    "attention_values", "contrast", "distance", "epsilon", "first_order", "flat", "gamma", "get", "half", "held",
    "kept", "located", "lrn_taylor", "magnitude", "move", "names", "narrowed", "parts", "pass_", "power", "rectify",
    "recurrent", "rule", "scale", "signal", "take_most", "taylor", "tokens", "w_square", "winner", "z_box", "z_plus",
    "zero",
]  # fmt: skip
