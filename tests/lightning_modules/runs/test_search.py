import json
import sys
from pathlib import Path

import pytest

from length_gen.lightning_modules.runs import sweep as module
from length_gen.lightning_modules.runs.sweep import sweep
from length_gen.tools import UserError

optuna = pytest.importorskip("optuna", reason="Optuna is not installed")

FILE = """
results: out
options: --config add
search:
  model.learning_rate: {low: 1.0e-4, high: 1.0, log: true}
  model.backbone.n_layer: {low: 1, high: 4}
  data.task.style: {choices: [paper, local]}
trials: 12
"""
FIT = """
import json, math, pathlib, sys
run, options = pathlib.Path(sys.argv[1]), sys.argv[2:]
said = dict(zip(options[::2], options[1::2]))
loss = (math.log10(float(said['--model.learning_rate'])) + 2) ** 2 + (said['--data.task.style'] == 'paper')
if loss > 4:
    sys.exit('error: diverged')
assert said['--evaluation.split'] == 'validation' and said['--seed_everything'] == '1' and options[0] == '--config'
run.mkdir(exist_ok=True)
(run / 'metrics.json').write_text(json.dumps({'command': ' '.join(options), 'validation_loss': loss}))
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A cell's loss is a function of its options, least at a learning rate of 0.01 in style local."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "command",
                        lambda cell: [sys.executable, "-c", FIT, str(cell.folder / cell.name), *cell.options])
    Path("s.yaml").write_text(FILE)


def losses():
    return {path.name: json.loads(path.read_text())["validation_loss"] for path in Path("out").glob("*.json")}


def test_a_search_draws_trials_and_goes_on_from_their_files(capsys):
    sweep("s.yaml", parallel=2)
    first, output = losses(), capsys.readouterr().out
    best = min(first, key=first.get)
    assert f"the best of {len(first)}: {best.replace('trial', 'trial ')[:-5]}, validation loss" in output
    assert min(first.values()) < 0.5 and len(first) + output.count("validation loss None") == 12
    for name in ("trial0.json", "trial7.json", "trial11.json"):
        Path("out", name).unlink(missing_ok=True)
    sweep("s.yaml")
    assert losses() == first


def test_results_of_other_trials_are_not_taken():
    sweep("s.yaml", parallel=2)
    Path("s.yaml").write_text(FILE + "seed: 2\n")
    with pytest.raises(UserError, match=r"is of another trial than .* give another folder as results of s.yaml"):
        sweep("s.yaml", parallel=2)


@pytest.mark.parametrize(("old", "new", "message"), [
    ("low: 1, high: 4", "low: 5, high: 4", "search model.backbone.n_layer: "),
    ("low: 1, high: 4", "from: 1", "search model.backbone.n_layer: "),
    ("trials: 12", "trials: 0", "0 trials in batches of 4"),
    ("trials: 12", "trails: 12", "s.yaml is not a search: .*trails"),
    ("{choices: [paper, local]}", "3", "is not a search: search")])
def test_files_that_are_no_searches(old, new, message):
    Path("s.yaml").write_text(FILE.replace(old, new))
    with pytest.raises(UserError, match=message):
        sweep("s.yaml")


def test_options_of_grids_are_not_those_of_a_search():
    for options in ({"index": 0}, {"dry_run": True}):
        with pytest.raises(UserError, match="--index and --dry_run are of grids"):
            sweep("s.yaml", **options)
