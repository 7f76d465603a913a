"""The command `certify`: whether a model is exact at every length."""

import hashlib
import json
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from length_gen.datamodules.automaton import automaton, source_digest
from length_gen.lightning_modules.certification.certify import UNITS, Verdict
from length_gen.lightning_modules.certification.certify import certify as prove
from length_gen.lightning_modules.provenance import origin
from length_gen.lightning_modules.runs.load import Run
from length_gen.tools import UserError
from length_gen.tools.files import atomic_path

EXIT = {"certified": 0, "refuted": 1, "unknown": 3}
"""Exit codes."""

CHECKER = Path(__file__).resolve().parents[2] / "certificates" / "check.py"
"""Beside the source, in a clone."""

GPU_CELLS = 100_000_000
"""Elements of the checker's largest arrays on a GPU."""


def certify(run: Run, precision: str | None = None, window: int = 8, longest_window: int = 12,
            variants: list[str] | None = None, seconds: float = 60.0, check: bool = False, folder: str | None = None,
            record: str | None = None) -> None:
    """Prove that greedy decoding yields the reference trajectory for every problem of every length, or find a problem
    where it does not.

    Exit code 0: certified, and a certificate is written. 1: refuted, by a problem that is shown. 3: unknown.

    Args:
        run: a trained model
        precision: what is computed in: real (without rounding), float64 or float32; a proof holds for those before it.
            By default float32, and where that is not proved float64
        window: tokens of the windows at first; more are taken while a decision is not proved
        longest_window: most tokens of them
        variants: kinds of problems that are asked about, such as n x 1; all by default
        seconds: time for the search for a problem on which the model errs, where it is not certified
        check: prove the certificate again by certificates/check.py; one that it does not prove does not count
        folder: where the certificate and the verdict go; certificate/ in the run's folder by default
        record: file that the verdict is written to as well
    """
    if precision not in {None, *UNITS}:
        raise UserError(f"unknown precision {precision!r}: expected {', '.join(UNITS)}")
    if not 1 <= window <= longest_window:
        raise UserError(f"windows of {window} to {longest_window} tokens are not possible: expected at least 1, and "
                        f"no fewer at most than at first")
    if unknown := set(variants or ()) - set(run.task.variants):
        raise UserError(f"{run.task.name} has no variant {min(unknown)!r}: it has {', '.join(run.task.variants)}")
    folder = Path(folder) if folder else run.folder / "certificate"
    path, console, task = folder / "certificate.npz", Console(emoji=False), run.task
    path.unlink(missing_ok=True)
    precisions = [precision] if precision else ["float32", "float64"]
    seen: dict[str, Any] = {}

    def doubt() -> str:
        if not check:
            return ""
        try:
            seen["checker_seconds"], seen["checker_margin"] = checked(path, next(run.backbone.parameters()).device)
        except UserError as error:
            path.unlink()
            return str(error)
        return ""

    facts = {"task": task.name, "variants": variants, "setting": task.setting, "style": task.style,
             "max_length": task.max_length, "seed": run.data.seed, "model": run.backbone.description,
             **origin(next(run.backbone.parameters()).device)}
    with Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console,
                  transient=True) as progress:
        bar = progress.add_task("certify", total=1.0)
        verdict = prove(run.backbone, task, run.vocabulary,
                        lambda order: automaton(task, order, longest_window, variants),
                        [UNITS[name] for name in precisions], window, longest_window, seconds, variants, path=path,
                        header=lambda: {**facts, "source": source_digest(task, variants)}, doubt=doubt,
                        progress=lambda what, part: progress.update(bar, description=what, completed=part))
    precision = next(name for name in precisions if UNITS[name] == verdict.unit)
    result = {**facts, "precision": precision, **asdict(verdict)}
    if verdict.outcome == "certified":
        result["certificate_bytes"] = path.stat().st_size
        result["certificate_sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        result.update(seen)
    for file in filter(None, (folder / "verdict.json", record)):
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(file) as temporary:
            temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for line in told(verdict, precision):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if verdict.outcome == "certified":
        console.print(f"{path}: python certificates/check.py {path} {path.with_name('weights.npz')}", markup=False,
                      highlight=False, soft_wrap=True)
    if EXIT[verdict.outcome]:
        raise SystemExit(EXIT[verdict.outcome])


def told(verdict: Verdict, precision: str) -> list[str]:
    """The verdict in words, line by line."""
    lines = [f"{verdict.outcome} in {precision} after {verdict.seconds:.0f} s"]
    if verdict.reason:
        lines.append(verdict.reason)
    if verdict.least is not None:
        lines.append(f"{verdict.proved:,} of {verdict.decisions:,} decisions proved; {verdict.nodes:,} windows of "
                     f"{verdict.order} tokens, {verdict.edges:,} edges; least margin {verdict.least:.3g} logits")
        shown = verdict.weakest[:1] if verdict.outcome == "certified" else verdict.weakest[:5]
        lines += [f"  {margin:+.3g} for {wanted} after {' '.join(window)}" for window, wanted, margin in shown]
    if found := verdict.counterexample:
        lines += [f"on the problem {''.join(found.problem.prompt)}, confirmed by a rollout:",
                  f"  after {' '.join(found.context)} comes {found.expected}; the model "
                  f"{'ends' if found.said is None else f'says {found.said}'} (token {found.position:,})"]
    return lines


def checked(path: Path, device: torch.device) -> tuple[float, str]:
    """Seconds that the independent checker takes for a certificate, and the margin that it proves; on a GPU by torch.

    Raises UserError where it refuses the certificate.
    """
    begun = time.monotonic()
    how = [] if device.type == "cpu" else ["--library", "torch", "--device", str(device), "--cells", str(GPU_CELLS)]
    done = subprocess.run([sys.executable, "-I", str(CHECKER), str(path), str(path.with_name("weights.npz")), *how],
                          capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"certificates/check.py does not prove it: {done.stdout.strip() or done.stderr.strip()}")
    return time.monotonic() - begun, done.stdout.partition("least margin ")[2].partition(" ")[0]
