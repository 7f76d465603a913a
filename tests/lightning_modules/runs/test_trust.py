"""What a run folder of someone else's may import: nothing but the suite's own and Lightning's."""

import ast
import sys
from pathlib import Path

import pytest
import torch
import yaml

from length_gen.lightning_modules.commands.main import main
from length_gen.lightning_modules.runs.checkpoints import load_checkpoint
from length_gen.lightning_modules.runs.folders import RunFolder
from tests.commands import TINY

ROOT = Path(__file__).parents[3]
PLANTED = {"class_path": "planted.Planted"}
PLACES = {
    "the task": {"data": {"task": PLANTED}},
    "a task by its path alone": {"data": {"task": "planted.Planted"}},
    "a part of the task": {"data": {"task": {"class_path": "Mixture", "init_args": {"tasks": [PLANTED]}}}},
    "the backbone": {"model": {"backbone": PLANTED}},
    "a logger": {"trainer": {"logger": PLANTED}},
    "one logger of several": {"trainer": {"logger": [{"class_path": "CSVLogger", "init_args": {"save_dir": "."}},
                                                     PLANTED]}},
    "a setting": {"data": {"task": {"class_path": "Copy", "init_args": {"max_length": 3, "setting": PLANTED}}}},
    "a callback": {"trainer": {"callbacks": [PLANTED]}},
    "a function": {"trainer": {"callbacks": [{"class_path": "lightning.pytorch.callbacks.LambdaCallback",
                                              "init_args": {"setup": "planted.function"}}]}},
    "the strategy": {"trainer": {"strategy": PLANTED}},
    "a plugin": {"trainer": {"plugins": [PLANTED]}},
    "another module's": {"model": {"backbone": {"class_path": (
        "length_gen.lightning_modules.provenance.subprocess.Popen")}}},
    "a class of PyTorch that runs programs": {"trainer": {"callbacks": [{"class_path": (
        "torch.distributed.elastic.multiprocessing.subprocess_handler.SubprocessHandler"), "init_args": {
            "entrypoint": "touch", "args": ["imported"], "env": {}, "stdout": None, "stderr": None,
            "local_rank_id": 0}}]}},
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run folder with an empty checkpoint, and a module in the working folder whose import leaves a file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py"])
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "planted", raising=False)
    folder = tmp_path / "fetched/run"
    (folder / "checkpoints").mkdir(parents=True)
    for place in (tmp_path, folder):  # while a configuration is read, its folder is the working folder
        (place / "planted.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w').close()\n\n"
                                          f"def function(*_): pass\n\nclass Planted: pass\n")
    torch.save({"state_dict": {}}, folder / "checkpoints/last.ckpt")
    return folder


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments)])
    assert ended.value.code == 2 and not Path("imported").exists()
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    return line


@pytest.mark.parametrize("place", PLACES)
def test_a_configuration_that_is_found_imports_nothing_foreign(place, run, capsys):
    (run / "config.yaml").write_text(yaml.safe_dump(PLACES[place]))
    line = refused(capsys, "test", "--ckpt_path", run / "checkpoints/last.ckpt")
    package = {"another module's": "subprocess", "a class of PyTorch that runs programs": "torch"}.get(place, "planted")
    assert f"error: {package}." in line and line.endswith(f"if you trust it, give --trusted_packages {package}")


def test_nor_a_setting_by_its_import_path_alone(run, capsys):
    task = {"class_path": "Copy", "init_args": {"max_length": 3, "setting": "planted.Planted"}}
    (run / "config.yaml").write_text(yaml.safe_dump({"data": {"task": task}}))
    refused(capsys, "test", "--ckpt_path", run / "checkpoints/last.ckpt")


def test_nor_does_a_file_that_it_names_nor_one_that_goes_on(run, capsys):
    (run / "config.yaml").write_text("data: data.yaml")
    (run / "data.yaml").write_text("task: {class_path: planted.Planted}")
    assert "planted.Planted has not been imported" in refused(
        capsys, "rollout", "--prompt", "1+2", "--ckpt_path", run / "checkpoints/last.ckpt")
    going_on = ["fit", *TINY, "--trainer.logger.save_dir", ".", "--trainer.logger.name", "fetched",
                "--trainer.logger.version", "run", "--ckpt_path", "last"]
    (run / "config.yaml").write_text("model: {backbone: planted.Planted}")
    assert "planted.Planted has not been imported" in refused(capsys, *going_on)


def test_nor_does_it_take_any_memory(run, capsys):
    (run / "config.yaml").write_text("data: data.yaml")
    (run / "data.yaml").write_text("".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else 'x'}]\n" for i in range(12)))
    assert "more than 100,000 values" in refused(capsys, "test", "--ckpt_path", run / "checkpoints/last.ckpt")


