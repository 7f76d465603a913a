"""Configurations with mistakes in them: each runs, or gets one line that says what is wrong.

    python benchmarks/fuzz.py --cases 2000

Takes every YAML file of the suite (experiments, overlays, sweeps, Turing machines) and the collection.json of a folder
of trajectories, changes one to three places in it (see `CHANGES`), and gives it to the command line, all in this
process: most up to the classes that it builds, half of the experiments through a training and its evaluations. Case i
is a function of (seed, i), and one that fails is printed. Memory is limited by the system (RLIMIT_AS); what goes on
longer than --seconds is cut off. Prints a table, writes results/benchmarks/fuzz.json: `line` are those that got one
line, `hangs` those that were cut off before the trainer had them.
"""

import contextlib
import copy
import functools
import io
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ["HF_HUB_OFFLINE"] = "1"  # where there is no network a name that is none would be asked for again and again

import torch
import yaml
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, MambaConfig, MambaForCausalLM

from length_gen.datamodules.collection import META, Collection, start_collection
from length_gen.datamodules.text import TextCodec
from length_gen.lightning_modules.commands import main as commands
from length_gen.lightning_modules.commands.command_line import CLI, Trainer
from length_gen.lightning_modules.model import TrajectoryModel
from length_gen.lightning_modules.reporting.measurements import Records, arguments

ROOT = Path(__file__).parent.parent

NUMBERS = (0, 1, -1, 2, 3.5, -0.5, 1e-320, 1e308, -1e308, 2**31, 2**63, 10**12, -(10**12), 10**30, float("nan"),
           float("inf"), float("-inf"))
LIKE = {
    bool: (True, False),
    int: (0, 1, -1, 2, 7, 64, 1000, 2**31, 2**63, 10**12, -(10**12), 10**30),
    float: (*NUMBERS, 0.5, 2.0, 1e-30),
    str: ("", "text", "local", "paper", "rollout", "cosine", "single_turn", "no_tool", "cpu", "gpu", "16-true", "0.5",
          "Copy", "GRU", "Suffix", "\u00e9" * 300)}
OTHERS = (
    None, "", "text", "a.b", "../..", "0", "1e3", "null", "\0", "\u00e9" * 300, True, False, [], {}, [1, 2], ["a"],
    [None], [[]], {"a": 1}, {1: 2}, {"class_path": "Mamba"}, {"class_path": "torch.nn.Linear"}, [3, 2, 1], [10**12])

SMALL = {"max_steps": 2, "val_check_interval": 2, "batch_size": 2, "lengths": [4], "validation_lengths": [4],
         "verify_lengths": [5], "problems": 1, "problems_at_longest": 1, "verify_problems": 1, "validation_problems": 1,
         "every_n_steps": 1, "log_every_n_steps": 1, "max_length": 4, "n_layer": 1, "d_model": 16, "warmup_steps": 1}
"""Keys of a configuration as they are before the change, for a training of a second."""

BRIEF = ["--data.validation_rows", "2", "--trainer.enable_progress_bar", "false"]
"""Before the configuration, which goes before them."""

class Cut(BaseException):
    """The time is up; no `Exception`, so that nothing takes it for its own."""


class Built(BaseException):
    """All classes are there, and more is not wanted."""


@dataclass(frozen=True)
class Source:
    """A file of the suite, and the arguments of the command that a changed copy of it stands for."""

    kind: str
    path: Path
    arguments: Callable[[str], list[str]]


@dataclass
class Outcome:
    """How a case ended: `runs`, `line`, `cut off` or `traceback`; `stage` is the last one that it came to."""

    end: str
    stage: str
    text: str


