"""The LightningModule: masked next-token training of a backbone on tool-use trajectories.

The loss is masked in `masked_targets`, by the kinds that datamodules/tokens.py calls PREDICTED.
"""

import functools
import math
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from lightning import LightningModule
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from length_gen.datamodules.tokens import PREDICTED, Kind
from length_gen.datamodules.vocabulary import Vocabulary
from length_gen.lightning_modules.backbones.base import Backbone
from length_gen.lightning_modules.backbones.low_rank import trained_text
from length_gen.lightning_modules.errors import is_out_of_memory
from length_gen.lightning_modules.training.initial_states import InitialStates
from length_gen.tools import UserError

IGNORED = -100
"""Target of a token that carries no loss."""

LARGE_VOCABULARY = 1024
"""From so many tokens on, the head and the loss leave out what is not predicted, for which the host must wait."""


def masked_targets(tokens: torch.Tensor, kinds: torch.Tensor) -> torch.Tensor:
    """Next-token targets, int64 [B, T], of rows [B, T + 1]; -100 where the next token is not the model's to predict."""
    # Compared with numbers one by one: a tensor of them would be copied to the device, for which the host would wait.
    predicted = functools.reduce(torch.logical_or, (kinds[:, 1:] == int(kind) for kind in sorted(PREDICTED)))
    return torch.where(predicted, tokens[:, 1:], IGNORED)


