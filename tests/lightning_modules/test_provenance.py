import pytest

from length_gen.lightning_modules.provenance import reproducing


@pytest.mark.parametrize(("typed", "recorded"), [
    ("fit --ckpt_path a/b/checkpoints/last.ckpt --x 1", "fit --x 1 --ckpt_path a/b/checkpoints/last.ckpt"),
    ("fit --trainer.logger.save_dir=a --trainer.logger.name=b --ckpt_path=a/b/checkpoints/last.ckpt --x", "fit --x"),
    ("fit --trainer.logger.init_args.name b --trainer.max_steps 3 --trainer.enable_progress_bar false",
     "fit --trainer.max_steps 3"),
    ("test --config c.yaml --trainer.logger false", "test --config c.yaml --trainer.logger false")])
def test_a_command_is_recorded_without_the_folders_of_its_run(typed, recorded):
    assert reproducing(["run.py", *typed.split()]) == f"python run.py {recorded}"
