"""The tasks, one file each."""

from datamodules.tasks.addition import Addition
from datamodules.tasks.base import Problem, Task, ToolTask
from datamodules.tasks.check import check_task
from datamodules.tasks.code_fixing import CodeFixing
from datamodules.tasks.hanoi import HanoiIterative, HanoiRecursive
from datamodules.tasks.logical_graph import LogicalGraph
from datamodules.tasks.mixture import Mixture
from datamodules.tasks.multiplication import Multiplication
from datamodules.tasks.sequence import Copy, Reverse, Sort
from datamodules.tasks.turing import Turing

__all__ = ["Addition", "CodeFixing", "Copy", "HanoiIterative", "HanoiRecursive", "LogicalGraph", "Mixture",
           "Multiplication", "Problem", "Reverse", "Sort", "Task", "ToolTask", "Turing", "check_task"]
