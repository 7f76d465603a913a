from types import SimpleNamespace

import pytest

from length_gen.datamodules.tasks import Addition, CodeFixing, Copy, Turing
from length_gen.lightning_modules.backbones import LSTM
from length_gen.lightning_modules.training.callbacks import LengthGeneralization
from length_gen.lightning_modules.training.callbacks.length_generalization import trusting
from length_gen.tools import UserError


def test_lengths_that_are_verified_only_need_trajectories_recorded_token_by_token():
    class Other:
        name, streamed = "code_fixing", CodeFixing.streamed

        def check_length(self, length):
            pass

    with pytest.raises(UserError, match=r"verify_lengths \[64\] are not possible: the trajectories of code_fixing are"):
        LengthGeneralization([16], verify_lengths=[64]).check_task(Other())
    LengthGeneralization([16]).check_task(Other())


def test_a_task_without_structured_problems_is_told_before_the_training():
    evaluation = LengthGeneralization([4], problem_sets=["structured"])
    with pytest.raises(UserError, match=r"turing_add has no structured problems: give --evaluation.problem_sets"):
        evaluation.check_task(Turing("add", 4))
    evaluation.check_task(Copy(4))
    with pytest.raises(UserError, match="unknown problem set 'hard': expected uniform or structured"):
        LengthGeneralization([4], problem_sets=["hard"])


class OwnAddition(Addition):
    """A task that is none of the suite's."""


@pytest.mark.parametrize("task, option", [(Addition(3), ""), (OwnAddition(3), " --trusted_packages tests")])
def test_the_next_commands_trust_the_classes_of_the_user_s_own(task, option):
    assert trusting(SimpleNamespace(backbone=LSTM(8, d_model=8, n_layer=1)), task) == option