def places(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """The paths of all keys and items below a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in items:
        yield (*path, key)
        yield from places(part, (*path, key))


def change(content: Any, rng: random.Random, kinds: Sequence[str]) -> str:
    """Change one place of a YAML file's content in one of some ways, and say how."""
    found, kind = list(places(content)), rng.choice(kinds)
    if kind == "value":
        found = [where for where in found if type(at(content, where)) in LIKE]
    if not found:
        return "nothing"
    where = rng.choice(found)
    said = CHANGES[kind](at(content, where[:-1]), where[-1], content, rng)
    return f"{'.'.join(map(str, where))}: {kind}{said}"


def at(content: Any, where: tuple) -> Any:
    """The part of a YAML file's content at a path of keys and indices."""
    return functools.reduce(lambda part, key: part[key], where, content)


def _delete(parent, key, content, rng) -> str:
    del parent[key]
    return ""


def _set(values) -> Callable:
    def put(parent, key, content, rng) -> str:
        parent[key] = copy.deepcopy(rng.choice(values))
        return f" {parent[key]!r}"[:60]

    return put


def _rename(parent, key, content, rng) -> str:
    if isinstance(parent, dict):
        parent[rng.choice((f"{key}s", str(key)[:-1], 5, "__class__", f"{key}.{key}"))] = parent.pop(key)
    return ""


def _elsewhere(parent, key, content, rng) -> str:
    where = rng.choice(list(places(content)))
    # A copy: a part that holds itself is no file.
    parent[key] = json.loads(json.dumps(at(content, where), default=str))
    return " " + ".".join(map(str, where))


def _wrap(parent, key, content, rng) -> str:
    parent[key] = rng.choice(([parent[key]], {"a": parent[key]}, {"init_args": parent[key]}, str(parent[key])))
    return ""


def _like(parent, key, content, rng) -> str:
    """Another value of the same type."""
    return _set(LIKE[type(parent[key])])(parent, key, content, rng)


CHANGES = {"value": _like, "deleted": _delete, "number": _set(NUMBERS), "type": _set(OTHERS), "renamed": _rename,
           "from elsewhere": _elsewhere, "wrapped": _wrap}
ANY, MILD = ("value", *CHANGES), ("value", "value", "value", "deleted", "number")
"""How the files are changed, and those that are trained, so that some come to it."""


def sources(folder: Path) -> list[Source]:
    """All files that are changed; `folder` gets trajectories, a tokenizer and a model in small."""
    configs, add = ROOT / "configs", str(ROOT / "configs/add.yaml")

    def config(path: Path, before: tuple[str, ...] = ()) -> Source:
        kind = "experiment" if path.parent == configs else "overlay"
        return Source(kind, path, lambda name: [part for file in (*before, name) for part in ("--config", file)])

    found = [config(path, (add,) * (path.name == "million.yaml")) for path in sorted(configs.glob("*.yaml"))]
    found += [config(path, (add,)) for name in ("model", "trainer") for path in sorted((configs / name).glob("*.yaml"))]
    found += [Source("sweep", path, lambda name: ["sweep", name, "--dry_run", "true"])
              for path in sorted((configs / "sweeps").glob("*.yaml"))]
    found += [Source("machine", path, lambda name: ["--config", str(ROOT / "configs/turing.yaml"),
                                                    "--data.task.machine", name])
              for path in sorted((ROOT / "datamodules/tasks/machines").glob("*.yaml"))]
    found.append(Source("collection", folder / "trajectories" / META, lambda name: [
        "--config", str(ROOT / "configs/codefix.yaml"), "--data.task.trajectories", str(Path(name).parent),
        "--data.task.tokenizer", str(folder / "tokenizer.json")]))
    return found


def prepare(folder: Path) -> None:
    """Trajectories of the scripted agent, a tokenizer, and a pretrained model of the paper's format in small."""
    collection = Collection(lengths=(4, 5), shard_size=4, unsandboxed=True)  # the scripted agent does no harm
    (folder / "trajectories").mkdir()
    start_collection(str(folder / "trajectories"), collection)
    collection.shard(str(folder / "trajectories"), 0, 4)
    TextCodec.train(["python3 main.py"], 300).save(folder / "tokenizer.json")
    sizes = {"vocab_size": 302, "hidden_size": 16, "num_hidden_layers": 1}
    MambaForCausalLM(MambaConfig(**sizes, state_size=4)).save_pretrained(folder / "mamba-1.4b")
    GPTNeoXForCausalLM(GPTNeoXConfig(**sizes, num_attention_heads=2, intermediate_size=32)).save_pretrained(
        folder / "pythia-1.4b")


def load(source: Source, folder: Path, small: bool) -> Any:
    """The content of a source's file, made small for a training."""
    content = yaml.safe_load(source.path.read_text(encoding="utf-8"))
    if source.kind in ("experiment", "overlay"):
        for where in list(places(content)):
            parent = at(content, where[:-1])
            if where[-1] == "trajectories":
                parent["trajectories"] = str(folder / "trajectories")
            elif where[-1] == "tokenizer":
                parent["tokenizer"] = str(folder / "tokenizer.json")
            elif where[-1] == "name" and "1.4b" in str(parent["name"]) and "/" in parent["name"]:
                parent["name"] = str(folder / parent["name"].split("/")[1])
            elif where[-1] == "unsandboxed":
                parent["unsandboxed"] = True
            elif small and where[-1] in SMALL:
                parent[where[-1]] = copy.deepcopy(SMALL[where[-1]])
    return content


def write(source: Source, content: Any, folder: Path, rng: random.Random) -> Path:
    """The changed file; now and then cut off, or with a byte that is another."""
    text = json.dumps(content, indent=1) if source.kind == "collection" else \
        yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    data = text.encode("utf-8", errors="replace")
    if rng.random() < 0.02:
        data = data[: rng.randrange(len(data) + 1)]
    elif rng.random() < 0.02 and data:
        at = rng.randrange(len(data))
        data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
    path = folder / "changed" / (META if source.kind == "collection" else source.path.name)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    if source.kind == "collection":
        for shard in (folder / "trajectories").glob("*.jsonl.gz"):
            (path.parent / shard.name).write_bytes(shard.read_bytes())
    return path


@contextlib.contextmanager
def limits(seconds: float, memory: int) -> Iterator[None]:
    """At most so many seconds, and so many bytes more than there are now."""
    def stop(*_: Any) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.2)  # again, should something hold the first one back
        raise Cut

    before, hard = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    handler = signal.signal(signal.SIGALRM, stop)
    resource.setrlimit(resource.RLIMIT_AS, (now + memory, hard))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, (before, hard))


