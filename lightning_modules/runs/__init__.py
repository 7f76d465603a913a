"""Run folders, their checkpoints, grids of runs, and what their configurations may import."""
