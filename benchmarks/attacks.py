"""Hostile code and files against the sandbox, the judge and the readers of files: what does the attacker get?

    python benchmarks/attacks.py                      # every attack, and again with its defence switched off
    python benchmarks/attacks.py --judgements 10000   # verdicts on two cores, one submission in ten hostile

Each attack runs in a process of its own. It is contained if the attacker gets nothing, no process is left, and the
process that used the sandbox neither fails, hangs, nor grows by more than `HOST_MEMORY`; a `UserError` is an answer.
With its defence switched off it must succeed, which shows that it is an attack. Prints a table, writes
results/benchmarks/attacks.json or judgements.json, and exits with 1 if one was not contained or a verdict was wrong.
"""

import contextlib
import ctypes
import multiprocessing
import os
import random
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from queue import Empty
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))


from benchmarks.attackers.commands import COMMANDS
from benchmarks.attackers.files import FILES
from benchmarks.attackers.resources import RESOURCES
from benchmarks.attackers.submissions import FIXES, HOSTILE, SLOW, SUBMISSIONS, close_sandboxes, fixed, judged
from benchmarks.attackers.supervisors import SUPERVISORS
from benchmarks.attackers.trial import cgroups, children, status, trial
from length_gen.datamodules.codebases import CodeBase, code_base
from length_gen.lightning_modules.reporting.measurements import Records, arguments

ATTACKS = [*COMMANDS, *RESOURCES, *SUPERVISORS, *SUBMISSIONS, *FILES]


def draw(number: int, seed: int) -> tuple[str, bool, CodeBase, Mapping[str, bytes]]:
    """Kind of submission `number`, whether it is right, the code base, and what was left of it."""
    rng = random.Random(f"{seed}/{number}")
    code = code_base(f"judgements/{seed}/{number}", rng.randint(4, 16))
    if number % 10 == 9:
        kind = rng.choice([*(SLOW if rng.random() < 0.02 else HOSTILE)])
        return kind, False, code, (SLOW | HOSTILE)[kind](code)
    if rng.random() < 0.6:
        style = rng.choice(FIXES)
        return f"right, {style}", True, code, fixed(code, style)
    value = code.functions["main"].declared["v10"]
    left_out, foo = rng.choice(sorted(code.to_fix())), code.files()["foo.py"]
    kind, files = rng.choice([
        ("as it was", code.files()), ("half a fix", fixed(code, without=left_out)),
        ("a constant", code.files() | {"foo.py": foo.replace(b"print(v10)", b"print(%d)" % value)}),
        ("no print", code.files() | {"foo.py": foo.replace(b"print(v10)", b"pass")}),
        ("twice", fixed(code) | {"foo.py": fixed(code)["foo.py"].replace(b"print(v10)", b"print(v10, v10)")}),
        ("a file less", {name: text for name, text in fixed(code).items() if name != f"{left_out}.py"})])
    return f"wrong, {kind}", False, code, files


def judge_some(first: int, step: int, count: int, seed: int, queue: Any, folder: str) -> None:
    """Judge submissions first, first + step, ...; says how each went, how large this is, and what is left at last.

    folder: for temporary files
    """
    tempfile.tempdir = folder
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # orphans come to this process
    for number in range(first, count, step):
        kind, right, code, files = draw(number, seed)
        try:
            verdict = judged(code, files)
            said = "" if verdict.fixed == right else verdict.reason or "counts as fixed"
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
        queue.put((number, kind, said, status("VmRSS") if number // step % 250 == 249 else None))
    close_sandboxes()
    queue.put((None, {"processes": len(children()), "cgroups": len(cgroups())}, len(os.listdir("/proc/self/fd")), None))


def census(folder: str) -> Counter:
    """What judging must not leave, beside processes and their cgroups: temporary folders, mounts."""
    return Counter({"folders": len(os.listdir(folder)), "mounts": Path("/proc/mounts").read_text().count("\n")})


def judgements(count: int, seed: int, processes: int = 2) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows by kind of submission, and facts about what was left and used."""
    context, begun = multiprocessing.get_context("spawn"), time.monotonic()
    done, wrong, sizes, left, files = Counter(), Counter(), {}, Counter(), []
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        before, queue = census(folder), context.Queue()
        workers = [context.Process(target=judge_some, args=(i, processes, count, seed, queue, folder))
                   for i in range(processes)]
        for worker in workers:
            worker.start()
        for _ in range(count + processes):
            while True:
                with contextlib.suppress(Empty):
                    number, kind, said, size = queue.get(timeout=5)
                    break
                if failed := [worker.exitcode for worker in workers if worker.exitcode]:
                    raise SystemExit(f"a judging process has ended with {failed[0]}")
            if number is None:
                left.update(kind)
                files.append(said)
                continue
            done[kind] += 1
            wrong[kind] += bool(said)
            if said:
                print(f"seed {seed}, submission {number}, {kind}: {said}", flush=True)
            if size:
                sizes.setdefault(number % processes, []).append(round(size / 2**20, 1))
            if done.total() % 500 == 0:
                print(f"{done.total():,} judgements, {time.monotonic() - begun:.0f} s", flush=True)
        for worker in workers:
            worker.join()
        seconds = time.monotonic() - begun
        left.update({name: value - before[name] for name, value in census(folder).items()})
    rows = [{"what": kind, "judgements": done[kind], "wrong": wrong[kind]} for kind in sorted(done)]
    return rows, {"seed": seed, "judgements": count, "wrong": wrong.total(), "seconds": round(seconds, 1),
                  "judgements per second": round(count / seconds, 2), "left": dict(left), "open files": files,
                  "MiB of each process, every 250 of its judgements": [sizes[i] for i in sorted(sizes)]}


def main() -> None:
    """Run the attacks, or judge the submissions; exits with 1 where the attacker or a wrong verdict won."""
    options = arguments(
        __doc__, lambda options: "judgements" if options.judgements else "attacks",
        judgements=(int, "judge so many submissions instead, one in ten of them hostile"),
        seed=(int, "of the submissions; a random one where none is given"),
        only=("", "attacks with this text in their kind or name; writes no file"))
    records, failed = Records(None if options.only else options.out), False
    if options.judgements:
        seed = secrets.randbelow(10**6) if options.seed is None else options.seed
        found, facts = judgements(options.judgements, seed)
        for row in found:
            records.add(row, **facts)
        print(facts)
        failed = facts["wrong"] or any(facts["left"].values())
    for attack in () if options.judgements else ATTACKS:
        if options.only in f"{attack.kind}: {attack.name}":
            outcome, undefended = trial(attack), trial(attack, False)
            failed |= bool(outcome.got) or not undefended.got
            records.add({"what": f"{attack.kind}: {attack.name}", "contained": not outcome.got, "got": outcome.got,
                         "seconds": round(outcome.seconds, 2), "host MiB": round(outcome.grown / 2**20, 1),
                         "got without the defence": undefended.got})
    records.show()
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
