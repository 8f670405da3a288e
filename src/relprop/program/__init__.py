"""Rules on a graph become a program.

emit      graph + assignment -> fx program: forward, backward, and both in one
writer    the program, node by node
calls     what a rule is told of each op, and what is computed once
silence   where no relevance arrives
segments  checkpoints: values computed again on the way back
source    program -> Python text
ledger    the accounts of a run
"""

from .emit import Program, emit
from .ledger import Ledger, OpEntry, fold
from .source import source

__all__ = ["Ledger", "OpEntry", "Program", "emit", "fold", "source"]
