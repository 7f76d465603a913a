"""What a run shows in TensorBoard and on the terminal, and what it leaves in a file that its output goes to."""

import contextlib
import io
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from length_gen.lightning_modules.commands.main import main
from length_gen.lightning_modules.training.callbacks.length_generalization import rates
from tests.commands import ROOT, TINY

FEW = ["--config", str(ROOT / "configs/mult.yaml"), *TINY[2:-2], "--data.task.max_length", "3",
       "--evaluation.evaluators", "[verify]", "--evaluation.lengths", "[1,2]", "--evaluation.validation_lengths",
       "[1,2]", "--trainer.log_every_n_steps", "2", "--trainer.max_steps", "4", "--trainer.val_check_interval", "2"]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Events of a run, and what it wrote to a file."""
    folder, output = tmp_path_factory.mktemp("fitted"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(output):
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["run.py"])
        main(["fit", *FEW])
    return EventAccumulator(str(folder / "runs/mult/version_0")).Reload(), output.getvalue()


def test_charts_show_loss_exact_match_by_length_and_how_far(fitted):
    events, _ = fitted
    scalars = set(events.Tags()["scalars"])
    assert "epoch" not in scalars and {"final/exact_up_to", "final/exact_match_at_longest"} <= scalars
    tag, = events.PluginTagToContent("custom_scalars")
    layout = layout_pb2.Layout.FromString(events.Tensors(tag)[0].tensor_proto.string_val[0])
    charts = {chart.title: list(chart.multiline.tag) for chart in layout.category[0].chart}
    assert charts == {"loss": ["^train/loss$", "^validation/loss$"],
                      "exact match by length, n x 1": ["^exact_match/nx1/1$", "^exact_match/nx1/2$"],
                      "exact match by length, n x 2": ["^exact_match/nx2/1$", "^exact_match/nx2/2$"],
                      "exact up to": ["^exact_up_to$"]}
    assert {pattern.strip("^$") for patterns in charts.values() for pattern in patterns} <= scalars | {
        "exact_match/nx1/2", "exact_match/nx2/2"}  # not where nothing is exact at 1


def test_runs_compare_by_what_tells_them_apart(fitted):
    events, _ = fitted
    found = {tag: HParamsPluginData.FromString(data) for tag, data in events.PluginTagToContent("hparams").items()}
    settings = found["_hparams_/session_start_info"].session_start_info.hparams
    assert (settings["backbone"].string_value, settings["task"].string_value, settings["style"].string_value,
            settings["setting"].string_value) == ("mamba 1x16", "multiplication", "local", "interactive")
    assert (settings["seed"].number_value, settings["learning_rate"].number_value) == (42, 0.005)
    metrics = [info.name.tag for info in found["_hparams_/experiment"].experiment.metric_infos]
    assert metrics == ["final/exact_up_to", "final/exact_match_at_longest"]
    assert found["_hparams_/session_end_info"].session_end_info.status == 1  # success
    assert [event.value for event in events.Scalars("final/exact_up_to")] == [0]


def test_a_run_tells_what_it_does_line_by_line_in_a_file(fitted):
    _, output = fitted
    assert not set("\r\x1b\b") & set(output)
    lines = [line for line in output.splitlines() if line]
    assert lines[0].startswith("mamba 1x16: ") and "style local, interactive, trained to length 3; horizon" in lines[0]
    assert [line.partition(":")[0] for line in lines if line.startswith("step")] == ["step 2", "step 4"]
    assert sum(line.startswith("trained 4 steps in ") for line in lines) == 1
    assert not [line for line in lines if "━" in line and "%" not in line]
    assert lines[-5].startswith("Results: ") and lines[-4] == "Next:" and lines[-2:] == [
        "  python run.py test", "  tensorboard --logdir runs/mult"]
    assert lines[-3] == "  python run.py rollout --length 1    # what goes wrong"  # after 4 steps all does


def test_rates_in_words():
    records = [{"task": "t", "variant": v, "length": n, "exact_match": e}
               for n, v, e in [(10, "n x 1", 1.0), (10, "n x 2", 0.999), (20, "n x 1", 0.5)]]
    assert rates(records) == "exact n x 1 100% at 10, 50% at 20; n x 2 >99% at 10"
    assert rates([records[0] | {"variant": ""}], at=False) == "exact 100%"
