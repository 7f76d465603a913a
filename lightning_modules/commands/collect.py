"""`run.py collect`: trajectories of agents into files, many at a time, with a summary."""

import json
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from length_gen.datamodules.collection import Collection, Record, read_files, start_collection
from length_gen.lightning_modules.evaluation.metrics import wilson_interval
from length_gen.lightning_modules.evaluation.plots import save_figure
from length_gen.lightning_modules.evaluation.tables import percent
from length_gen.lightning_modules.reporting.plots import collection_figure
from length_gen.tools import UserError
from length_gen.tools.sandbox import check_bubblewrap
from length_gen.tools.system import cores


def collect(folder: str, agent: str = "interactive", count: int = 2000, lengths: Sequence[int] = (4, 16),
            seed: int = 0, shard_size: int = 200, workers: int | None = None, system: str = "", instance: str = "",
            step_limit: int = 0, model: dict[str, Any] | None = None, files: str | None = None,
            unsandboxed: bool = False) -> None:
    """Collect trajectories of agents that fix code bases, in mini-swe-agent's loop and in the sandbox.

    Goes on where it was cut off: files that are there stay. The same seed gives the same trajectories (an LLM's apart).

    Args:
        folder: where they go, such as trajectories/interactive
        agent: interactive or single_turn, which are scripted, or llm
        count: number of trajectories
        lengths: fewest and most functions of a code base; uniform between them
        seed: of the code bases
        shard_size: trajectories in one file
        workers: trajectories side by side; null: one for each core
        system: the first message; empty: a short one, or for an LLM mini-swe-agent's own
        instance: the second message, in which {{task}} is what to do
        step_limit: most messages of an agent; 0 is no limit
        model: of agent llm, as in mini-swe-agent's configuration: '{model_name: openai/NAME, model_kwargs: {api_base:
            http://HOST/v1, api_key: KEY}}'
        files: instead of letting an agent work: a folder of mini-swe-agent's .traj.json files to take over
        unsandboxed: run commands as they are on this machine, where there is no bubblewrap
    """
    if len(lengths) != 2:
        raise UserError(f"lengths {list(lengths)} are not possible: expected the fewest and the most functions")
    collection = Collection("files" if files else agent, seed, (lengths[0], lengths[1]), shard_size, system, instance,
                            step_limit, model or {}, unsandboxed)
    if files:
        start_collection(folder, collection)
        records = read_files(files, folder, shard_size)
    else:
        if not unsandboxed:
            check_bubblewrap()
        collection.templates()  # says so if mini-swe-agent is missing
        start_collection(folder, collection)
        records = _collect(folder, collection, count, workers or cores())
    rows = summaries(records)
    console = Console(emoji=False)
    console.print(_table(rows, collection))
    Path(folder, "summary.json").write_text(json.dumps({"count": len(records), "records": rows}, indent=1) + "\n",
                                            encoding="utf-8")
    save_figure(collection_figure(rows, f"{collection.agent}, {len(records):,} trajectories"),
                Path(folder) / "summary.png")
    console.print(f"{folder}: {len(records):,} trajectories, summary.json, summary.png", soft_wrap=True)


def _collect(folder: str, collection: Collection, count: int, workers: int) -> list[Record]:
    numbers = range(-(-count // collection.shard_size))
    kind = ThreadPoolExecutor(workers) if collection.agent == "llm" else \
        ProcessPoolExecutor(workers, multiprocessing.get_context("fork"))
    records: dict[int, list[Record]] = {}
    with kind as pool:
        jobs = {pool.submit(collection.shard, folder, number, count): number for number in numbers}
        try:
            for job in track(as_completed(jobs), f"{collection.agent}, {len(jobs):,} files", len(jobs)):
                records[jobs[job]] = job.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [record for number in numbers for record in records[number]]


def summaries(records: Sequence[Record]) -> list[Record]:
    """By n: trajectories, pass rate with its 95% Wilson interval, needless files, mean turns and characters."""
    groups: dict[int, list[Record]] = {}
    for record in records:
        groups.setdefault(record["n"], []).append(record)
    rows = []
    for n, group in sorted(groups.items()):
        fixed, size = sum(bool(record["fixed"]) for record in group), len(group)
        low, high = wilson_interval(fixed, size)
        rows.append({"n": n, "trajectories": size, "pass_rate": fixed / size, "pass_rate_low": low,
                     "pass_rate_high": high, "needless": sum(record["needless"] for record in group),
                     "turns": sum(record["turns"] for record in group) / size,
                     "characters": sum(record["characters"] for record in group) / size})
    return rows


def _table(rows: Sequence[Record], collection: Collection) -> Table:
    table = Table("functions", "trajectories", "fixed (95%)", "needless files", "messages", "characters",
                  title=f"{collection.agent}, seed {collection.seed}")
    for row in rows:
        interval = f"{percent(row['pass_rate_low'])} to {percent(row['pass_rate_high'])}"
        table.add_row(str(row["n"]), f"{row['trajectories']:,}", f"{percent(row['pass_rate'])} ({interval})",
                      str(row["needless"]), f"{row['turns']:.1f}", f"{row['characters']:,.0f}")
    return table
