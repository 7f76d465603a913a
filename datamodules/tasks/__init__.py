"""The tasks, one file each."""

from length_gen.datamodules.tasks.addition import Addition
from length_gen.datamodules.tasks.base import Problem, Task, ToolTask
from length_gen.datamodules.tasks.check import check_task
from length_gen.datamodules.tasks.code_fixing import CodeFixing
from length_gen.datamodules.tasks.hanoi import HanoiIterative, HanoiRecursive
from length_gen.datamodules.tasks.logical_graph import LogicalGraph
from length_gen.datamodules.tasks.mixture import Mixture
from length_gen.datamodules.tasks.multiplication import Multiplication
from length_gen.datamodules.tasks.sequence import Copy, Reverse, Sort
from length_gen.datamodules.tasks.turing import Turing

__all__ = ["Addition", "CodeFixing", "Copy", "HanoiIterative", "HanoiRecursive", "LogicalGraph", "Mixture",
           "Multiplication", "Problem", "Reverse", "Sort", "Task", "ToolTask", "Turing", "check_task"]