@pytest.mark.parametrize("content", [
    "data: {task: {class_path: CodeFixing, init_args: {trajectories: x, unsandboxed: true}}}",
    "data: {task: {class_path: CodeFixing, init_args: {trajectories: x, unsandboxed: 'yes'}}}", "data: data.yaml"])
def test_nor_does_it_decide_that_there_is_no_sandbox(content, run, capsys):
    (run / "config.yaml").write_text(f"{content}\nmodel: {{backbone: Mamba}}\nevaluation: {{lengths: [2]}}")
    (run / "data.yaml").write_text("task: {class_path: CodeFixing, init_args: {trajectories: x, unsandboxed: true}}")
    run = run.rename(run.with_name("x.unsandboxed"))  # which is no option
    checkpoint = run / "checkpoints/last.ckpt"
    assert "say yourself whether it may, with --data.task.unsandboxed" in refused(
        capsys, "test", "--ckpt_path", checkpoint)
    assert "there are no trajectories in x" in refused(
        capsys, "test", "--ckpt_path", checkpoint, "--data.task.unsandboxed", "false")


def test_what_the_user_names_is_imported(run, capsys):
    """By --trusted_packages, or as the configuration itself; that can be guarded too."""
    Path("own_sums.py").write_text("from length_gen.datamodules.tasks import Addition\n\n\n"
                                   "class OwnSums(Addition):\n    name = 'own_sums'\n")
    config = yaml.safe_load((ROOT / "configs/add.yaml").read_text())
    config["data"]["task"]["class_path"] = "own_sums.OwnSums"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    named, found = ["--config", str(run / "config.yaml")], ["--ckpt_path", str(run / "checkpoints/last.ckpt")]
    analyze = ["analyze", "--lengths", "[1,2]", "--problems", "2"]
    assert "own_sums.OwnSums has not been imported" in refused(capsys, *analyze, *found)
    assert "own_sums.OwnSums has not been imported" in refused(capsys, *analyze, *named, "--trusted_packages=")
    assert "needs names of packages" in refused(capsys, *analyze, *named, "--trusted_packages")
    assert "'a b'" in refused(capsys, *analyze, *found, "--trusted_packages", "a b")
    (run / "own_sums.py").write_text("open('imported', 'w')")  # not the one that the user means
    main([*analyze, *found, "--trusted_packages", "planted,own_sums"])
    assert "horizon of own_sums, interactive" in capsys.readouterr().out


def test_a_configuration_that_is_named_is_not_guarded(run, capsys):
    (run / "config.yaml").write_text(yaml.safe_dump(PLACES["the task"]))
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(run / "config.yaml")])
    assert Path("imported").exists()


def test_what_else_a_checkpoint_says_imports_nothing(run):
    """As Lightning's own commands take `hyper_parameters` for a class and what makes it."""
    main(["fit", *TINY, "--trainer.max_steps", "1", "--trainer.val_check_interval", "1", "--evaluation.evaluators",
          "[verify]", "--evaluation.lengths", "[2]", "--evaluation.problems", "1"])
    path = RunFolder("runs", "add", "version_0").path / "checkpoints/last.ckpt"
    content = load_checkpoint(path)
    for key in ("hyper_parameters", "datamodule_hyper_parameters"):
        content[key] = {"_class_path": "planted.Planted", "_instantiator": "planted.function", "backbone": PLANTED}
    content |= {"hparams_name": "planted", "hparams_type": "planted.Planted", "class_path": "planted.Planted"}
    torch.save(content, path)
    main(["rollout", "--prompt", "1+2"])
    main(["fit", *TINY, "--trainer.max_steps", "2", "--trainer.val_check_interval", "1", "--evaluation.evaluators",
          "[verify]", "--evaluation.lengths", "[2]", "--evaluation.problems", "1", "--ckpt_path", str(path),
          "--trainer.logger.version", "1"])
    assert "planted" not in sys.modules and not Path("imported").exists()


def test_files_are_read_as_data_everywhere():
    """In every call of a library that would run code of a file if it were let."""
    wanted = {"torch.load": ("weights_only", True), "from_pretrained": ("trust_remote_code", False),
              "from_config": ("trust_remote_code", False), "np.load": ("allow_pickle", False)}
    seen, unsafe = set(), {"pickle.load", "yaml.load", "yaml.unsafe_load", "eval", "joblib.load"}
    for path in [ROOT / "run.py", *(p for folder in ("tools", "datamodules", "lightning_modules", "benchmarks")
                                    for p in (ROOT / folder).rglob("*.py"))]:
        for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
            name = ast.unparse(call.func)
            assert name not in unsafe, f"{path}:{call.lineno}"
            if (known := next((k for k in wanted if name == k or name.endswith(f"AutoModelForCausalLM.{k}")), None)):
                seen.add(known)
                key, value = wanted[known]
                assert {k.arg: ast.unparse(k.value) for k in call.keywords}.get(key) == str(value), (path, call.lineno)
    assert seen == wanted.keys()
