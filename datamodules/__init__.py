"""Tokens, trajectories, tasks, and the stream that training reads. Imports tools, never lightning_modules.

A task (tasks/base.py), asked in a setting (settings.py), writes its trajectory through the scribe (trajectory.py):
tokens of kinds (tokens.py), in phases. stream.py draws and packs trajectories for training, with noise (noise.py);
training_counts.py counts what was drawn, datamodule.py hands rows and problems to Lightning, recording.py records
what is too long for memory, rollout.py is one problem as a model solves it, export.py writes trajectories as files,
benchmark.py has the problems that stay the same. horizon.py finds how far back a trajectory must look, questions.py
and automaton/ all that there are. Code fixing has codebases.py, its judge (judge.py), scripted agents (scripted.py),
collection.py and text.py.
"""

if __name__ != "length_gen.datamodules":
    raise ImportError("datamodules is no package of its own: import length_gen.datamodules")
