import json
import multiprocessing
import os
import random
import shutil
import zipfile

import numpy as np
import pytest

from length_gen.datamodules.collection import read_records, split, write_shard
from length_gen.datamodules.datamodule import TrajectoryDataModule
from length_gen.datamodules.rollout import Rollout, budget
from length_gen.datamodules.stream import TrajectoryStream
from length_gen.datamodules.tasks import CodeFixing
from length_gen.datamodules.tokens import END, Kind
from length_gen.lightning_modules.evaluation.outcome import judge
from length_gen.tools import UserError
from tests.agents import UNSANDBOXED


@pytest.fixture(scope="module", params=["interactive", "single_turn"])
def task(trajectories, request):
    return CodeFixing(str(trajectories / request.param), 8, vocab_size=400, unsandboxed=UNSANDBOXED)


def told(task, trajectory, kinds):
    """What a trajectory's tokens of some kinds say."""
    tokens = [t for t, k in zip(trajectory.tokens, trajectory.kinds, strict=True) if k in kinds]
    return task.codec.decode([t for t in tokens if t not in (END, task.codec.end_of_message)])


def test_training_trajectories_say_what_the_files_say(task):
    records = read_records(task.folder)
    for index, record in enumerate(records):
        problem = type(task.parse("4"))((), 0, source=index)
        trajectory = task.record(problem)
        assert trajectory.tokens[-1] == END and trajectory.kinds[-1] == Kind.END
        messages = record["messages"]
        assert told(task, trajectory, {Kind.PROMPT}) == "\n".join(m["content"] for m in messages[:2])
        assert told(task, trajectory, {Kind.COMMAND}) == "".join(
            m["content"] for m in messages if m["role"] == "assistant")
        assert told(task, trajectory, {Kind.OBSERVATION}) == "".join(m["content"] for m in messages[3:]
                                                                     if m["role"] == "user")
        assert trajectory.turns() == sum(m["role"] == "user" for m in messages[3:])
        prompt = task.sample(random.Random(0), 4).prompt
        assert tuple(trajectory.tokens[: len(prompt)]) == prompt  # what a rollout starts with, too


def test_the_stream_is_a_function_of_seed_and_index(task):
    first, again, other = (TrajectoryStream(task, seed) for seed in (1, 1, 2))
    drawn, same, others = ([stream[index].ids.tolist() for index in range(8)] for stream in (first, again, other))
    assert drawn == same and drawn != others
    assert len({tuple(ids) for ids in drawn}) > 3  # of the few trajectories that there are


def test_what_is_longer_than_a_row_is_cut_and_said(task):
    data = TrajectoryDataModule(task, batch_size=2, row_length=512, num_workers=0)
    with pytest.warns(UserWarning, match=r"\d\d% of the trajectories are longer and lose their ends"):
        batch = next(iter(data.train_dataloader()))
    sizes = [len(TrajectoryStream(task, data.seed)[i].ids) for i in range(data.batch_trajectories)]
    assert batch["tokens"].shape[1] == 513 and batch["whole"].tolist() == [size <= 513 for size in sizes]


def test_held_out_trajectories_are_not_trained_on(task):
    """Nothing that the validation and test loss are of is drawn in training, whatever the seed."""
    drawn = {"training": [task.sample_training(random.Random(seed)).source for seed in range(400)]}
    for name in ("validation", "test"):
        drawn[name] = [task.sample_held_out(random.Random(seed), name).source for seed in range(400)]
    assert all(drawn.values()) and sorted(set().union(*drawn.values())) == list(range(8))
    assert sum(len(set(sources)) for sources in drawn.values()) == 8  # each in one split only
    records = list(read_records(task.folder))
    lengths = [len(task.trajectory(records[i]["messages"]).tokens) for i in sorted(set(drawn["training"]))]
    assert task.trajectory_lengths().tolist() == lengths


