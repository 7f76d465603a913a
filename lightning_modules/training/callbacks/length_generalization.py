"""Evaluates the model at growing lengths during and after training, and shows how far it gets."""

import itertools
import math
import shlex
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from rich import get_console
from rich.text import Text

from length_gen.datamodules.datamodule import TrajectoryDataModule
from length_gen.datamodules.rollout import budget
from length_gen.datamodules.tasks import Task
from length_gen.lightning_modules.backbones.base import Backbone
from length_gen.lightning_modules.decoding.agreement import check_agreement
from length_gen.lightning_modules.decoding.rollout import rollout
from length_gen.lightning_modules.decoding.settings import Decoding
from length_gen.lightning_modules.evaluation.analysis import horizons
from length_gen.lightning_modules.evaluation.diagnostics import diagnostics
from length_gen.lightning_modules.evaluation.evaluate import EVALUATORS, PROBLEM_SETS, check_lengths, evaluate
from length_gen.lightning_modules.evaluation.metrics import Record, exact_up_to, group_records, shares, write_metrics
from length_gen.lightning_modules.evaluation.outcome import first_difference
from length_gen.lightning_modules.evaluation.plots import accuracy_figure, save_figure
from length_gen.lightning_modules.evaluation.solve import UNTYPED, typed
from length_gen.lightning_modules.evaluation.tables import percent, records_table
from length_gen.lightning_modules.evaluation.traces import trace_markdown
from length_gen.lightning_modules.provenance import CHECKPOINT, origin
from length_gen.lightning_modules.training.callbacks import tensorboard, trackers
from length_gen.lightning_modules.training.callbacks.last_checkpoint import LastCheckpoint, last_validation, run_folder
from length_gen.lightning_modules.training.callbacks.progress import RunProgress, Watch
from length_gen.tools import UserError


