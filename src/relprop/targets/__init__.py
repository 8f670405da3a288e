"""What is explained: from a target and the model's output to the initial relevance.

`Logit`, `Token`          one output of a classifier, of a language model
`LogOdds`, `Probability`  log P/(1 − P) and P of a class: the evidence for it against all others
`Margin`                  a class against one rival, by default the strongest
`Contrast`                the difference of any two targets
`initial`                 initial relevance and score of a target
`parse`, `words`          a target from text such as "odds:cat", and what a target asks for in words
`competing`, `check_end`  whether a target is the quantity of a softmax; whether the end of a model allows it
`rows`, `check_alone`, `join`   targets of some of the samples at a time
"""

from __future__ import annotations

from .kinds import Contrast, Logit, LogOdds, Margin, Probability, Target, Token
from .parts import check_alone, join, rows
from .start import initial
from .text import check_end, competing, parse, words

__all__ = [
    "Contrast", "LogOdds", "Logit", "Margin", "Probability", "Target", "Token", "check_alone", "check_end", "competing",
    "initial", "join", "parse", "rows", "words",
]  # fmt: skip
