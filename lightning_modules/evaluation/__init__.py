"""What one model can do, by length.

evaluate.py runs problems through an evaluator, `rollout` (in decoding/) or `verify` (verify.py), which are held to
the same first error by tests/lightning_modules/decoding/test_rollout.py. outcome.py judges one problem, metrics.py
adds problems up to the records of metrics.json, and tables.py, plots.py and traces.py show them. diagnostics.py keeps
margins and states of a model; verify.py, diagnostics.py and confidence.py read it by teacher_forcing.py. solve.py is
a single problem, with its memory (memory.py), which viewer.py makes a page of. analysis.py needs no model. Pages over
many runs are in reporting/.
"""
