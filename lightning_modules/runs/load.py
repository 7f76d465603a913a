"""A trained run in one's own program: roll out problems, verify, evaluate.

    from length_gen import load_run

    run = load_run("runs/mult/version_0")
    run.rollout("123x42").show()
    run.evaluate(lengths=[10, 100], problems=32)
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser

from length_gen.datamodules.datamodule import TrajectoryDataModule
from length_gen.datamodules.tasks import Task
from length_gen.datamodules.vocabulary import Vocabulary
from length_gen.lightning_modules.backbones.base import Backbone
from length_gen.lightning_modules.decoding.agreement import check_agreement
from length_gen.lightning_modules.decoding.settings import Decoding
from length_gen.lightning_modules.evaluation.evaluate import check_lengths, evaluate
from length_gen.lightning_modules.evaluation.metrics import Record
from length_gen.lightning_modules.evaluation.outcome import Outcome
from length_gen.lightning_modules.evaluation.solve import RolloutResult, solve
from length_gen.lightning_modules.evaluation.verify import verify
from length_gen.lightning_modules.model import TrajectoryModel
from length_gen.lightning_modules.provenance import CHECKPOINT, checkpoint_of
from length_gen.lightning_modules.runs.checkpoints import check_content, read_checkpoint
from length_gen.lightning_modules.runs.old_class_paths import renamed
from length_gen.lightning_modules.runs.trust import import_only
from length_gen.lightning_modules.training.callbacks import LengthGeneralization
from length_gen.tools import UserError
from length_gen.tools.files import read_yaml


@dataclass
class Run:
    """A trained model with its task, ready to be evaluated; make it by `load_run`.

    folder:   of the run
    data:     task, vocabulary, and the problems of the test and validation splits
    decoding: engine, precision and temperature of the rollouts, as the run's configuration has them
    """

    folder: Path
    backbone: Backbone
    data: TrajectoryDataModule
    decoding: Decoding

    @property
    def task(self) -> Task:
        """The task that the run was trained on."""
        return self.data.task

    @property
    def vocabulary(self) -> Vocabulary:
        """The task's tokens, by the ids that the backbone takes."""
        return self.data.vocabulary

    def rollout(self, prompt: str, progress: Callable[[int, int], None] = lambda done, total: None) -> RolloutResult:
        """Solve one problem, written as a person would, with the real tool. Raises UserError if it is none.

        progress: called now and then with how many tokens there are, and how many the reference has
        """
        return self.rollouts([prompt], progress)[0]

    def rollouts(self, prompts: Sequence[str],
                 progress: Callable[[int, int], None] = lambda done, total: None) -> list[RolloutResult]:
        """`rollout` of several problems, side by side; results in their order. Raises UserError as it does."""
        for prompt in prompts:
            self.task.parse(prompt)  # before what takes longer
        self._checked  # noqa: B018
        return solve(self.backbone, self.vocabulary, self.task, prompts, self.decoding, progress)

    def verify(self, prompt: str) -> Outcome:
        """Whether the model would write the reference trajectory of a problem, by one pass over it.

        Raises UserError if it is none of the task.
        """
        self._checked  # noqa: B018
        return verify(self.backbone, self.vocabulary, [self.task.record(self.task.parse(prompt))])[0]

    def evaluate(self, lengths: Sequence[int], problems: int = 32, evaluator: str = "rollout", split: str = "test",
                 batch_size: int = 64, problem_set: str = "uniform") -> list[Record]:
        """Records as in metrics.json, one for each length and variant; a variant's lengths end after one at 0%.

        problems: of each length and variant; evaluator: `rollout`, or `verify` (exact match only); problem_set:
        `uniform`, or `structured` (those that look for trouble)

        Raises UserError for lengths that do not grow from 1 on.
        """
        check_lengths(lengths)
        self._checked  # noqa: B018
        return list(evaluate(self.backbone, self.data, lengths, lambda _: problems, evaluator, split, batch_size,
                             decoding=self.decoding, problem_set=problem_set))

    @cached_property
    def _checked(self) -> None:
        """All ways through the model agree. Raises UserError where they do not."""
        check_agreement(self.backbone, self.task, self.vocabulary, self.decoding)


def load_run(path: str | Path, device: str | torch.device | None = None,
             trusted_packages: Iterable[str] = ()) -> Run:
    """The run in a folder, or of a checkpoint, or the suite's own of that name (results/models/), with the weights of
    its newest whole checkpoint.

    device:           a GPU if there is one
    trusted_packages: that its config.yaml may name classes of, beside the suite's and Lightning's; this holds for all
                      that jsonargparse reads in this process from here on

    Raises UserError if it is no run, or its configuration or checkpoint cannot be read.
    """
    checkpoint = checkpoint_of(path)
    folder, checkpoint = (checkpoint.resolve().parent.parent, checkpoint) if checkpoint.is_file() \
        else (checkpoint, checkpoint / CHECKPOINT)
    try:
        config = renamed(read_yaml(folder / "config.yaml"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no run ({error}): give a folder with config.yaml and checkpoints/, such as "
                        f"runs/mult/version_0") from error
    checkpoint, content = read_checkpoint(checkpoint)
    check_content(checkpoint, content)
    import_only(trusted_packages)
    parts = _instantiated(config, folder / "config.yaml")
    model, data = parts.model, parts.data
    model.on_load_checkpoint(content)
    model.load_state_dict(content["state_dict"])
    model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()
    return Run(folder, model.backbone, data, parts.evaluation.decoding)


def _instantiated(config: Any, path: Path) -> Any:
    """Data, model and evaluation of a training run's configuration."""
    parser = ArgumentParser(exit_on_error=False)
    classes = {"data": TrajectoryDataModule, "model": TrajectoryModel, "evaluation": LengthGeneralization}
    for key, cls in classes.items():
        parser.add_class_arguments(cls, key)
    parser.link_arguments("data.vocabulary", "model.vocabulary", apply_on="instantiate")
    parser.link_arguments("data.task_name", "model.task_name", apply_on="instantiate")
    try:
        given = {key: dict(config[key]) for key in classes}
        given["data"].setdefault("seed", config.get("seed_everything", 42))
        parsed = parser.parse_object(given)
        return getattr(parser, "instantiate", parser.instantiate_classes)(parsed)
    except UserError:
        raise
    except Exception as error:  # the parser's own are of many kinds
        raise UserError(f"{path} is not the configuration of a run of this suite: {' '.join(str(error).split())[:300]}"
                        ) from error
