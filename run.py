"""The command line: fit, validate, test, rollout (one problem, step by step), export (for transformers), certify (is it
exact at every length), analyze (horizons, no training), sweep (a grid of runs), report (docs/results.md) and collect
(trajectories of agents)."""

from length_gen.lightning_modules.commands.help import program

if __name__ == "__main__":
    program()
