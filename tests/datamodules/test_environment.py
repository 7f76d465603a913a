"""Tasks as environments of Gymnasium, by its own check."""

import warnings

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env

from length_gen.datamodules.benchmark import Benchmark
from length_gen.datamodules.environment import TaskEnvironment, scripted
from length_gen.datamodules.settings import SETTINGS
from length_gen.datamodules.tasks import Addition, LogicalGraph
from length_gen.datamodules.tokens import END
from length_gen.tools import UserError


@pytest.mark.parametrize("name", Benchmark().tasks)
def test_gymnasium_finds_nothing_and_the_scripted_agent_solves_it(name):
    for style in ("local", "paper"):
        task = Benchmark(style=style).tasks[name]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", ".*not have a `spec`.*")
            check_env(TaskEnvironment(task), skip_render_check=True)
        for variant in task.variants:
            environment = TaskEnvironment(task, task.max_length + 1, variant, "exact")
            for seed in range(3):
                _, info = environment.reset(seed=seed)
                *_, last = played(environment, list(scripted(task, info["tokens"])))
                assert last[1:4] == (1.0, True, False) and last[4]["reason"] == "end" and last[4]["answer"]


def played(environment, tokens):
    return [environment.step(environment.vocabulary.id(token)) for token in tokens]


def test_gymnasium_makes_it():
    task, length = Addition(5), 7
    environment = gymnasium.make("length_gen.datamodules.environment:length_gen/Task-v0", task=task, length=length)
    observation, info = environment.reset(seed=3)
    question = info["tokens"]
    assert len(question) == 2 * length + 2
    rewards = []
    for token in scripted(task, question):
        observation, reward, terminated, truncated, info = environment.step(environment.unwrapped.vocabulary.id(token))
        rewards.append(reward)
    assert terminated and not truncated and sum(rewards) == rewards[-1] == 1.0 and info["exact"]
    observation, info = environment.reset(options={"length": 2})
    assert len(info["tokens"]) == 6 and len(observation) == 6


@pytest.mark.parametrize("setting", SETTINGS)
def test_an_episode_of_every_setting(setting):
    task = Addition(3, "local", setting)
    environment = TaskEnvironment(task, 3)
    _, info = environment.reset(seed=1, options={"problem": "12+9"})
    assert info["tokens"] == (["="] if setting == "question_in_tool" else list("12+9="))
    *_, last = played(environment, scripted(task, tuple("12+9=")))
    assert last[1] == 1.0


def test_only_what_the_tool_says_is_shown_and_what_is_wrong_ends_it():
    environment = TaskEnvironment(Addition(5, "paper"))
    environment.reset(options={"problem": "12+9"})
    steps = played(environment, ["p1.init", "p1.right", "p1.read"])
    assert [step[4] for step in steps] == [{"tokens": []}, {"tokens": []}, {"tokens": ["2"]}]
    assert [len(step[0]) for step in steps] == [0, 0, 1] and not any(step[1] or step[2] or step[3] for step in steps)
    _, reward, terminated, truncated, info = played(environment, ["p2.read"])[0]
    assert (reward, terminated, truncated, info["reason"]) == (0.0, True, False, "invalid_command")
    environment.reset(options={"problem": "12+9"})
    wrong = played(environment, ["[ANS]", "3", END])[-1]
    assert wrong[1] == 0.0 and wrong[2] and not wrong[4]["answer"]
    environment.reset(options={"problem": "12+9"})
    right = played(environment, ["[ANS]", "2", "1", END])[-1]
    assert right[1] == 1.0 and right[4]["answer"] and not right[4]["exact"]
    environment.reset(options={"problem": "1+1"})
    while not (step := played(environment, ["1"])[0])[3]:
        assert not step[2]
    assert step[1] == 0.0 and step[4]["reason"] == "budget"


def test_what_is_not_possible_is_told():
    for given, message in (({"reward": "style"}, "unknown reward 'style'"), ({"length": 2}, "needs at least 4"),
                           ({"variant": "none"}, "has no variant 'none': expected 'any', 'recent'")):
        with pytest.raises(UserError, match=message):
            TaskEnvironment(LogicalGraph(8), **given)
