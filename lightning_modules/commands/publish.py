"""The command `publish`: a folder that others take a trained model from, as those in results/models/."""

import json
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
import yaml

from length_gen.lightning_modules.certification.certificate import digest, weights_of
from length_gen.lightning_modules.evaluation.solve import typed
from length_gen.lightning_modules.provenance import CHECKPOINT
from length_gen.lightning_modules.reporting.text import NOTHING, TO, share, table
from length_gen.lightning_modules.runs.load import Run
from length_gen.tools import UserError
from length_gen.tools.files import read_json

KEPT = ("config.yaml", "tokenizer.json", "metrics.json")
"""Of a run's folder, where they are."""

PROOF = ("verdict.json", "certificate.npz", "weights.npz")
"""Of `certificate/` in a run's folder."""


def publish(run: Run, out: str) -> None:
    """Write a trained model for others: weights, configuration, results and a card.

    A run's folder without what only training needs. Any command takes it by `--ckpt_path`, and `load_run` does.

    Args:
        run: a trained model
        out: a new folder, such as one that `hf upload` takes
    """
    folder = Path(out)
    if folder.exists() and any(folder.iterdir() if folder.is_dir() else [folder]):
        raise UserError(f"{out} is there already: give a new --out")
    verdict = certified(run)
    text = card(run, verdict, out)  # before anything is written: it may find a file that cannot be read
    try:
        (folder / CHECKPOINT).parent.mkdir(parents=True, exist_ok=True)
        torch.save({"pytorch-lightning_version": lightning.__version__, "task": run.data.task_name,
                    "vocabulary": list(run.vocabulary.tokens),
                    "state_dict": {f"backbone.{name}": value.cpu() for name, value
                                   in run.backbone.state_dict().items()}}, folder / CHECKPOINT)
        for name in [*KEPT, *(f"certificate/{name}" for name in PROOF if verdict)]:
            if (run.folder / name).is_file():
                (folder / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(run.folder / name, folder / name)
        (folder / "README.md").write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror or error}): give another --out") from error
    print(f"{out}: python run.py rollout --ckpt_path {shlex.quote(out)} --prompt {shlex.quote(_example(run))}")


def certified(run: Run) -> dict[str, Any]:
    """The verdict of `certify` in the run's folder; empty where there is none, or where it is not "certified", or of
    other weights, which a line says."""
    folder = run.folder / "certificate"
    verdict = _content(folder / "verdict.json")
    if verdict.get("outcome") != "certified":
        return {}
    try:
        with np.load(folder / "certificate.npz", allow_pickle=False) as certificate:
            weights = json.loads(str(certificate["header"]))["weights"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder} cannot be read ({error}): delete it, or certify the run again") from error
    if weights != digest(weights_of(run.backbone)):
        print(f"{folder} is left out: it is of other weights; python run.py certify makes another", file=sys.stderr)
        return {}
    return verdict


def card(run: Run, verdict: dict[str, Any], name: str) -> str:
    """A model card in Markdown: what it is, how to use it, its results, its certificate and how it was made.

    verdict: as `certified` gives it; name: of the folder that it lies in
    """
    task = run.task
    results = _content(run.folder / "metrics.json")
    head = {"library_name": "tool-use-length-generalization",
            "tags": ["length-generalization", "tool-use", run.backbone.description.split()[0]]}
    written = ", ".join(filter(None, (task.style and f"style {task.style}", f"setting {task.setting}")))
    return "\n".join([
        "---", yaml.safe_dump(head, sort_keys=False).strip(), "---", "",
        f"# {run.data.task_name}, {run.backbone.description}", "",
        f"A model of {run.backbone.num_parameters:,} parameters, trained on problems of {run.data.task_name} up to "
        f"length {task.max_length} ({written}). It solves them token by token with a tool.", "",
        f"    python run.py rollout --ckpt_path {shlex.quote(name)} --prompt {shlex.quote(_example(run))}", "",
        "    from length_gen import load_run",
        f"    load_run({name!r}).rollout({_example(run)!r}).show()", "",
        *_results(results.get("records", [])), *(_certificate(verdict, name) if verdict else []),
        *([f"Made by `{results['command']}` (seed {results.get('seed')}, commit {results.get('commit')})."]
          if "command" in results else [])]) + "\n"


def _example(run: Run) -> str:
    task = run.task
    return typed(task, run.data.problem("test", task.max_length, 0, task.variants_at(task.max_length)[-1]))


def _content(path: Path) -> dict[str, Any]:
    """Of a run's JSON file; empty where there is none. Raises UserError if it is none."""
    try:
        content = read_json(path) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): delete it, or evaluate the run again") from error
    return content if isinstance(content, dict) else {}


def _results(records: Sequence[dict[str, Any]]) -> list[str]:
    if not records:
        return []
    rows = [(r["variant"] or NOTHING, r["problem_set"], r["evaluator"], f"{r['length']:,}", share(r["exact_match"]),
             f"{share(r['exact_match_low'])}{TO}{share(r['exact_match_high'])}", r["problems"]) for r in records]
    return ["Share of problems whose whole trajectory is the reference's, with a 95% Wilson interval:", "",
            *table(["kind", "problems", "evaluator", "length", "exact match", "interval", "number"], rows)]


def _certificate(verdict: dict[str, Any], name: str) -> list[str]:
    kinds = f" of {', '.join(verdict['variants'])}" if verdict["variants"] else ""
    check = shlex.join(["python", "certificates/check.py", *(f"{name}/certificate/{file}" for file in PROOF[1:])])
    return [f"*Certified*: for every problem of every length{kinds} greedy decoding yields the reference trajectory, "
            f"token by token, in {verdict['precision']} arithmetic: all {verdict['decisions']:,} decisions, least "
            f"margin {verdict['least']:.2f} logits. What is assumed is in docs/certificates.md. To prove it again:", "",
            f"    {check}", ""]
