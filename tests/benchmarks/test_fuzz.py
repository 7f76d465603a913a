"""Configurations with mistakes: one line each. benchmarks/fuzz.py tries many more of what is tried here."""

import functools
import itertools

import pytest
import yaml

pytest.importorskip("transformers")
pytest.importorskip("tokenizers")

from benchmarks import fuzz

CONFIGS = fuzz.ROOT / "configs"
MEMORY = 4 << 30


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_no_change_of_a_file_is_a_traceback(tmp_path):
    failed, ends = [], []
    cases = len(fuzz.sources(tmp_path))  # each file once

    def report(number, source, train, said, path, outcome):
        ends.append(outcome.end)
        if outcome.end in ("traceback", "hangs"):
            failed.append((number, source.path.name, said, outcome))

    counts = fuzz.fuzz(cases, 5, 200.0, MEMORY, report=report, trained=False)
    assert not failed, failed[0]
    assert len(ends) == cases and {"runs", "line"} == set(ends)
    assert sum(count["past parsing"] for count in counts.values()) > cases / 3


MISTAKES = {
    "model.learning_rate": (None, "model.learning_rate null is not possible: expected float"),
    "data.batch_size": (None, "data.batch_size null is not possible: expected int"),
    "model.backbone.init_args.dt_min": (None, "model.backbone.dt_min null is not possible"),
    "seed_everything": (10**30, "is not possible: expected a whole number from 0 to 4,294,967,295"),
    "model": ("\0", "embedded null byte"),
    "data.batch_size ": (2**31, "batch_size 2147483648 x row_length"),
    "model.backbone": ({"class_path": "Pythia", "init_args": {"d_inner": 0}}, "Pythia d_inner 0 is not allowed"),
    "trainer": ([1], "trainer [1] is not possible: expected a mapping"),
    "checkpoint": (5, "checkpoint 5 is not possible: expected a mapping"),
    "trainer.devices": (0, "the trainer cannot be built"),
    "model.backbone.init_args.n_layer": (10**12, "Mamba n_layer 1000000000000 is not allowed: expected at least 1"),
    "model.backbone.init_args.d_model": (2**22, "the backbone does not fit in memory: give smaller sizes"),
    "data.task.init_args.max_length": (10**12, "length 1000000000000 is not allowed: addition goes up to 1,000,"),
    "evaluation.lengths": ([10**12], "length 1000000000000 is not allowed"),
}


@pytest.mark.parametrize("key", MISTAKES)
def test_a_value_that_is_not_possible_gets_one_line(key, tmp_path):
    value, words = MISTAKES[key]
    content = yaml.safe_load((CONFIGS / "add.yaml").read_text())
    *path, last = key.strip().split(".")
    functools.reduce(lambda part, name: part[name], path, content)[last] = value
    (tmp_path / "changed.yaml").write_text(yaml.safe_dump(content))
    outcome = fuzz.attempt(["--config", "changed.yaml"], False, 200.0, MEMORY)
    assert outcome.end == "line" and words in outcome.text, outcome


def test_what_may_be_null_may(tmp_path):
    (tmp_path / "changed.yaml").write_text(
        "{data: {num_workers: null}, evaluation: {problems_at_longest: null}, trainer: {gradient_clip_val: null}}")
    outcome = fuzz.attempt(["--config", str(CONFIGS / "add.yaml"), "--config", "changed.yaml"], False, 200.0, MEMORY)
    assert outcome.end == "runs", outcome


def test_a_run_that_logs_nothing_trains(tmp_path):
    source = next(one for one in fuzz.sources(tmp_path) if one.path.name == "add.yaml")
    content = fuzz.load(source, tmp_path, small=True)
    content["trainer"]["log_every_n_steps"] = 0
    (tmp_path / "changed.yaml").write_text(yaml.safe_dump(content))
    outcome = fuzz.attempt(["--config", "changed.yaml"], True, 200.0, MEMORY)
    assert (outcome.end, outcome.stage) == ("runs", "training"), outcome


def test_cases_are_a_function_of_seed_and_number(tmp_path):
    fuzz.prepare(tmp_path)
    chosen = fuzz.sources(tmp_path)
    assert len(chosen) > 50 and {source.kind for source in chosen} == {
        "experiment", "overlay", "sweep", "machine", "collection"}
    written = []
    for seed, number in itertools.product((1, 2), (10, 11, 10)):
        *_, path = fuzz.case(number, seed, chosen, tmp_path)
        written.append(path.read_bytes())
    assert written[0] == written[2] and written[3] == written[5] and len(set(written)) == 4
