"""Pages over many runs: report.py writes docs/results.md from the files in results/.

results.py makes curves of them, claims.py sentences, plots.py figures. Tables and figures of one run are in
evaluation/.
"""
