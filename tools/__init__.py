"""What the model calls: stateful tools that answer its commands with observations. No torch here."""

from tools.base import InvalidCommand, Tool
from tools.errors import UserError
from tools.pointer_memory import EDGE, PointerMemory
from tools.search_memory import NONE, SearchMemory

__all__ = ["EDGE", "NONE", "InvalidCommand", "PointerMemory", "SearchMemory", "Tool", "UserError"]
