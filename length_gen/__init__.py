"""Tool use and length generalization in state space models; one import name for all of it.

    from length_gen import load_run

    tools               what models call
    datamodules         tasks, trajectories, the training stream
    lightning_modules   backbones, rollouts, evaluation, runs
    configs             the suite's configurations

Where it is installed these are folders in this one. In a clone they lie beside it, where `run.py` is.
"""

from pathlib import Path
from typing import Any

__all__ = ["load_run"]

if not (Path(__file__).parent / "tools").is_dir():
    __path__.append(str(Path(__file__).parents[1]))


def __getattr__(name: str) -> Any:
    """`load_run`, which needs torch; the tools do not, and start in a tenth of the time."""
    if name == "load_run":
        from length_gen.lightning_modules.runs.load import load_run
        return load_run
    raise AttributeError(f"length_gen has no {name}; it has {', '.join(__all__)} and its packages")
