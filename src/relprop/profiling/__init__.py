"""Where the time of an explanation goes: arithmetic, traffic and time of every op, beside what the machine can do."""

from .measure import profile
from .result import Profile
from .rows import Cost, Row, Run

__all__ = ["Cost", "Profile", "Row", "Run", "profile"]
