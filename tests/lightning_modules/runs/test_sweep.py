import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest
import torch

from length_gen.lightning_modules.provenance import CHECKPOINT, origin
from length_gen.lightning_modules.runs import sweep as module
from length_gen.lightning_modules.runs.sweep import environment, sweep
from length_gen.lightning_modules.runs.sweep_file import read_sweep
from length_gen.lightning_modules.training.callbacks import REQUEUE
from length_gen.tools import UserError

ROOT = Path(__file__).parents[3]
SWEEPS = sorted((ROOT / "configs/sweeps").glob("*.yaml"))
TWO = """
results: results/tiny
grid:
  size: {good: --steps 1, bad: --steps one}
seeds: [1]
"""


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_the_sweeps_that_come_along(path):
    cells = read_sweep(path)
    assert len(cells) >= (4 if path.stem == "million" else 10)
    assert all("--seed_everything" in cell.options for cell in cells)
    assert all(cell.minutes > 0 and cell.result.parent.parent == Path("results") for cell in cells)


def test_the_sweeps_that_come_along_share_no_result():
    assert len(read_sweep(",".join(map(str, SWEEPS)))) > 100  # raises for two cells of one name


def test_the_first_seed_of_every_combination_comes_first(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("results: out\noptions: --a 1\ngrid:\n  x: {p: --x 1, q: ''}\n  y: {r: --y '2 3'}\nseeds: [4, 5]\n")
    cells = read_sweep(path)
    assert [cell.name for cell in cells] == ["p_r_seed4", "q_r_seed4", "p_r_seed5", "q_r_seed5"]
    assert cells[0].options == ("--a", "1", "--x", "1", "--y", "2 3", "--seed_everything", "4")


def test_configuration_files_come_before_the_options_that_they_would_overwrite(tmp_path):
    (tmp_path / "s.yaml").write_text("results: out\noptions: --a 1 --config x\ngrid: {m: {n: --config y --b 2}}")
    cell, = read_sweep(tmp_path / "s.yaml")
    assert cell.options == ("--config", "x", "--config", "y", "--a", "1", "--b", "2", "--seed_everything", "1")


def test_a_dry_run_shows_the_commands_as_they_are(tmp_path, capsys):
    (tmp_path / "s.yaml").write_text("results: out\noptions: --evaluators [verify]\nminutes: 8\nseeds: [1, 2]")
    sweep(str(tmp_path / "s.yaml"), parallel=4, options="--trainer.accelerator cpu", dry_run=True)
    output = capsys.readouterr().out
    assert "python run.py fit --evaluators '[verify]' --seed_everything 2 --trainer.accelerator cpu" in output
    assert f"about 4 minutes on the device that {tmp_path}/s.yaml names, 4 side by side" in output.replace("\n", " ")


def test_blocks_and_files_are_interleaved_and_an_axis_may_name_the_folder(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "options: --all\nblocks:\n- {results: 'out/{task}_5', grid: {task: {add: --t 1, mult: --t 2}}, seeds: [1, 2]}\n"
        "- {results: out/other, options: --own, seeds: [7], minutes: 2}\n")
    (tmp_path / "b.yaml").write_text("results: out/last\nseeds: [1, 2]\n")
    cells = read_sweep(f"{tmp_path}/a.yaml,{tmp_path}/b.yaml")
    assert [str(cell.result) for cell in cells] == [
        "out/add_5/seed1.json", "out/mult_5/seed1.json", "out/other/seed7.json", "out/last/seed1.json",
        "out/add_5/seed2.json", "out/mult_5/seed2.json", "out/last/seed2.json"]
    assert cells[2].options == ("--all", "--own", "--seed_everything", "7") and cells[2].minutes == 2
    assert cells[3].options == ("--seed_everything", "1")
    assert len({cell.folder / cell.name for cell in cells}) == len(cells)


@pytest.mark.parametrize("went_on", [False, True])
def test_the_command_of_a_result_names_no_folder_of_the_sweep(tmp_path, monkeypatch, went_on):
    monkeypatch.chdir(tmp_path)
    Path("s.yaml").write_text("results: out\noptions: --config add.yaml --a '[1, 2]'")
    cell, = read_sweep("s.yaml")
    if went_on:
        checkpoint = cell.folder / cell.name / CHECKPOINT
        checkpoint.parent.mkdir(parents=True)
        torch.save({"state_dict": {}}, checkpoint)
    arguments = ["run.py", *module.command(cell)[3:]]
    assert str(cell.folder.parent) in arguments and ("--ckpt_path" in arguments) == went_on
    monkeypatch.setattr(sys, "argv", arguments)
    assert origin(torch.device("cpu"))["command"] == (
        "python run.py fit --config add.yaml --a '[1, 2]' --seed_everything 1")


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    """Every cell runs a piece of Python, chosen by its label, in place of `run.py fit`."""
    monkeypatch.chdir(tmp_path)
    written = "".join(f"\npathlib.Path(run, '{name}.json').write_text('{{\"records\": []}}')"
                      for name in ("diagnostics", "metrics"))
    code = {"good": written, "bad": "sys.exit('error: [there] is no GPU')",
            "slow": f"signal.signal(signal.SIGTERM, lambda *_: sys.exit({REQUEUE})); print('ready', flush=True); "
                    f"time.sleep(60)"}
    code["wait"] = ("pathlib.Path(run, 'begun').touch()\n"
                    "while not pathlib.Path(run, 'go').exists(): time.sleep(0.01)\n" + code["good"])

    def command(cell):
        run = str(cell.folder / cell.name)
        start = f"import pathlib, signal, sys, time; run = {run!r}; pathlib.Path(run).mkdir(); "
        return [sys.executable, "-c", start + code[cell.name.partition("_")[0]]]

    monkeypatch.setattr(module, "command", command)


def test_one_failing_cell_does_not_stop_the_others_and_finished_ones_are_skipped(scripts, capsys):
    Path("tiny.yaml").write_text(TWO)
    for cells in (2, 1):
        with pytest.raises(UserError, match=rf"1 of {cells} cells failed: bad_seed1"):
            sweep("tiny.yaml", parallel=2)
    for kept in ("results/tiny/good_seed1.json", "results/tiny/diagnostics/good_seed1.json"):
        assert json.loads(Path(kept).read_text()) == {"records": []}
    output = capsys.readouterr().out
    assert "error: [there] is no GPU; see runs/sweeps/tiny/tiny/bad_seed1.log" in " ".join(output.split())
    assert output.count("tiny/good_seed1") == 1


def test_two_sweeps_side_by_side_share_the_cells(scripts, tmp_path, capsys):
    """The second one begins while the first runs the first cell, whose folder it must leave alone."""
    Path("s.yaml").write_text("{results: out, grid: {x: {wait: '', good: ''}}}\n")
    ended = []
    first = threading.Thread(target=lambda: ended.append(sweep("s.yaml")))
    first.start()
    run = Path("runs/sweeps/s/out/wait_seed1")
    while not (run / "begun").exists() and first.is_alive():
        time.sleep(0.01)
    sweep("s.yaml", options="--other 1")  # begins with the folder of a cell whose options are others
    output = capsys.readouterr().out
    assert "1 cells are left to another sweep, which runs them: wait_seed1" in output and (run / "begun").exists()
    assert "done        out/good_seed1" in output and not Path("out/wait_seed1.json").exists()
    (run / "go").touch()
    first.join(200)
    assert ended == [None] and Path("out/wait_seed1.json").is_file()
    output = capsys.readouterr().out
    assert "done        out/wait_seed1" in output and "good_seed1" not in output
    assert "1 cells are left" not in output and "not begun" not in output


def test_a_run_that_has_outlived_its_sweep_keeps_its_folder(scripts, capsys):
    Path("s.yaml").write_text("{results: out, grid: {x: {wait: ''}}}\n")
    cell, = read_sweep("s.yaml")
    job = module.start(cell, module.claim(cell), 0, 1)
    job.lock.close()  # as if the sweep had been killed
    run = cell.folder / cell.name
    while not (run / "begun").exists() and job.process.poll() is None:
        time.sleep(0.01)
    sweep("s.yaml")
    assert "1 cells are left to another sweep" in capsys.readouterr().out and (run / "begun").exists()
    (run / "go").touch()
    assert job.process.wait(200) == 0 and module.claim(cell)


def test_when_the_time_is_up_running_cells_save_and_no_other_is_begun(scripts, capsys, monkeypatch):
    Path("s.yaml").write_text("blocks:\n- {results: out/a, grid: {x: {slow: ''}}}\n"
                              "- {results: out/b, grid: {x: {good: ''}}, minutes: 10}\n"
                              "- {results: out/c, grid: {x: {good: ''}}}\n")
    calls, log = itertools.count(), Path("runs/sweeps/s/a/slow_seed1.log")

    def now():
        """The time is up when one cell is done and the other runs."""
        over = Path("out/c/good_seed1.json").is_file() and log.is_file() and "ready" in log.read_text()
        return 1e6 if over else next(calls) / 1000

    monkeypatch.setattr(module, "time", types.SimpleNamespace(monotonic=now, sleep=time.sleep))
    sweep("s.yaml", parallel=2, minutes=10 + module.GRACE / 60)
    output = capsys.readouterr().out
    assert "1 cells done, 1 cut off, 1 not begun: the same command goes on" in output
    assert Path("out/c/good_seed1.json").is_file() and not Path("out/a").exists() and not Path("out/b").exists()


def test_a_cell_that_no_window_holds_is_begun_and_one_of_other_options_begins_afresh(scripts, capsys):
    Path("s.yaml").write_text("{results: out/b, grid: {x: {good: ''}}, minutes: 9}\n")
    sweep("s.yaml", minutes=0.4)
    Path("out/b/good_seed1.json").unlink()
    left = Path("runs/sweeps/s/b/good_seed1/left")
    left.touch()
    Path("s.yaml").write_text("{results: out/b, options: --new, grid: {x: {good: ''}}, minutes: 9}\n")
    sweep("s.yaml", minutes=0.4)
    assert capsys.readouterr().out.count("done        b/good_seed1") == 2 and not left.exists()


def test_an_interrupt_reaches_the_cells_once_and_leaves_one_line(tmp_path):
    (tmp_path / "s.yaml").write_text("results: out/a\noptions: --config none.yaml\n")
    (tmp_path / "cell.py").write_text(
        "import pathlib, signal, sys, time\n"
        "def save(*_): pathlib.Path('saved').open('a').write('once\\n'); time.sleep(0.5); sys.exit(75)\n"
        "signal.signal(signal.SIGTERM, save); signal.signal(signal.SIGINT, save)\n"
        "pathlib.Path('ready').touch(); time.sleep(60)\n")
    main = ("import sys; from length_gen.lightning_modules.runs import sweep as m; "
            "m.command = lambda cell: [sys.executable, 'cell.py']; m.sweep('s.yaml')")
    process = subprocess.Popen([sys.executable, "-c", main], cwd=tmp_path, text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, env=os.environ | {"PYTHONPATH": str(ROOT)},
                               start_new_session=True)
    deadline = time.monotonic() + 200
    while not (tmp_path / "ready").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    output = process.communicate(timeout=200)[0]
    assert (tmp_path / "saved").read_text() == "once\n"
    assert "0 cells done, 1 cut off, 0 not begun" in output and "Traceback" not in output


def test_cells_share_the_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.delenv("NUMBA_NUM_THREADS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(16))
    shared = [environment(0, parallel) for parallel in (1, 3, 15, 40)]
    assert [e["OMP_NUM_THREADS"] for e in shared] == [e["NUMBA_NUM_THREADS"] for e in shared] == ["16", "5", "1", "1"]
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert environment(0, 1)["OMP_NUM_THREADS"] == "2"  # the user's own choice stays


@pytest.mark.parametrize(("text", "message"), [
    ("a: 1", "is not a sweep"),
    ("results: [", "is not YAML"),
    ("blocks: []", "is not a sweep"),
    ("results: x\nblocks: [{results: y}]", "is not a sweep"),
    ("[1]", "is not a sweep"),
    ("results: x\ngrid: {a: 1}", "grid: Expected a dict"),
    ("results: x\nminutes: long", "minutes: Expected a float"),
    ("results: x\nminutes: .inf", "minutes inf"),
    ("results: 'x_{a}'\ngrid: {b: {c: ''}}", "names 'a', which is no axis"),
    ("results: x\nseeds: [a]", "seeds: Expected a int"),
    ("results: x\nseeds: 1", "seeds: Expected a list"),
    ("results: x\nseeds: [-1]", "seed -1 is not possible"),
    ("results: x\ngrid: {a: {}}", "axis a of grid needs labels"),
    ("results: x\ngrid: {a: {b: [1]}}", "grid: Expected a str"),
    ("results: x\ngrid: [1]", "grid: Expected a dict"),
    ("results: x\noptions: [--a]", "options: Expected a str"),
    ("results: x\noptions: \"--a 'b\"", "No closing quotation"),
    ("results: \"x_{a\"\ngrid: {a: {b: c}}", "expected '}'"),
    ("results: 3", "results: Expected a str"),
    ("options: 1\nblocks: [{results: y}]", "options of all"),
    ("results: x\nseed: [1]", "seed"),
    ("results: x\nseeds: [1, 1]", "the same name")])
def test_files_that_are_no_sweeps(tmp_path, text, message):
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_sweep(tmp_path / "s.yaml")


def test_impossible_numbers(tmp_path):
    (tmp_path / "s.yaml").write_text(TWO)
    for options, message in (({"parallel": 0}, "parallel 0"), ({"minutes": 0}, "minutes 0"), ({"index": 2}, "index 2")):
        with pytest.raises(UserError, match=message):
            sweep(str(tmp_path / "s.yaml"), **options)
