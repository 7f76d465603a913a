import io
import time
from types import SimpleNamespace

import pytest
import rich
from rich.console import Console

from length_gen.lightning_modules.training.callbacks import RunProgress, progress


@pytest.fixture
def trainer():
    return SimpleNamespace(state=SimpleNamespace(fn="test"), validating=False, training=False, sanity_checking=False)


def test_the_bar_of_an_evaluation_says_the_length_and_is_gone_afterwards(trainer):
    bar = RunProgress()
    trainer.progress_bar_callback = bar
    with bar.evaluating(trainer, "rollout", {10: 320, 1000: 16_000}) as watch:
        task, = bar.progress.tasks
        watch(10, 5, 20)
        assert (task.description, task.fields["place"]) == ("rollout 10", "length 1 of 2")
        assert task.completed == 80 and task.total == 16_320
        watch(1000, 1, 4)
        assert (task.description, task.fields["place"]) == ("rollout 1,000", "length 2 of 2")
        assert task.completed == 320 + 4000
        console = Console(width=80, record=True, file=io.StringIO())
        console.print(bar.progress.make_tasks_table(bar.progress.tasks))
        line, = console.export_text().splitlines()
        assert "rollout 1,000" in line and "length 2 of 2" in line and line.rstrip().endswith("left")
    assert not bar.progress.tasks
    bar.progress.stop()


def test_what_an_evaluation_tells_is_on_the_screen_while_it_goes_on(trainer, monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(rich, "_console", Console())  # the bar sets it up anew
    bar = RunProgress()
    bar._console_kwargs = {"file": screen, "force_terminal": True, "width": 80}
    trainer.progress_bar_callback = bar
    with bar.evaluating(trainer, "rollout", {10: 320, 1000: 16_000}) as watch:
        watch(1000, 1, 4)
        for _ in range(100):
            if "length 2 of 2" in screen.getvalue():
                break
            time.sleep(0.05)
        assert "length 2 of 2" in screen.getvalue()
    bar.progress.stop()


def test_a_bar_without_news_gives_a_sign_each_second_and_none_after_its_end(trainer, monkeypatch):
    monkeypatch.setattr(progress, "BEAT", 0.02)
    screen = io.StringIO()
    monkeypatch.setattr(rich, "_console", Console())
    bar = RunProgress()
    bar._console_kwargs = {"file": screen, "force_terminal": True, "width": 80}
    trainer.progress_bar_callback = bar
    bar._init_progress(trainer)
    bar.progress.add_task("a long step", total=2)
    until = time.monotonic() + 10
    while screen.getvalue().count("a long step") < 3 and time.monotonic() < until:
        time.sleep(0.01)
    assert screen.getvalue().count("a long step") >= 3
    bar.progress.stop()
    time.sleep(0.1)
    ended = screen.getvalue()
    time.sleep(0.1)
    assert screen.getvalue() == ended


def test_a_training_fits_a_line_of_80_columns(trainer):
    bar = RunProgress()
    bar._trainer = trainer
    trainer.progress_bar_callback, trainer.progress_bar_metrics = bar, {"loss": 0.0123456, "tok/s": 34_567.8,
                                                                        "exact_up_to": 1000.0, "v_num": 3}
    trainer.loggers, trainer.training = [], True
    trainer.state.fn = "fit"
    bar._init_progress(trainer)
    bar.train_progress_bar_id = bar.progress.add_task("Training", total=400, completed=120)
    bar._update_metrics(trainer, None)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(bar.progress.make_tasks_table(bar.progress.tasks))
    bar.progress.stop()
    line, = console.export_text().splitlines()
    assert line.split()[1] == "Training" and "120/400" in line
    assert "loss: 0.0123 tok/s: 34.6K exact to: 1,000" in line