class LengthGeneralization(Callback):
    """Interactive rollouts with the real tool, greedy, at growing lengths; a length at 0% is the last.

    At every validation: `validation_lengths` on validation problems, logged as curves over steps. At the end of `fit`
    and in `test`: `lengths` on test problems, as a table, metrics.json, curve.png, and in TensorBoard. A run whose loss
    or weights are no numbers at the end is `diverged` there, such a `train_loss` null; its records count as any do.

    Raises UserError for a setting that is not possible.

    Args:
        lengths: of the final evaluation, growing; in the task's own unit (digits)
        problems: problems at each length, for each variant of the task
        problems_at_longest: problems at the last of `lengths`; null: as many as at the others
        verify_lengths: further lengths, above `lengths`, that are only verified, not rolled out
        verify_problems: problems at each of those
        validation_lengths: during training
        validation_problems: during training, for each variant
        evaluators: `rollout` (the truth), `verify` (exact match only, by a parallel pass), or both
        batch_size: rows that are rolled out side by side
        decoding: engine, precision and temperature of the rollouts
        split: problems of the final evaluation; `validation` to compare recipes without seeing the test problems
        problem_sets: of the final evaluation: `uniform` (as the task draws them), `structured` (those that look for
            trouble: carries through all digits, very unequal operands, zeros, chains), or both
        diagnostics: problems of every evaluated length of which diagnostics.json keeps margins, first errors, states
            and step sizes (`evaluation.diagnostics`); 0: there is none
    """

    def __init__(self, lengths: list[int], problems: int = 32, problems_at_longest: int | None = None,
                 verify_lengths: Sequence[int] = (), verify_problems: int = 4,
                 validation_lengths: Sequence[int] = (), validation_problems: int = 16,
                 evaluators: Sequence[str] = EVALUATORS, batch_size: int = 64, split: str = "test",
                 decoding: Decoding = Decoding(),  # noqa: B008 (frozen)
                 problem_sets: Sequence[str] = PROBLEM_SETS[:1], diagnostics: int = 0) -> None:
        check_lengths([*lengths, *verify_lengths])
        check_lengths(validation_lengths)
        for name, value in {"problems": problems, "problems_at_longest": problems_at_longest or 1,
                            "verify_problems": verify_problems,
                            "validation_problems": validation_problems, "batch_size": batch_size}.items():
            if value < 1:
                raise UserError(f"evaluation {name} {value} is not allowed: expected at least 1")
        for name, given in {"lengths": lengths, "evaluators": evaluators, "problem_sets": problem_sets}.items():
            if not given:
                raise UserError(f"evaluation {name} [] are not allowed: give at least one")
        for what, given, known in (("evaluator", evaluators, EVALUATORS), ("problem set", problem_sets, PROBLEM_SETS)):
            if unknown := [name for name in given if name not in known]:
                raise UserError(f"unknown {what} {unknown[0]!r}: expected {' or '.join(known)}")
        self.lengths, self.validation_lengths = list(lengths), list(validation_lengths)
        self.problems, self.problems_at_longest = problems, problems_at_longest
        self.verify_lengths, self.verify_problems = list(verify_lengths), verify_problems
        self.validation_problems = validation_problems
        if split not in ("test", "validation"):
            raise UserError(f"unknown split {split!r}: expected test or validation")
        self.evaluators, self.batch_size, self.split = list(evaluators), batch_size, split
        if diagnostics < 0:
            raise UserError(f"evaluation diagnostics {diagnostics} are not allowed: expected at least 0")
        self.decoding, self.problem_sets, self.diagnostics = decoding, list(problem_sets), diagnostics
        self._train_seconds = 0.0
        self._train_loss: torch.Tensor | None = None  # running mean over about ten steps, on the device
        self._begun: float | None = None  # since when training has been running
        self._trained = False
        self._disagreement: str | None = None  # what the check of the trained backbone found

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what is trained. Raises UserError where the ways through the backbone do not agree
        (decoding/agreement.py)."""
        if trainer.is_global_zero:
            say(what_is_trained(pl_module.backbone, trainer.datamodule.task))
        with get_console().status("trying all ways through the model") if self._bar(trainer) else nullcontext():
            self._check_agreement(trainer, pl_module)
        settings = self._settings(pl_module, trainer.datamodule)
        for logger in trainer.loggers * trainer.is_global_zero:
            if logger in tensorboard.boards(trainer):
                tensorboard.begin(logger, self._charts(trainer.datamodule), settings)
            else:
                logger.log_hyperparams(settings)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """As `on_fit_start`."""
        self._check_agreement(trainer, pl_module)

    def _check_agreement(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raises UserError where what is trained or loaded is another model than what is rolled out."""
        with getattr(trainer.strategy, "whole", nullcontext)():
            check_agreement(pl_module.backbone, trainer.datamodule.task, pl_module.vocabulary, self.decoding,
                            self.batch_size, trainer.precision_plugin.forward_context)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of the training, which stands still in validations."""
        self._begun, self._trained = time.perf_counter(), True

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop that clock; where the command is `validate`, check as `on_fit_start`."""
        self._pause()
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._check_agreement(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let that clock go on."""
        self._begun = time.perf_counter()

    def _pause(self) -> None:
        if self._begun is not None:
            self._train_seconds += time.perf_counter() - self._begun
            self._begun = None

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any,
                           batch_idx: int) -> None:
        """Keep a running mean of the loss, which metrics.json has."""
        loss = outputs["loss"].detach().float()
        mean = loss if self._train_loss is None else torch.lerp(self._train_loss.to(loss), loss, 0.1)
        self._train_loss = torch.where(mean.isfinite(), mean, loss)  # a step that a gradient scaler left out is over

    def state_dict(self) -> dict[str, Any]:
        """Seconds of training and mean loss so far, so that a run that goes on has them."""
        seconds = self._train_seconds + (time.perf_counter() - self._begun if self._begun else 0.0)
        return {"train_seconds": seconds, "train_loss": self._last_loss()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._train_seconds = state_dict["train_seconds"]
        loss = state_dict.get("train_loss")  # checkpoints from before do not have it
        self._train_loss = None if loss is None else torch.tensor(loss)

    def _last_loss(self) -> float | None:
        return None if self._train_loss is None else float(self._train_loss)

    @staticmethod
    def _validation_loss(trainer: Trainer) -> float | None:
        """Of the run's last validation; None if there was none, or it is no number."""
        own = trainer.callback_metrics.get("validation/loss")
        loss = last_validation(run_folder(trainer))[1] if own is None else float(own)
        return loss if math.isfinite(loss) else None

    def check_task(self, task: Task) -> None:
        """Raises UserError if the task has no problems of one of the lengths, or none of a problem set."""
        for length in (*self.lengths, *self.verify_lengths, *self.validation_lengths):
            task.check_length(length)
        if "structured" in self.problem_sets and not any(
                task.structured_problems(self.split, 0, self.lengths[0], variant)
                for variant in task.variants_at(self.lengths[0])):
            raise UserError(f"{task.name} has no structured problems: give --evaluation.problem_sets [uniform]")
        if self.diagnostics and not task.streamed:
            raise UserError(f"diagnostics {self.diagnostics} are not possible: the trajectories of {task.name} are not "
                            f"recorded token by token; give --evaluation.diagnostics 0")
        if self.verify_lengths and not task.streamed:
            raise UserError(f"verify_lengths {self.verify_lengths} are not possible: the trajectories of {task.name} "
                            f"are not recorded token by token; give such lengths as evaluation.lengths")

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Roll out `validation_lengths`; log exact match by length, and up to which length all is exact."""
        if trainer.sanity_checking or not self.validation_lengths:
            return
        problems = self.validation_problems
        with self._watched(trainer, "Validation", {n: n * problems for n in self.validation_lengths}) as watch:
            records = list(self._evaluate(trainer, pl_module, self.validation_lengths, "rollout", "validation",
                                          lambda length: problems, watch=watch))
        for record in records:
            name = self._tag(trainer.datamodule, record["task"], record["variant"], record["length"])
            pl_module.log(f"exact_match/{name}", record["exact_match"], sync_dist=True)
            if trainer.datamodule.task.passes:
                pl_module.log(f"pass_rate/{name}", record["answer_accuracy"], sync_dist=True)
        pl_module.log("exact_up_to", float(exact_up_to(shares(records))), prog_bar=True, sync_dist=True)
        if trainer.is_global_zero and trainer.state.fn == TrainerFn.FITTING:
            say(f"step {trainer.global_step:,}: {rates(records)}", "dim")

    @staticmethod
    def _tag(data: TrajectoryDataModule, task: str, variant: str, length: int) -> str:
        """Of a curve over steps: the task only if it is one of a mixture."""
        return "/".join(filter(None, (task * (task != data.task_name), variant.replace(" ", ""), str(length))))

    def _charts(self, data: TrajectoryDataModule) -> dict[str, list[str]]:
        """Title -> tags of the validation's curves that belong in one chart."""
        kind, charts = "pass_rate" if data.task.passes else "exact_match", {}
        for length in self.validation_lengths:
            for variant in data.task.variants_at(length):
                part, own = data.task.part(variant)
                title = ", ".join(filter(None, (f"{kind.replace('_', ' ')} by length",
                                                part.name * (part.name != data.task_name), own)))
                charts.setdefault(title, []).append(f"{kind}/{self._tag(data, part.name, own, length)}")
        return charts

    @staticmethod
    def _settings(model: LightningModule, data: TrajectoryDataModule) -> dict[str, Any]:
        """What tells runs of a sweep apart."""
        backbone, task = model.backbone, data.task
        return {"backbone": backbone.description, "size": backbone.num_parameters, "task": task.name,
                "style": task.style, "setting": task.setting, "trained_to": task.max_length,
                "learning_rate": model.learning_rate, "seed": data.seed}

    @staticmethod
    def _bar(trainer: Trainer) -> RunProgress | None:
        bar = trainer.progress_bar_callback
        return bar if isinstance(bar, RunProgress) and bar.is_enabled else None

    def _watched(self, trainer: Trainer, name: str, work: dict[int, int]) -> AbstractContextManager[Watch]:
        """A bar, where there is one, for an evaluation of lengths with so much work each."""
        bar = self._bar(trainer)
        return bar.evaluating(trainer, name, work) if bar else nullcontext(lambda length, done, total: None)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, check the trained backbone, and evaluate `lengths`; not where the training was interrupted."""
        if any(isinstance(c, LastCheckpoint) and c.interrupted for c in trainer.callbacks):
            return
        self._pause()
        if trainer.is_global_zero and (loss := self._last_loss()) is not None:
            say(f"trained {trainer.global_step:,} steps in {self._train_seconds:,.0f} s: loss {loss:.3g} (running "
                f"mean)", "dim")
        for callback in trainer.callbacks:
            if isinstance(callback, LastCheckpoint):  # a failure below must not cost the training
                callback.on_train_end(trainer, pl_module)
        try:  # again: what begins as 0 made no difference at the start
            self._check_agreement(trainer, pl_module)
        except UserError as error:  # no reason to lose the evaluation, whose results say so
            self._disagreement = str(error)
            rank_zero_warn(self._disagreement)
        self._final(trainer, pl_module, run_folder(trainer))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A run that was cut off in its evaluation has no step left, and Lightning calls no hook of the training."""
        if not self._trained:
            pl_module.to(trainer.strategy.root_device)  # the strategy has just moved it away
            for callback in trainer.callbacks:
                if isinstance(callback, LastCheckpoint):
                    callback.make_up(trainer)
            self.on_train_end(trainer, pl_module)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate `lengths`; the results go to test/ in the run's folder."""
        self._final(trainer, pl_module, run_folder(trainer) / "test")

    def _evaluate(self, trainer, model, lengths, evaluator, split, problems, problem_set=PROBLEM_SETS[0], *,
                  watch: Watch) -> Iterable[Record]:
        return evaluate(model.backbone, trainer.datamodule, lengths, problems, evaluator, split, self.batch_size,
                        trainer.global_rank, trainer.world_size, self.decoding, min(self.verify_lengths, default=None),
                        run_folder(trainer), problem_set, watch)

    def _problems_at(self, length: int) -> int:
        if length in self.verify_lengths:
            return self.verify_problems
        if self.problems_at_longest and length == self.lengths[-1]:
            return self.problems_at_longest
        return self.problems

    def _final(self, trainer: Trainer, model: LightningModule, folder: Path) -> None:
        with getattr(trainer.strategy, "whole", nullcontext)():  # ranks have unequal numbers of problems
            self._final_of_whole(trainer, model, folder)

    def _final_of_whole(self, trainer: Trainer, model: LightningModule, folder: Path) -> None:
        records: list[Record] = []
        for problem_set, evaluator in itertools.product(self.problem_sets, self.evaluators):
            lengths = self.lengths + self.verify_lengths * (evaluator == "verify")
            what = " ".join(filter(None, (evaluator, problem_set * (problem_set != PROBLEM_SETS[0]))))
            with self._watched(trainer, what, {n: n * self._problems_at(n) for n in lengths}) as watch:
                for length, found in itertools.groupby(
                        self._evaluate(trainer, model, lengths, evaluator, self.split, self._problems_at, problem_set,
                                       watch=watch), lambda record: record["length"]):
                    records += (found := list(found))
                    if trainer.is_global_zero:
                        say(f"{what} {length:,}: {rates(found, at=False)}", "dim")
        if trainer.is_global_zero:
            self._show(trainer, model, records, folder)
            if self.diagnostics:
                found = diagnostics(model.backbone.eval(), trainer.datamodule, records, self.diagnostics, self.split)
                write_metrics(folder / "diagnostics.json", found, **origin(model.device))

    def _show(self, trainer: Trainer, model: LightningModule, records: list[Record], folder: Path) -> None:
        data = trainer.datamodule
        stream = data.seen.summary()
        train_length = data.task.max_length
        loss = self._last_loss()
        finite = loss is None or math.isfinite(loss)
        diverged = not (finite and all(parameter.isfinite().all() for parameter in model.parameters()))
        write_metrics(folder / "metrics.json", records, experiment=f"{data.task_name}_{train_length}",
                      **origin(model.device), seed=data.seed, backbone=model.backbone.description,
                      parameters=model.backbone.num_parameters, train_tokens=stream.get("tokens"),
                      train_seconds=round(self._train_seconds, 1),
                      train_loss=loss if finite else None, validation_loss=self._validation_loss(trainer),
                      diverged=diverged, disagreement=self._disagreement, stream=stream)
        figure = accuracy_figure(records, train_length, data.task.passes and "rollout" in self.evaluators, data.seed)
        save_figure(figure, folder / "curve.png")
        get_console().print(records_table(records, train_length))
        if any(curve[-1]["length"] < self.lengths[-1] and not curve[-1]["exact_match"]
               for curve in group_records(records).values()):
            say("Lengths after one at which nothing is right were not tried")
        if diverged:
            say("diverged: the loss or weights are no numbers any more; the run counts as what it solves")
        fitting, boards = trainer.state.fn == TrainerFn.FITTING, tensorboard.boards(trainer)
        texts = {"stream": data.seen.markdown(), "sample trace": self._sample_trace(trainer, model)} \
            if trainer.loggers else {}
        for logger in trainer.loggers:  # of all kinds
            logger.log_metrics(tensorboard.finals(records, self.lengths[-1]), trainer.global_step)
            trackers.show(logger, "accuracy by length", folder / "curve.png", texts, trainer.global_step)
            if logger in boards:
                tensorboard.finish(logger)
            logger.save()
        lines = [f"Results: {folder}/metrics.json, {folder}/curve.png"]
        if fitting:
            problem = data.problem("test", data.task.max_length, 0, data.task.variants_at(data.task.max_length)[-1])
            trust = trusting(model, data.task)
            text = typed(data.task, problem)
            failed = [] if data.task.passes or text == UNTYPED else [
                record["length"] for record in records if record["exact_match"] < 1
                and record["problem_set"] == PROBLEM_SETS[0] and record["length"] in self.lengths]
            which = f"--length {min(failed)}" if failed else f"--prompt {shlex.quote(text)}"
            lines += ["Next:", f"  python run.py rollout {which}{trust}{'    # what goes wrong' * bool(failed)}",
                      f"  python run.py test{trust}",
                      *(f"  tensorboard --logdir {logger.root_dir}" for logger in boards)]
        for line in lines:
            say(line)

    def _sample_trace(self, trainer: Trainer, model: LightningModule) -> str:
        data = trainer.datamodule
        variant = data.task.variants[-1]
        problem = data.problem("test", data.task.part(variant)[0].max_length, 0, variant)
        reference = data.task.record(problem)
        model.eval()
        row, = rollout(model.backbone, model.vocabulary, data.task, [(problem, budget(reference))],
                       decoding=self.decoding)
        command = (f"python run.py rollout --ckpt_path {run_folder(trainer) / CHECKPOINT} --html trace.html --prompt "
                   f"{shlex.quote(typed(data.task, problem))}{trusting(model, data.task)}")
        return trace_markdown(row.tokens, row.kinds, reference.phases, 400,
                              first_difference(row.tokens, reference.tokens), command)


def trusting(model: LightningModule, task: Task) -> str:
    """The option that a command on this run needs for classes of the user's own, named in its config; "" for none."""
    packages = {type(part).__module__.partition(".")[0] for part in (model.backbone, task)} - {"length_gen"}
    return f" --trusted_packages {','.join(sorted(packages))}" if packages else ""


def say(text: str, style: str = "") -> None:
    """Print a line where the progress bar is shown, above it; it is broken at words in a terminal, and in no file."""
    console = get_console()
    console.print(Text(text, style), soft_wrap=not console.is_terminal)


def what_is_trained(backbone: Backbone, task: Task) -> str:
    """One line: backbone, parameters, state, task, style, setting, longest problems, and a bound of the horizon below.

    The horizon is that of a few trajectories, where they are quick to record.
    """
    state, grown = (backbone.state_size(tokens) for tokens in (1, 1000))
    size = f"{state:,} bytes of state" if state == grown else f"a memory that grows ({grown:,} bytes at 1,000 tokens)"
    parts = [f"{backbone.description}: {backbone.num_parameters:,} parameters, {size}",
             ", ".join(filter(None, (task.name, f"style {task.style}" if task.style else "", task.setting,
                                     f"trained to length {task.max_length:,}")))]
    if task.streamed:
        seen = max(row["horizon"] for row in horizons(task, [task.max_length], 4, 0))
        parts.append(f"horizon at least {seen:,} tokens")
    return "; ".join(parts)


def rates(records: Sequence[Record], at: bool = True) -> str:
    """Exact match of records of some lengths in words: `n x 1 100% at 10, 94% at 20; n x 2 0% at 10`.

    at: say the lengths
    """
    curves: dict[str, list[str]] = {}
    several = len({record["task"] for record in records}) > 1
    for record in records:
        name = " ".join(filter(None, (record["task"] * several, record["variant"])))
        curves.setdefault(name, []).append(percent(record["exact_match"], 0) + f" at {record['length']:,}" * at)
    return "exact " + "; ".join(" ".join(filter(None, (name, ", ".join(said)))) for name, said in curves.items())
