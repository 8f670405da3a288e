"""relprop: layer-wise relevance propagation for any PyTorch model, exact and accounted for.

>>> import torch, relprop
>>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
>>> e = relprop.explain(model, torch.randn(1, 4), composite="epsilon", ledger=True)
>>> e.ledger.closes()
True
"""

from . import composites, errors, evaluate, forecast, neon, rules, spectral, targets, theory
from .api import Explainer, examine, explain
from .bilrp import JointRelevance, PairExplainer, bilrp, product_neuron
from .composites import Composite
from .explanation import Explanation
from .language import TextExplanation, explain_text
from .profiling import Profile, profile
from .program import Ledger
from .report import Report, RuleTable
from .version import __version__

__all__ = [
    "Composite", "Explainer", "Explanation", "JointRelevance", "Ledger", "PairExplainer", "Profile", "Report",
    "RuleTable", "TextExplanation", "__version__", "bilrp", "composites", "errors", "evaluate", "examine", "explain",
    "explain_text", "forecast", "neon", "product_neuron", "profile", "rules", "spectral", "targets", "theory",
]  # fmt: skip