def attempt(arguments: list[str], train: bool, seconds: float, memory: int) -> Outcome:
    """Give the command line these arguments, in this process."""
    stage = ["parsing"]

    def staged(name: str, made: Callable) -> Callable:
        def call(*args: Any, **options: Any) -> Any:
            stage.append(name)
            return made(*args, **options)

        return call

    @functools.wraps(Trainer.fit)  # its arguments are options of the command line
    def fit(trainer: Trainer, *args: Any, **options: Any) -> None:
        if trainer.world_size > 1:  # it would start processes
            raise Built
        stage.append("starting")
        super(Trainer, trainer).fit(*args, **options)

    patches: dict[tuple[Any, str], Any] = {(Trainer, "fit"): fit}
    if not train:
        patches[CLI, "call"] = lambda _: None
    patches[CLI, "instantiate_classes"] = staged("building", CLI.instantiate_classes)
    patches[TrajectoryModel, "training_step"] = staged("training", TrajectoryModel.training_step)
    kept = {key: key[0].__dict__.get(key[1]) for key in patches}
    out, err, argv = io.StringIO(), io.StringIO(), sys.argv
    end, text = "runs", ""
    try:
        for (owner, name), value in patches.items():
            setattr(owner, name, value)
        sys.argv = ["run.py"]
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings(), \
                limits(seconds, memory):
            warnings.simplefilter("ignore")
            commands.main([*(["fit"] if arguments[0] == "--config" else []), *(BRIEF if train else []), *arguments])
    except Built:
        pass
    except Cut:
        end = "cut off"
    except SystemExit as error:
        lines = err.getvalue().strip().splitlines()
        told = error.code == 2 and lines and lines[-1].startswith("error: ") and "Traceback" not in err.getvalue()
        end, text = ("line" if told else "traceback"), (lines or [f"exit {error.code}"])[-1]
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        end, text = "traceback", "".join(traceback.format_exception(error))
    finally:
        sys.argv = argv
        for (owner, name), value in kept.items():
            if value is None:
                delattr(owner, name)
            else:
                setattr(owner, name, value)
    return Outcome(end, stage[-1], text)


