"""An attack of each kind on the real sandbox, judge and readers of files; benchmarks/attacks.py tries them all."""

from dataclasses import replace

import pytest

from benchmarks.attackers.submissions import HOSTILE
from benchmarks.attackers.trial import trial
from benchmarks.attacks import ATTACKS, judgements
from tests.agents import needs_bubblewrap

SLOW = ("memory of sockets", "memory without an owner", "memory of the kernel", "signals", "time", "the supervisor",
        "run folders")
"""Kinds that take seconds: `benchmarks/attacks.py` alone tries them."""

FIRST = {attack.kind: attack for attack in reversed(ATTACKS) if attack.kind not in SLOW}


def test_there_are_at_most_three_attacks_of_a_kind():
    kinds = [attack.kind for attack in ATTACKS]
    assert len(ATTACKS) >= 60 and all(kinds.count(kind) <= 3 for kind in kinds)
    assert len({(attack.kind, attack.name) for attack in ATTACKS}) == len(ATTACKS)


@needs_bubblewrap
@pytest.mark.parametrize("kind", FIRST)
def test_an_attack_gets_nothing(kind):
    assert trial(replace(FIRST[kind], seconds=300)).got == ""


@pytest.mark.parametrize("kind", ["files of the host", "writing to the host", "foreseen values", "names",
                                  "messages of a collection"])
def test_an_attack_is_one(kind):
    assert trial(FIRST[kind], defended=False).got


@pytest.mark.slow
@needs_bubblewrap
def test_verdicts_are_right_and_leave_nothing():
    rows, facts = judgements(40, seed=0, processes=1)
    assert sum(row["judgements"] for row in rows) == 40 and facts["wrong"] == 0
    assert not any(facts["left"].values())
    assert len({row["what"] for row in rows} & HOSTILE.keys()) >= 3