@pytest.fixture
def written(tmp_path):
    """A folder whose trajectory i says the letter i of the alphabet in a line of its own, over and over."""
    content = {"agent": "interactive", "lengths": [4, 16], "system": "s", "instance": "{{task}}"}
    (tmp_path / "collection.json").write_text(json.dumps(content))

    def write(letters):
        records = [{"index": i, "n": 4, "fixed": True, "needless": [], "status": "", "messages": [
            {"role": "system", "content": "s"}, {"role": "user", "content": "t"},
            {"role": "assistant", "content": f"{letter * 8} " * 8}]} for i, letter in enumerate(letters)]
        path = tmp_path / "00000.jsonl.gz"
        write_shard(path, records)
        path.write_bytes(path.read_bytes().ljust(2000, b"\0"))  # of one size, whatever it says
        return CodeFixing(str(tmp_path), vocab_size=600)

    return write


def test_the_tokenizer_has_not_seen_what_is_held_out(written):
    letters = "abcdefghijklmnopqrstuvwxyz"
    task = written(letters)
    known = {letter for letter in letters if letter * 8 in "".join(task.vocabulary().tokens)}
    assert known == {letters[i] for i in split(range(26))["training"]}


def test_other_trajectories_get_another_tokenizer_and_other_tokens(written, tmp_path):
    """Files of the same names and sizes, too."""
    task = written("abcdefghij")
    said = task.codec.decode(task._vocabulary.decode(task._tokens.ids).copy())
    again = written("klmnopqrst")
    assert "aaaaaaaa" in said and again.vocabulary() != task.vocabulary()
    assert "aaaaaaaa" not in again.codec.decode(again._vocabulary.decode(again._tokens.ids).copy())
    assert CodeFixing(str(tmp_path), 5, vocab_size=600)._contents != again._contents


def test_where_only_rollouts_are_wanted_no_trajectory_is_encoded(written, tmp_path):
    task = written("abcdefghij")
    task.problem("test", 0, 4, 0)
    assert not list(tmp_path.glob("tokens_*"))
    task.sample_training(random.Random(0))
    assert len(list(tmp_path.glob("tokens_*"))) == 1


def load(folder, made, encode=CodeFixing.trajectory):
    def counted(self, messages):
        with made.get_lock():
            made.value += 1
        return encode(self, messages)

    CodeFixing.trajectory = counted
    CodeFixing(folder, vocab_size=600).trajectory_lengths()


def test_ranks_share_one_encoding(written, tmp_path):
    written("abcdefghij")
    context = multiprocessing.get_context("fork")
    made = context.Value("i", 0)
    ranks = [context.Process(target=load, args=(str(tmp_path), made)) for _ in range(3)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert [rank.exitcode for rank in ranks] == [0, 0, 0] and made.value == 10
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".") and path.name != ".lock"]


def test_a_second_task_takes_the_files_that_the_first_left(task, monkeypatch):
    assert len(task.trajectory_lengths()) == 6
    monkeypatch.setattr(CodeFixing, "records", lambda self: pytest.fail("read again"))
    again = CodeFixing(str(task.folder), 8, vocab_size=400, unsandboxed=UNSANDBOXED)
    assert again.vocabulary() == task.vocabulary() and (again._tokens.ids == task._tokens.ids).all()


@pytest.mark.parametrize("length", [4, 20])
def test_the_reference_as_model_is_exact_and_passes(task, length):
    problem = task.problem("test", 0, length, 0)
    reference, = task.references([problem])
    assert task.record(problem) is reference
    row = Rollout(problem, budget(reference), task.tool(problem))
    for token in reference.tokens:
        row.advance(token)
    assert row.reason == "end" and row.kinds == reference.kinds
    outcome = judge(row, task, reference)
    assert outcome.exact and outcome.answer_correct and outcome.turns == reference.turns()
    assert {phase for _, phase in reference.phases} <= set(task.phases) - {"other"}


def test_a_rollout_is_judged_by_the_code_that_it_leaves(task):
    """The first messages leave the bug; a fix passes although the row is cut off before its last word."""
    problem = task.problem("test", 0, 6, 1)
    reference, = task.references([problem])
    cuts = [i for i, token in enumerate(reference.tokens) if token == task.codec.end_of_message]
    passed = []
    for cut in cuts:
        row = Rollout(problem, cut + 1, task.tool(problem))
        while not row.reason:
            row.advance(reference.tokens[len(row.tokens)])
        assert row.reason == "budget"
        outcome = judge(row, task, reference)
        assert not outcome.exact
        passed.append(outcome.answer_correct)
    assert passed == sorted(passed) and not passed[1] and passed[-1]