def case(number: int, seed: int, chosen: list[Source], folder: Path) -> tuple[Source, bool, str, Path]:
    """The source of case `number`, whether it is trained, what is changed, and the changed file."""
    rng = random.Random(f"fuzz/{seed}/{number}")
    source = chosen[number % len(chosen)]
    train = source.kind == "experiment" and rng.random() < 0.5 and "codefix" not in source.path.name
    content = load(source, folder, train)
    said = "; ".join(change(content, rng, MILD if train else ANY) for _ in range(rng.choice((1, 1, 2, 3))))
    return source, train, said, write(source, content, folder, rng)


def fuzz(cases: int, seed: int, seconds: float, memory: int, first: int = 0, trained: bool = True,
         report: Callable[..., None] = lambda *_: None) -> dict[str, Counter]:
    """Outcomes of cases `first` to `cases`, by kind of file: ends, and `past parsing`; `report` hears of each.

    trained: whether some are trained; else all end when their classes are built
    """
    counts: dict[str, Counter] = {}
    here, devices = os.getcwd(), os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "a", "b", "c", "d")  # a path that goes up stays inside
        folder.mkdir(parents=True)
        prepare(folder)
        chosen = sources(folder)
        try:
            os.chdir(folder)
            for number in range(first, cases):
                source, train, said, path = case(number, seed, chosen, folder)
                large = source.kind == "overlay" and not source.path.stem.endswith("small")
                with torch.device("meta") if large else contextlib.nullcontext():
                    outcome = attempt(source.arguments(str(path)), train and trained, seconds, memory)
                if outcome.end == "cut off" and outcome.stage not in ("starting", "training"):
                    outcome.end = "hangs"
                counts.setdefault(source.kind, Counter()).update(
                    {outcome.end: 1, "cases": 1, "past parsing": outcome.stage != "parsing" or (
                        source.kind == "sweep" and outcome.end == "runs")})
                report(number, source, train, said, path, outcome)
        finally:
            os.chdir(here)
            if devices is not None:
                os.environ["CUDA_VISIBLE_DEVICES"] = devices
    return counts


def main() -> None:
    """Run the cases and count how they end."""
    options = arguments(
        __doc__, "fuzz", cases=2000, first=(0, "number of the first case, to see one again"), seed=0,
        seconds=(20.0, "of one case"), memory=(4.0, "GiB that a case may take"), verbose=(False, "print every case"))
    begun, stdout, records = time.time(), sys.stdout, Records(options.out, seed=options.seed)

    def report(number: int, source: Source, train: bool, said: str, path: Path, outcome: Outcome) -> None:
        if options.verbose or outcome.end in ("traceback", "hangs"):
            print(f"seed {options.seed}, case {number}: {source.path.name}{' (trained)' * train}, {said}: "
                  f"{outcome.end} after {outcome.stage}\n{outcome.text}", file=stdout, flush=True)
        elif number % 100 == 0:
            print(f"seed {options.seed}, case {number}, {time.time() - begun:.0f} s", file=stdout, flush=True)

    counts = fuzz(options.cases, options.seed, options.seconds, int(options.memory * 2**30), options.first,
                  report=report)
    names = ("cases", "past parsing", "runs", "line", "cut off", "hangs", "traceback")
    for kind, count in [*counts.items(), ("all", sum(counts.values(), Counter()))]:
        records.add({"what": kind, **{name: count[name] for name in names}}, seconds=time.time() - begun)
    records.show()


if __name__ == "__main__":
    main()
