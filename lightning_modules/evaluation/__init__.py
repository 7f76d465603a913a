"""Length generalization of one model: lengths, outcomes, metrics, tables and figures of one run."""
