"""The tasks, one file each."""

from datamodules.tasks.addition import Addition
from datamodules.tasks.base import Problem, Task
from datamodules.tasks.hanoi import HanoiIterative, HanoiRecursive
from datamodules.tasks.logical_graph import LogicalGraph
from datamodules.tasks.multiplication import Multiplication

__all__ = ["Addition", "HanoiIterative", "HanoiRecursive", "LogicalGraph", "Multiplication", "Problem", "Task"]