def test_rubbish_goes_on_or_ends_with_a_reason(task):
    problem = task.problem("test", 0, 4, 2)
    for word, reason in (("a", "budget"), (task.codec.end_of_message, "invalid_command")):
        row = Rollout(problem, 1000, task.tool(problem))
        while not row.reason:
            row.advance(word)
        assert row.reason == reason and not judge(row, task, task.record(problem)).answer_correct
    assert "RepeatedFormatError" in row.detail
    assert b"".join(bytes([k]) for k in row.kinds).count(bytes([Kind.OBSERVATION, Kind.COMMAND])) == 2


def test_what_a_user_types(task):
    assert task.parse("12/3").length == 12 and task.parse(" 7 ").source.seed == "typed/0/7"
    for text, words in (("x", "not a problem"), ("1", "needs at least 2"), ("2000", "goes up to 1,000")):
        with pytest.raises(UserError, match=words):
            task.parse(text)
    with pytest.raises(UserError, match="mistakes are not possible"):
        task.record(task.parse("4"), noise=object())
    with pytest.raises(UserError, match="at most 2 functions"):
        CodeFixing(str(task.folder), 2, vocab_size=400)


def test_only_shorter_than_average(trajectories):
    folder = str(trajectories / "interactive")
    task = CodeFixing(folder, 8, shorter_than_average=True, vocab_size=400, unsandboxed=UNSANDBOXED)
    records = read_records(folder)
    sizes = {}
    for record in records:
        sizes.setdefault(record["n"], []).append(sum(len(m["content"]) for m in record["messages"]))
    expected = sum(size < sum(group) / len(group) for group in sizes.values() for size in group)
    assert len(task._tokens.starts) - 1 == expected > 0


def test_a_bad_file_beside_the_trajectories_changes_nothing(trajectories, tmp_path):
    folders = [shutil.copytree(trajectories / "interactive", tmp_path / name,
                               ignore=shutil.ignore_patterns("to*")) for name in "ab"]
    os.mkfifo(folders[1] / "00009.jsonl.gz")
    first, second = (CodeFixing(str(folder), 8, vocab_size=400) for folder in folders)
    with pytest.warns(UserWarning, match=r"00009.jsonl.gz is not a whole file.*it is left out"):
        assert second.vocabulary() == first.vocabulary()
        assert second.trajectory_lengths().tolist() == first.trajectory_lengths().tolist()


def test_kept_tokens_that_do_not_fit_are_refused(trajectories, tmp_path):
    """As whoever made the folder could have written them: with code, of any size, with other tokens."""
    folder = shutil.copytree(trajectories / "interactive", tmp_path / "a", ignore=shutil.ignore_patterns("to*"))
    assert len(CodeFixing(str(folder), 8, vocab_size=400).trajectory_lengths())
    path, = folder.glob("tokens_*.npz")
    with np.load(path) as arrays:
        whole = dict(arrays)
    fits = {"starts": whole["starts"] - 1, "ids": whole["ids"] + 400, "kinds": whole["kinds"] + 9,
            "training": whole["training"] + 99, "test": whole["test"][:0], "validation": np.array([{"a": 1}]), "x": 0}
    for key, value in fits.items():
        (np.savez_compressed if key == "x" else np.savez)(path, **whole | {key: value})
        with pytest.raises(UserError, match=r"npz is not whole .ValueError.: delete it; it is made anew"):
            CodeFixing(str(folder), 8, vocab_size=400).trajectory_lengths()
    header = b"{'descr': '<u4', 'fortran_order': False, 'shape': (4611686018427387904,), }".ljust(117) + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        for name in whole:
            archive.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00v\x00" + header)
    with pytest.raises(UserError, match=r"npz is not whole"):
        CodeFixing(str(folder), 8, vocab_size=400).trajectory_lengths()
