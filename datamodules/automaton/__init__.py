"""All windows of the last tokens that occur in any trajectory, of any length, of a task."""

from length_gen.datamodules.automaton.build import automaton
from length_gen.datamodules.automaton.source import source_digest
from length_gen.datamodules.automaton.windows import Automaton

__all__ = ["Automaton", "automaton", "source_digest"]
