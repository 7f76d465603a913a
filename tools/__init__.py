"""What the model calls: stateful tools that answer its commands with observations. No torch here."""

from tools.base import InvalidCommand, Tool
from tools.errors import UserError
from tools.pointer_memory import EDGE, PointerMemory
from tools.search_memory import NONE, SearchMemory
from tools.solver import Solver
from tools.tape import Tape
from tools.unassisted import Unassisted

__all__ = ["EDGE", "NONE", "InvalidCommand", "PointerMemory", "SearchMemory", "Solver", "Tape", "Tool", "Unassisted",
           "UserError"]
