"""A run in one's own program, beside what the command line says of it."""

import json
import os
import shutil
import sys

import pytest
import yaml

from length_gen.datamodules.tokens import Kind
from length_gen.lightning_modules.commands.main import main
from length_gen.lightning_modules.runs.load import load_run
from length_gen.lightning_modules.runs.old_class_paths import renamed
from length_gen.tools import UserError
from tests.commands import TINY


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of 40 steps, by the command."""
    folder, before, arguments = tmp_path_factory.mktemp("loaded"), os.getcwd(), sys.argv
    os.chdir(folder)
    try:
        sys.argv = ["run.py"]
        main(["fit", *TINY, "--trainer.max_steps", "40", "--trainer.val_check_interval", "40",
              "--evaluation.problem_sets", "[uniform,structured]", "--evaluation.diagnostics", "1"])
    finally:
        os.chdir(before)
        sys.argv = arguments
    return folder / "runs/add/version_0"


@pytest.fixture
def run(folder):
    return load_run(folder)


def test_evaluate_gives_the_runs_own_records(folder, run):
    known = json.loads((folder / "metrics.json").read_text())["records"]
    assert [record for problem_set in ("uniform", "structured") for evaluator in ("rollout", "verify")
            for record in run.evaluate([2, 4], 2, evaluator, problem_set=problem_set)] == known
    assert {record["problem_set"] for record in known} == {"uniform", "structured"}
    diagnosed = json.loads((folder / "diagnostics.json").read_text())["records"]
    assert [(r["variant"], r["problem_set"], r["length"]) for r in diagnosed] == [
        (r["variant"], r["problem_set"], r["length"]) for r in known if r["evaluator"] == "rollout"]


def test_a_rollout_says_what_was_written_and_what_should_have_been(run, capsys):
    row = run.rollout("12+39")
    assert "".join(row.expected) == "51" == str(12 + 39)
    assert "".join(row.tokens[:5]) == "12+39" and row.kinds[0] is Kind.PROMPT and len(row.kinds) == len(row.tokens)
    reference = run.task.record(run.task.parse("12+39"))
    differing = [i for i, (a, b) in enumerate(zip(row.tokens, reference.tokens, strict=False)) if a != b]
    assert row.first_error == differing[0] and not row.exact and row.reason
    assert all(position < row.first_error for position, _ in row.phases)
    row.show(limit=40)
    shown = capsys.readouterr().out
    assert "expected 51" in shown and "not the reference" in shown


def test_a_configuration_from_before_the_one_import_name_is_read(folder, tmp_path, monkeypatch, capsys):
    old = shutil.copytree(folder, tmp_path / "old")
    config = (old / "config.yaml").read_text()
    assert config.count("class_path: length_gen.") > 1
    (old / "config.yaml").write_text(config.replace("class_path: length_gen.", "class_path: "))
    assert load_run(old).verify("12+39") == load_run(folder).verify("12+39")
    monkeypatch.setattr(sys, "argv", ["run.py"])
    main(["rollout", "--ckpt_path", str(old / "checkpoints/last.ckpt"), "--prompt", "1+2"])
    assert "expected 3" in capsys.readouterr().out
    assert renamed({"strategy": {"class_path": "lightning_modules.sharding.FullyShard"}}) == {
        "strategy": {"class_path": "length_gen.lightning_modules.training.sharding.FullyShard"}}


def test_rows_side_by_side_are_what_they_are_alone(run):
    assert run.rollouts(["1+2", "12+39"]) == [run.rollout("1+2"), run.rollout("12+39")]


def test_verify_finds_the_first_error_of_the_rollout(run):
    assert run.verify("12+39").first_error == run.rollout("12+39").first_error


def test_a_checkpoint_names_its_run(folder, run):
    again = load_run(folder / "checkpoints/last.ckpt", device="cpu")
    assert again.folder == folder.resolve() and again.rollout("1+2") == run.rollout("1+2")


def copied(folder, tmp_path, change):
    new = shutil.copytree(folder, tmp_path / "run")
    config = yaml.safe_load((new / "config.yaml").read_text())
    change(config)
    (new / "config.yaml").write_text(yaml.safe_dump(config))
    return new


@pytest.mark.parametrize(("change", "words"), [
    (lambda config: config["data"]["task"].update(class_path="antigravity.Task"), "antigravity"),
    (lambda config: config["data"]["task"]["init_args"].update(max_length="x"), "not the configuration of a run"),
    (lambda config: config.pop("model"), "not the configuration of a run .*model"),
    (lambda config: config["data"]["task"]["init_args"].update(max_length=0), "0")])
def test_a_configuration_that_is_none_gets_one_line(folder, tmp_path, change, words):
    before = set(sys.modules)
    with pytest.raises(UserError, match=words):
        load_run(copied(folder, tmp_path, change))
    assert not {"antigravity"} & (set(sys.modules) - before)


def test_what_is_no_run_gets_one_line(folder, tmp_path, run):
    with pytest.raises(UserError, match=r"is no run .*such as runs/mult/version_0"):
        load_run(tmp_path)
    new = copied(folder, tmp_path, lambda config: None)
    (new / "checkpoints/last.ckpt").write_bytes(b"torn")
    shutil.rmtree(new / "checkpoints")
    with pytest.raises(UserError, match="there is no checkpoint"):
        load_run(new)
    for lengths, words in (([4, 2], "do not increase"), ([0], "start at 1")):
        with pytest.raises(UserError, match=words):
            run.evaluate(lengths)
    with pytest.raises(UserError, match="expected"):
        run.rollout("12*39")