class TrajectoryModel(LightningModule):
    """Trains a backbone with teacher forcing; the question and the observations carry no loss (paper, appendix D.1).

    Raises UserError for a setting that is not possible, and for a backbone that does not fit in memory.

    Args:
        backbone: class of the backbone and its settings; it gets the size of the vocabulary
        vocabulary: tokens of the task (given by the data module)
        task_name: name of the task (given by the data module)
        learning_rate: highest learning rate of AdamW
        weight_decay: not applied to biases, norms, and what the backbone exempts (Mamba: A_log and D)
        betas: of AdamW
        warmup_steps: steps over which the learning rate rises linearly
        schedule: `cosine` down to `final_learning_rate` at the last step, or `constant`
        final_learning_rate: at the end of the cosine
        state_passing: share of training rows that start from the state in which a row of the batch before ended
        state_noise: normal noise on the states that training rows start from, in units of the root mean square of the
            states in which the rows of the batch before ended. With either all logits are made, also where the
            vocabulary is large (`lightning_modules.training.initial_states`)
    """

    def __init__(self, backbone: Callable[[int], Backbone], vocabulary: Vocabulary, task_name: str = "",
                 learning_rate: float = 3e-3, weight_decay: float = 0.01, betas: tuple[float, float] = (0.9, 0.95),
                 warmup_steps: int = 20, schedule: str = "cosine", final_learning_rate: float = 1e-4,
                 state_passing: float = 0.0, state_noise: float = 0.0) -> None:
        super().__init__()
        if schedule not in ("cosine", "constant"):
            raise UserError(f"unknown schedule {schedule!r}: expected cosine or constant")
        for name, value in {"learning_rate": learning_rate, "final_learning_rate": final_learning_rate,
                            "weight_decay": weight_decay, "warmup_steps": warmup_steps}.items():
            if not 0 <= value < math.inf:
                raise UserError(f"{name} {value} is not allowed: expected a number from 0 on")
        if schedule == "cosine" and not learning_rate:
            raise UserError("learning_rate 0 has no cosine down from it: give a number above 0, or --model.schedule "
                            "constant")
        if not all(0 <= beta < 1 for beta in betas):
            raise UserError(f"betas {list(betas)} are not allowed: expected two numbers from 0 to below 1")
        try:
            self.backbone = backbone(len(vocabulary))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise UserError("the backbone does not fit in memory: give smaller sizes (--model.backbone.n_layer, "
                            "d_model, ...)") from error
        self.initial_states = InitialStates(self.backbone, state_passing, state_noise)
        self.vocabulary, self.task_name = vocabulary, task_name
        self.learning_rate, self.weight_decay, self.betas = learning_rate, weight_decay, betas
        self.warmup_steps, self.schedule, self.final_learning_rate = warmup_steps, schedule, final_learning_rate
        self._clock: tuple[float, int] | None = None  # when, and after how many tokens, tokens/s were last logged
        self._tokens = 0  # that this rank has trained on, with padding
        self._validating_since = 0.0

    def on_fit_start(self) -> None:
        """Print what is trained and what is frozen, where not all weights are trained."""
        if text := trained_text(self.backbone):
            self.print(text)

    def losses(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean loss over the predicted tokens, and the loss of every token, float32 [B, T], 0 where not predicted.

        In training over several ranks the mean of the ranks' losses is the mean over all of their predicted tokens;
        elsewhere ranks may have unequal numbers of batches, and each has its own mean.
        """
        targets = masked_targets(batch["tokens"], batch["kinds"])
        inputs, predicted = batch["tokens"][:, :-1], targets != IGNORED
        passes = self.training and bool(self.initial_states)
        if passes or len(self.vocabulary) < LARGE_VOCABULARY:
            start = self.initial_states.draw(len(inputs), inputs.device) if passes else None
            logits, ends = self.backbone(inputs, start, return_state=passes)
            if passes:
                self.initial_states.keep(ends)
            losses = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none",
                                     ignore_index=IGNORED).view_as(targets)
        else:
            chosen = F.cross_entropy(self.backbone.logits_at(inputs, predicted).float(), targets[predicted],
                                     reduction="none")
            losses = torch.zeros_like(targets, dtype=torch.float32).masked_scatter(predicted, chosen)
        count = predicted.sum()
        if self.training and dist.is_available() and dist.is_initialized():
            dist.all_reduce(count)
            count = count / dist.get_world_size()
        return losses.sum() / count.clamp(min=1), losses

    def training_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Loss of one batch, logged: `tokens`, int64, and `kinds`, uint8, [B, T + 1]."""
        loss, losses = self.losses(batch)
        self.backbone.learn(batch["tokens"][:, :-1], masked_targets(batch["tokens"], batch["kinds"]))
        self._tokens += batch["kinds"][:, 1:].numel()
        if (every := self.trainer.log_every_n_steps) and (self.global_step + 1) % every == 0:  # 0: never
            self._log_training(loss, losses.detach(), batch)
        return loss

    def _log_training(self, loss: torch.Tensor, losses: torch.Tensor, batch: dict[str, torch.Tensor]) -> None:
        kinds = batch["kinds"][:, 1:]
        self.log("train/loss", loss)
        self.log("loss", loss, prog_bar=True, logger=False)
        for kind in sorted(PREDICTED):
            chosen = kinds == kind
            self.log(f"train/loss_{Kind(kind).name.lower()}", (losses * chosen).sum() / chosen.sum().clamp(min=1))
        self.log("train/padding_share", (kinds == Kind.PADDING).float().mean())
        now = time.perf_counter()
        if self._clock and now > self._clock[0]:  # several batches of one step may log
            speed = (self._tokens - self._clock[1]) * self.trainer.world_size / (now - self._clock[0])
            self.log("train/tokens_per_second", speed)
            self.log("tok/s", speed, prog_bar=True, logger=False)
        self._clock = now, self._tokens

    def on_validation_start(self) -> None:
        """Begin to measure the validation, which does not count in tokens/s."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # the steps that were sent off are training
        self._validating_since = time.perf_counter()

    def on_validation_end(self) -> None:
        """Take the validation's time out of that of tokens/s."""
        if self._clock:  # the time of an evaluation is not training time
            self._clock = self._clock[0] + time.perf_counter() - self._validating_since, self._clock[1]

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        """Log the loss of held-out rows; batches weigh by their predicted tokens."""
        self._held_out("validation", batch)

    def test_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        """As `validation_step`, for test rows."""
        self._held_out("test", batch)

    def _held_out(self, name: str, batch: dict[str, torch.Tensor]) -> None:
        predicted = int((masked_targets(batch["tokens"], batch["kinds"]) != IGNORED).sum())
        # The weight of the batch; times the ranks, over whose number Lightning divides whole numbers.
        self.log(f"{name}/loss", self.losses(batch)[0], sync_dist=True, batch_size=predicted * self.trainer.world_size)

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW with linear warmup and the schedule; raises UserError where all weights are frozen.

        Without weight decay are vectors and what a backbone exempts (`_no_weight_decay`).
        """
        decayed, exempt = [], []
        for parameter in self.parameters():
            if not parameter.requires_grad:  # frozen beneath low-rank updates
                continue
            free = parameter.ndim < 2 or getattr(parameter, "_no_weight_decay", False)
            (exempt if free else decayed).append(parameter)
        if not decayed and not exempt:
            raise UserError(f"{self.backbone.description} has no weights that can be trained: all are frozen; leave "
                            f"requires_grad on for some of them")
        groups = [{"params": decayed, "weight_decay": self.weight_decay}, {"params": exempt, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=self.learning_rate, betas=self.betas, fused=self._fused() or None)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self._learning_rate_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _fused(self) -> bool:
        """Whether one kernel can update all weights: on one or more whole CUDA devices, without a gradient scaler."""
        trainer = self._trainer
        plain = trainer is None or (isinstance(trainer.strategy, SingleDeviceStrategy | DDPStrategy)
                                    and getattr(trainer.precision_plugin, "scaler", None) is None)
        return plain and self.device.type == "cuda"

    def configure_gradient_clipping(self, optimizer: torch.optim.Optimizer, gradient_clip_val: float | None = None,
                                    gradient_clip_algorithm: str | None = None) -> None:
        """As Lightning, which refuses to where the optimizer is fused since it may unscale them: these need not."""
        if not self._fused() or not gradient_clip_val:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_algorithm == "value":
            torch.nn.utils.clip_grad_value_(self.parameters(), gradient_clip_val)
        else:
            torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)

    def _learning_rate_factor(self, step: int) -> float:
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return 1.0
        span = max(1, self.trainer.estimated_stepping_batches - self.warmup_steps)
        lowest = self.final_learning_rate / self.learning_rate
        return lowest + (1 - lowest) * (1 + math.cos(math.pi * min(1.0, (step - self.warmup_steps) / span))) / 2

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Put the task's name, the vocabulary and the initial states into the checkpoint."""
        checkpoint["task"], checkpoint["vocabulary"] = self.task_name, list(self.vocabulary.tokens)
        if self.initial_states:
            checkpoint["initial_states"] = self.initial_states.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises UserError if the checkpoint is of another task or vocabulary, or of a backbone of another shape."""
        task, vocabulary = checkpoint.get("task"), Vocabulary(checkpoint.get("vocabulary", ()))
        if task != self.task_name:
            raise UserError(f"the checkpoint is of task {task!r}, the configuration of task {self.task_name!r}: give "
                            f"the configuration that the checkpoint was trained with (config.yaml in its run folder)")
        if vocabulary != self.vocabulary:
            raise UserError(f"the checkpoint's vocabulary is not the configuration's: "
                            f"{vocabulary.difference(self.vocabulary)}; give the style it was trained in, or the "
                            f"tokenizer.json in its run folder (--data.task.tokenizer)")
        if self.initial_states and "initial_states" in checkpoint:
            self.initial_states.load_state_dict(checkpoint["initial_states"])
        if "state_dict" not in checkpoint:  # a sharded strategy has loaded it already
            return
        own, given = self.state_dict(), checkpoint["state_dict"]
        names = own.keys() | given.keys()
        names = {name for name in names if not name.endswith("_extra_state")}  # tables that grow in training
        wrong = [k for k in names if k not in own or k not in given or own[k].shape != given[k].shape]
        if wrong:
            raise UserError(f"the checkpoint's backbone is not the configuration's: {len(wrong)} tensors differ, such "
                            f"as {min(wrong)}; give the configuration that it was trained with")
