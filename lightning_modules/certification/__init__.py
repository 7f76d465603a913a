"""Proofs that a model is exact at every length.

    bounds.py        interval arithmetic whose every operation rounds outwards
    graph.py         the windows of the last K tokens of all trajectories, as tensors
    stream.py        the residual stream over all that may have come before, edge by edge
    mamba.py         what a Mamba layer can put out, with the boxes of its recurrent state
    fixpoint.py      boxes of a fading recurrence, and the check that they are inductive
    margins.py       the least margin of every decision
"""
