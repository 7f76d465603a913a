"""Proofs that a model is exact at every length.

    bounds.py        interval arithmetic whose every operation rounds outwards
    graph.py         the windows of the last K tokens of all trajectories, as tensors
    stream.py        the residual stream over all that may have come before, edge by edge
    convolution.py   a causal convolution over all paths, and what is linear in silu of it, composed with the stream
    mamba.py         what a Mamba layer can put out, with the boxes of its recurrent state
    fixpoint.py      boxes of a fading recurrence, and the check that they are inductive
    model_bounds.py  the least margin of every decision, layer by layer
    refutation.py    problems that lead to decisions that were not proved
    certificate.py   the file, which certificates/check.py proves again with code of its own
    certify.py       the verdict: certified, refuted or unknown
"""
