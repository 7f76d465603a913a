"""Tokens, trajectories, tasks, and the stream that training reads. Imports tools, never lightning_modules."""
