"""Pages over many runs: results, claims, figures."""
