"""What the model calls: stateful tools that answer its commands with observations. No torch here."""

from length_gen.tools.base import InvalidCommand, Tool
from length_gen.tools.clock import TICK, Clock
from length_gen.tools.errors import UserError
from length_gen.tools.pointer_memory import EDGE, PointerMemory
from length_gen.tools.search_memory import NONE, SearchMemory
from length_gen.tools.solver import Solver
from length_gen.tools.tape import Tape
from length_gen.tools.unassisted import Unassisted

__all__ = ["EDGE", "NONE", "TICK", "Clock", "InvalidCommand", "PointerMemory", "SearchMemory", "Solver", "Tape", "Tool",
           "Unassisted", "UserError"]

if __name__ != "length_gen.tools":
    raise ImportError("tools is no package of its own: import length_gen.tools")
