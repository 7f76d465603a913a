"""What every task says in every setting and style stays as it is: results and checkpoints count on it."""

import hashlib
from itertools import product

import pytest

from length_gen.datamodules.stream import TrajectoryStream
from length_gen.datamodules.trajectory import STYLES
from tests.datamodules.tasks.test_check import MAKERS, SETTINGS

LONG = {"hanoi_iterative": 6, "hanoi_recursive": 7, "logical_graph": 60, "turing_multiply_unary": 9}
"""Lengths of the longest problems; for all others 150, where many rounds are alike, and 30 for machines."""

SAME = {
    "addition": "bca73a 23d44d 7d7f75 c3c432 bbf11e b15b22 3104ae 827fdd 7d7f75 c3c432 bbf11e 8fc1f4",
    "multiplication": "8350cc 95b426 1e9ef2 8f70d1 63e352 3453e1 1f39b4 eb6ee3 1e9ef2 8f70d1 63e352 7fad7a",
    "copy": "021d6a 28431c 7c42c3 1b5407 a23606 c5297d 20b457 cd9725 7c42c3 1b5407 a23606 8fc882",
    "reverse": "1bc5cd 1b8578 1243e8 c55716 61706e 604f9e 84db72 89351b 1243e8 c55716 61706e d788f9",
    "sort": "9b0165 156f97 f61874 c20042 76cf75 f88441 68d0bc 522274 f61874 c20042 76cf75 a790d2",
    "hanoi_iterative": "8b782e 37eb5e 9fab59 3f958a 9b776a 1f8a89 3d9ccf e506e4 9fab59 3f958a 9b776a 63f517",
    "hanoi_recursive": "d7f6b4 69415d 4edf07 1b6331 06fe25 a15d41 d737ad 3239de 4edf07 1b6331 06fe25 0800b9",
    "logical_graph": "719a3b 2f6823 26d5af c04b7d c04b7d 83ff2e dc7346 0b0dbd 26d5af c04b7d c04b7d 635a82",
    "turing_add": "d9d7d2 d5e43e 500d61 e595b3 9f71ce 63f68e 4707cb 85d200 500d61 e595b3 9f71ce 82c4b8",
    "turing_brackets": "32b87a 19de90 d07425 abf75e abf75e 7a1e28 1ba0f5 22bdb1 d07425 abf75e abf75e a12194",
    "turing_copy": "fc2119 0de09e 919ca7 231e23 e502e3 7c5aff a90e97 4adfbc 919ca7 231e23 e502e3 290190",
    "turing_increment": "53f1a5 2c2a12 0b0dd1 b9ac99 65e10c fd1857 e4a6e7 7f7867 0b0dd1 b9ac99 65e10c 60a4b6",
    "turing_multiply_unary": "2133d9 73d726 686e7f 5000d4 5000d4 8ff1ce e584e6 3ed3c8 686e7f 5000d4 5000d4 a5680a",
    "turing_palindrome": "6a87f0 f0a185 e446f6 2da030 2da030 2ebb72 a33e89 b1d2fa e446f6 2da030 2da030 ed9162",
    "turing_sort": "b079b4 397571 39259d 427028 9e1652 305e82 8cc4a6 8997c9 39259d 427028 9e1652 d5c83f",
    "turing_collatz": "aaded4 ac3bf7 3a5cb8 abed2f ac8d9c 07b200 194fa5 89b23b 3a5cb8 abed2f ac8d9c 1cc1b9",
    "turing_decrement": "d114be 514d86 e5fff8 27c353 99b8cb 2eb046 0a4fb7 4f88ae e5fff8 27c353 99b8cb d9b991",
    "turing_erase": "9d5af7 10140c d3ef10 24495d 24495d 4f42be b33891 a065cb d3ef10 24495d 24495d 0b76f3",
    "mixture": "38a8bb f7f888 c8c6d1 b83e7e caf40b 753eff 05c479 832cd4 c8c6d1 b83e7e caf40b 850e82",
}
"""A hash of each task: for each style all settings, in the order of `STYLES` and `SETTINGS`."""


def digest(task) -> str:
    """Of the vocabulary, of training and held-out trajectories, with mistakes where there can be, and of problems."""
    seen = hashlib.sha256(repr((task.vocabulary().tokens, task.phases, task.variants)).encode())
    for split, mistakes in product(("training", "validation"), (0, 1) if task.setting == "interactive" else (0,)):
        stream = TrajectoryStream(task, 42, split, mistakes)
        for item in map(stream.__getitem__, range(4)):
            seen.update(repr((item.ids.tolist(), item.kinds.tolist(), item.length, item.variant)).encode())
    for variant, length in product(task.variants, (4, 9, LONG.get(task.name, 30 if "turing" in task.name else 150))):
        if variant not in task.variants_at(length):
            continue
        problem = task.problem("test", 0, length, 3, variant)
        trajectory = task.record(problem)
        seen.update(repr((problem.prompt, problem.length, problem.variant, task.answer(problem), task.outputs(problem),
                          trajectory.tokens, trajectory.kinds, trajectory.phases)).encode())
    return seen.hexdigest()[:6]


@pytest.mark.parametrize("name", MAKERS)
def test_what_a_task_says_stays(name):
    found = [digest(MAKERS[name](style=style, setting=setting)) for style, setting in product(STYLES, SETTINGS)]
    assert " ".join(found) == SAME[name]
