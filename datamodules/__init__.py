"""Tokens, trajectories, tasks, and the stream that training reads. Imports tools, never lightning_modules."""

if __name__ != "length_gen.datamodules":
    raise ImportError("datamodules is no package of its own: import length_gen.datamodules")
