"""Rules on a graph become a program.

emit    graph + assignment -> fx program: forward, backward, and both in one
source  program -> Python text
ledger  the accounts of a run
"""

from .emit import Program, emit
from .ledger import Ledger, OpEntry, fold
from .source import source

__all__ = ["Ledger", "OpEntry", "Program", "emit", "fold", "source"]
