"""Pages over many runs: report.py writes docs/results.md, and those it leads to, from the files in results/.

results.py makes curves of them, claims.py sentences, plots.py figures, text.py words and tables; overview.py is the
main page, details.py all others; prose.py fills the numbers into documents that people write. Tables and figures of one
run are in evaluation/.
"""
