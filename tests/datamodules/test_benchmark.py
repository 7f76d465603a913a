"""The benchmark's problems stay what they are, and its client needs no torch."""

import json
import subprocess
import sys

import pytest

from length_gen.datamodules.benchmark import Benchmark
from length_gen.datamodules.rollout import Rollout
from length_gen.datamodules.tasks import Addition, LogicalGraph
from length_gen.datamodules.tokens import END, Kind
from length_gen.tools import PointerMemory, UserError
from tests.commands import ROOT


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name == "logical_graph" else name
                                  for name in Benchmark().tasks])
def test_the_problems_are_those_of_the_digests(name):
    """If this fails, the benchmark is another: what has changed a task's problems must leave these as they were."""
    assert Benchmark().digest(name) == Benchmark().known_digest(name)


def test_problems_do_not_depend_on_style_and_setting_and_splits_share_none():
    one, other = Benchmark(), Benchmark(style="paper", setting="direct")
    found = [[entry.problem for entry in b.entries("test", ["addition", "sort"], [20])] for b in (one, other)]
    assert found[0] == found[1] and len(found[0]) > 3 * 32
    kept = {entry.question for entry in one.entries("validation", ["addition"], [20]) if "uniform" in entry.id}
    assert len(kept) == 64 and not kept & {entry.question for entry in one.entries("test", ["addition"], [20])}


def test_a_client_without_torch(tmp_path):
    code = (ROOT / "docs/benchmark.md").read_text().partition("```python\n")[2].partition("```")[0]
    program = f"""
import sys
from length_gen.datamodules.benchmark import Benchmark

def model(tokens):
    return ["p1.init", "p1.read", "[ANS]", "7", "[END]"][sum(t in ("p1.init", "p1.read", "[ANS]", "7") for t in tokens)
                                                      - sum(t == "7" for t in tokens[:tokens.index("=")])]

{code}
assert not {{"torch", "lightning", "transformers"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, env={"PYTHONPATH": str(ROOT)}, timeout=60)
    lines = [json.loads(line) for line in (tmp_path / "solutions.jsonl").read_text().splitlines()]
    assert len(lines) == len(list(Benchmark().entries("test", ["addition"], [10])))
    assert {line["id"].split("/")[1] for line in lines} == {"addition"} and lines[0]["written"][0] == "p1.init"


@pytest.mark.parametrize("task", [Addition(5, "paper"), LogicalGraph(6)])
def test_writing_the_reference_gives_the_reference(task):
    problem = task.problem("test", 0, 6, 0, task.variants[0])
    reference = task.record(problem)
    row = Rollout(problem, 10**6, task.tool(problem))
    assert row.read() == list(problem.prompt)
    heard = []
    for token, kind in zip(reference.tokens, reference.kinds, strict=True):
        if kind not in (Kind.PROMPT, Kind.OBSERVATION):
            heard += row.write(token)
    assert (row.tokens, row.kinds, row.reason) == (reference.tokens, reference.kinds, "end")
    assert heard == [token for token, kind in zip(reference.tokens, reference.kinds, strict=True)
                     if kind == Kind.OBSERVATION]


def test_an_observation_that_comes_late_and_is_empty_is_waited_for():
    class Slow(PointerMemory):
        def feed(self, token):
            return [] if token == "wait" else super().feed(token)

    problem = Addition(5).parse("1+2")
    row = Rollout(problem, 20, Slow())
    row.read()
    assert row.write("wait") == [] and row.kinds[-1] == Kind.COMMAND
    assert row.write(END) == [] and row.reason == "end"


def test_what_is_not_there_is_told():
    with pytest.raises(UserError, match="there is no benchmark length-gen-v0: expected length-gen-v1"):
        Benchmark("length-gen-v0")
    with pytest.raises(UserError, match="length-gen-v1 has no test problems of code_fixing: expected"):
        list(Benchmark().entries("test", ["code_fixing"]))
