"""What one model can do, by length.

evaluate.py runs problems through an evaluator, `rollout` (in decoding/) or `verify` (verify.py); outcome.py judges one
problem, metrics.py adds problems up to the records of metrics.json, and tables.py, plots.py and traces.py show them.
solve.py is a single problem, horizons.py needs no model. Pages over many runs are in reporting/.
"""
