"""Pairwise matching: which features of one input together with which of another make them similar.

`bilrp`, `PairExplainer`   the joint relevance of two inputs for the similarity of their embeddings
`JointRelevance`           the result: matrix, marginals, accounts, pictures
`product_neuron`           the rule for one layer of product neurons
"""

from __future__ import annotations

from .api import PairExplainer, bilrp
from .joint import JointRelevance, PairLedger
from .plan import Cost
from .product import product_neuron

__all__ = ["Cost", "JointRelevance", "PairExplainer", "PairLedger", "bilrp", "product_neuron"]
