import random

import pytest

from length_gen.datamodules.horizon import horizon, needs, verdict
from length_gen.datamodules.tasks import Addition, Copy, Multiplication, Sort
from length_gen.datamodules.tokens import PREDICTED
from length_gen.datamodules.trajectory import Trajectory
from length_gen.datamodules.vocabulary import Vocabulary
from length_gen.lightning_modules.evaluation.analysis import by_variant, horizons


def by_force(trajectories, own=None):
    """The definition, word by word."""
    own = own or [True] * len(trajectories)
    for k in range(max(len(t.tokens) for t in trajectories) + 1):
        following, asked = {}, set()
        for t, is_asked in zip(trajectories, own, strict=True):
            for i, kind in enumerate(t.kinds):
                if kind in PREDICTED and i:
                    context = tuple(t.tokens[max(0, i - k) : i]) if i >= k else ("start", *t.tokens[:i])
                    following.setdefault(context, set()).add(t.tokens[i])
                    asked |= {context} if is_asked else set()
        if all(len(following[context]) == 1 for context in asked):
            return k
    return None


@pytest.mark.parametrize("task", [Addition(3), Addition(3, "paper"), Addition(3, "beacons_8"), Copy(4),
                                  Sort(4, "paper")],
                         ids=lambda t: f"{t.name}-{t.style}")
def test_equals_the_definition(task):
    rng = random.Random(0)
    trajectories = [task.record(task.sample_training(rng)) for _ in range(12)]
    assert horizon(trajectories, task.vocabulary()).horizon == by_force(trajectories)


def test_random_tokens_equal_the_definition():
    rng, vocabulary = random.Random(1), Vocabulary("abc")
    for _ in range(50):
        chosen = []
        for _ in range(3):
            size = rng.randint(2, 12)
            chosen.append(Trajectory(rng.choices("abc", k=size), bytearray(rng.choices([1, 2, 3, 4], k=size)), []))
        expected = by_force(chosen)
        if expected is not None:  # else one trajectory's whole past equals another's
            assert horizon(chosen, vocabulary).horizon == expected


def test_a_part_is_held_against_the_contexts_of_all():
    rng, vocabulary, larger = random.Random(2), Vocabulary("abc"), 0
    for _ in range(100):
        chosen = []
        for _ in range(4):
            size = rng.randint(2, 10)
            chosen.append(Trajectory(rng.choices("abc", k=size), bytearray(rng.choices([1, 2, 3, 4], k=size)), []))
        own = [True, True, False, False]
        expected = by_force(chosen, own)
        if expected is not None:
            found = horizon(chosen, vocabulary, own)
            assert found.horizon == expected
            assert not found.clash or found.clash.following[0] != found.clash.following[1]
            larger += expected > horizon(chosen[:2], vocabulary).horizon
    assert larger > 10  # what the others say does make a difference


def test_n_x_1_is_bounded_where_n_x_2_grows():
    rows = list(horizons(Multiplication(5, "paper"), [5, 10, 20, 40], 20, 0))
    lines = by_variant(rows)
    assert verdict(list(lines["n x 2"]), list(lines["n x 2"].values())).startswith("growing like n")
    assert max(lines["n x 1"].values()) <= 25 < min(list(lines["n x 2"].values())[1:])


def test_the_clash_is_one():
    task = Addition(4, "paper")
    rng = random.Random(0)
    found = horizon([task.record(task.sample_training(rng)) for _ in range(200)], task.vocabulary())
    (a, b), (x, y) = found.clash.contexts, found.clash.following
    shared = found.horizon - 1
    assert a[-shared:] == b[-shared:] and a != b and x != y
    assert set(found.clash.phases) <= set(task.phases) and set(found.clash.phases) <= set(found.phases)


def test_local_addition_is_bounded_and_paper_addition_grows():
    reached = {}
    for style in ("local", "paper"):
        task, trajectories, reached[style] = Addition(5, style), [], []
        for n in (5, 10, 20, 40):
            trajectories += [task.record(task.problem("validation", 0, n, i)) for i in range(60)]
            reached[style].append(horizon(trajectories, task.vocabulary()).horizon)
    assert verdict((5, 10, 20, 40), reached["local"]).startswith("bounded") and max(reached["local"]) < 20
    assert reached["paper"] == sorted(set(reached["paper"])) and reached["paper"][-1] > 100
    assert verdict((5, 10, 20, 40), reached["paper"]) == (
        "growing like n: 126 tokens at 40, 3.0 more for each unit of length")
    assert verdict((10, 20, 40), (10, 40, 160)) == "growing like n^2.0: 160 tokens at 40"
    assert verdict((50, 100, 200), (143, 143, 152)) == "nearly bounded: 152 tokens at 200, 143 at 50"


@pytest.mark.parametrize("every", [8, 32])
def test_beacons_bound_the_horizon(every):
    """By what is asked for: to know what to say, one need not look further back than to the last command with a phase,
    and after a tick the tokens since the one before are at most `every` and a step."""
    line = by_variant(horizons(Addition(5, f"beacons_{every}"), [5, 30, 60], 20, 0))["n + m"]
    assert every < line[30] == line[60] <= every + 3
    assert by_variant(horizons(Addition(5, "paper"), [5, 30, 60], 20, 0))["n + m"][60] > 120


def test_what_each_decision_needs_equals_the_definition():
    rng, vocabulary = random.Random(3), Vocabulary("abc")
    for _ in range(60):
        chosen = [Trajectory(list(rng.choices("ab", k=size)), bytearray(rng.choices([1, 2, 3, 4], k=size)), [(0, "x")])
                  for size in rng.choices(range(2, 12), k=3)]
        said = [(t.tokens[:i], t.tokens[i]) for t in chosen for i, kind in enumerate(t.kinds)
                if kind in PREDICTED and i]

        def last(before, k):
            return tuple(before[-k:] if k else ()) if len(before) >= k else ("start", *before)

        expected = [next((k for k in range(14) if all(last(other, k) != last(before, k) or token == follows
                                                      for other, token in said)), None) for before, follows in said]
        if None not in expected:  # else one trajectory's whole past equals another's
            found = needs(chosen, vocabulary)
            assert found.needs.tolist() == expected
            tokens = [token for t in chosen for token in t.tokens]
            for place, need, partner in zip(found.places, found.needs, found.partners, strict=True):
                assert (partner < 0) == (need == 0) and (need == 0 or tokens[place] != tokens[partner])
            assert horizon(chosen, vocabulary).needs == ({"x": (len(said), max(expected))} if said else {})


def test_the_needs_of_phases_of_addition_in_both_styles():
    """By hand: in style local a digit in a walk is followed by a move whatever stands before it, and a column's sum
    digit waits for the carry 7 tokens back; in style paper the end of the question is read in two phases, and which it
    is shows at the start of the walk, 3 tokens a digit before."""
    found = {}
    for style in ("local", "paper"):
        task = Addition(5, style)
        trajectories = [task.record(task.problem("validation", 0, n, i)) for n in (5, 20) for i in range(40)]
        found[style] = horizon(trajectories, task.vocabulary()).needs
    assert found["local"]["add"][1] == 7 and found["local"]["find_plus"][1] <= 3
    assert found["paper"]["find_answer"][1] == found["paper"]["add"][1] == 66 and found["paper"]["find_plus"][1] <= 3
    assert sum(count for count, _ in found["paper"].values()) == sum(
        kind in PREDICTED for trajectory in trajectories for kind in trajectory.kinds)
