"""Trajectories as files: the same in both formats, and what other people's readers and trainers make of them."""

import hashlib
from pathlib import Path

import pyarrow.parquet as parquet
import pytest
from transformers import AutoTokenizer, GPTNeoXConfig, GPTNeoXForCausalLM

from length_gen.datamodules.export import FORMATS, card, export_of, start_export, table_of, write_shard
from length_gen.datamodules.settings import SETTINGS
from length_gen.datamodules.stream import TrajectoryStream
from length_gen.datamodules.tasks import (
    Addition,
    Copy,
    HanoiIterative,
    HanoiRecursive,
    LogicalGraph,
    Mixture,
    Multiplication,
    Reverse,
    Sort,
    Turing,
)
from length_gen.datamodules.tokens import PREDICTED, Kind
from length_gen.datamodules.trajectory import STYLES
from length_gen.tools import UserError
from length_gen.tools.files import read_json

datasets = pytest.importorskip("datasets")

TASKS = {cls.__name__: cls for cls in (Addition, Copy, HanoiIterative, HanoiRecursive, LogicalGraph, Multiplication,
                                       Reverse, Sort)} | {"Turing": lambda *given: Turing("palindrome", *given),
         "Mixture": lambda length, style, setting: Mixture([Addition(length, style, setting), Sort(length, style)])}


def written(folder, stream, format, count=6, size=4, name="data"):
    """A data set's folder with the first trajectories of a stream, as the command makes it."""
    export = export_of(stream, format, size)
    start_export(folder / name, export, stream)
    for number in range(-(-count // size)):
        write_shard(folder / name, stream, format, number, size, count)
    (folder / "README.md").write_text(card(folder))
    return folder / name


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("task", TASKS)
def test_messages_by_the_chat_template_are_the_tokens_and_their_mask(task, style, tmp_path):
    for setting in SETTINGS if style == "local" else ("interactive",):
        stream = TrajectoryStream(TASKS[task](4, style, setting), 1)
        folder = written(tmp_path / setting, stream, "messages", 3)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        rows = parquet.read_table(folder / "train-00000.parquet").to_pylist()
        for i, row in enumerate(rows):
            item = stream[i]
            found = tokenizer.apply_chat_template(row["messages"], return_dict=True, return_assistant_tokens_mask=True)
            assert found["input_ids"] == item.ids.tolist()
            assert found["assistant_masks"] == [int(kind in PREDICTED) for kind in item.kinds]
            assert (row["index"], row["length"], row["variant"]) == (i, item.length, item.variant)
            assert row["messages"][0]["role"] == "user" and row["messages"][-1]["role"] == "assistant"


def test_a_trajectory_by_hand(tmp_path):
    task = Copy(1, "paper")
    problem = task.parse("b")
    task.sample_training = lambda rng: problem
    stream = TrajectoryStream(task, 0)
    row, = table_of(stream, "messages", 7, [stream[0]]).to_pylist()
    said = [(message["role"], message["content"]) for message in row["messages"]]
    recorded = " ".join(task.record(problem).tokens)
    assert " ".join(filter(None, (text for _, text in said))) == recorded.removesuffix(" [END]")
    assert said[:3] == [("user", "b ="), ("assistant", "p1.init [ANS] p1.read"), ("tool", "b")] and row["index"] == 7
    assert said[-2:] == [("tool", "="), ("assistant", "")]  # which is where it says [END]


def test_datasets_reads_a_folder_of_several_configurations(tmp_path):
    stream = TrajectoryStream(Addition(3), 1)
    for format in FORMATS:
        written(tmp_path, stream, format, name=format)
    for split in ("validation", "test"):
        written(tmp_path, TrajectoryStream(Addition(3), 0, split), "tokens", name="tokens")
    assert datasets.get_dataset_config_names(str(tmp_path)) == ["messages", "tokens"]
    read = datasets.load_dataset(str(tmp_path), "tokens", cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in read.items()} == {"train": 6, "validation": 6, "test": 6}
    for split, of in (("train", stream), ("test", TrajectoryStream(Addition(3), 0, "test"))):
        for i, row in enumerate(read[split]):
            assert row["input_ids"] == of[i].ids.tolist() and bytes(row["kinds"]) == of[i].kinds.tobytes()
    streamed = datasets.load_dataset(str(tmp_path), "messages", split="train", streaming=True)
    assert len(list(streamed)) == 6 and set(next(iter(streamed))["messages"][0]) == {"role", "content"}


@pytest.mark.slow
def test_trl_trains_on_both_formats_as_they_are(tmp_path, monkeypatch):
    trl = pytest.importorskip("trl")
    SFTConfig, SFTTrainer, load_dataset = trl.SFTConfig, trl.SFTTrainer, datasets.load_dataset
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    stream = TrajectoryStream(Addition(5), 1)
    written(Path("trajectories"), stream, "messages", name="addition-5-local-interactive")
    written(Path("trajectories"), stream, "tokens", name="tokens")
    model = GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=len(stream.vocabulary) + 1, hidden_size=16, num_hidden_layers=1,
                                             num_attention_heads=2, intermediate_size=32))

    data = load_dataset("trajectories", "addition-5-local-interactive", split="train")
    tokenizer = AutoTokenizer.from_pretrained("trajectories/addition-5-local-interactive")
    settings = SFTConfig("sft", assistant_only_loss=True, max_length=None, max_steps=1, bf16=False)
    trainer = SFTTrainer(model, settings, train_dataset=data, processing_class=tokenizer)
    trainer.train()

    settings = SFTConfig("sft", max_length=None, bf16=False)
    other = SFTTrainer(model, settings, train_dataset=load_dataset("trajectories", "tokens", split="train"),
                       processing_class=tokenizer)
    expected = [(item.ids.tolist(), [int(i) if kind in PREDICTED else -100
                                     for i, kind in zip(item.ids, item.kinds, strict=True)])
                for item in map(stream.__getitem__, range(6))]
    for trained in (trainer, other):
        assert [(row["input_ids"], row["labels"]) for row in trained.train_dataset] == expected


def test_what_was_cut_off_goes_on_with_the_same_bytes(tmp_path):
    def digests(folder):
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.parquet")}

    stream = TrajectoryStream(Addition(3), 1)
    whole = written(tmp_path / "whole", stream, "tokens", 14)
    some = written(tmp_path / "some", stream, "tokens", 6)  # the second file is to be made longer
    kept = (some / "train-00000.parquet").stat().st_mtime_ns
    written(tmp_path / "some", stream, "tokens", 14)
    assert digests(some) == digests(whole) and len(digests(whole)) == 4
    assert (some / "train-00000.parquet").stat().st_mtime_ns == kept
    assert "| data | tokens | train | 14 |" in (tmp_path / "some/README.md").read_text()
    (some / "train-00001.parquet").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"train-00001.parquet is not what was written here .* delete it"):
        written(tmp_path / "some", stream, "tokens", 14)


@pytest.mark.parametrize("other, what", [
    (TrajectoryStream(Addition(3), 2), "seed, first"), (TrajectoryStream(Addition(4), 1), "max_length, first"),
    (TrajectoryStream(Addition(3, "paper"), 1), "style, first")])
def test_other_trajectories_do_not_go_into_the_same_files(other, what, tmp_path):
    written(tmp_path, TrajectoryStream(Addition(3), 1), "tokens")
    with pytest.raises(UserError, match=f"holds trajectories with another {what}: give another --out or --name"):
        written(tmp_path, other, "tokens")
    assert read_json(tmp_path / "data/data.json")["splits"]["training"]["seed"] == 1


def test_mistakes_are_masked_and_not_told_as_messages():
    stream = TrajectoryStream(Addition(5), 1, mistakes=1.0)
    rows = table_of(stream, "tokens", 0, [stream[i] for i in range(4)]).to_pylist()
    masks = [mask for row in rows for mask, kind in zip(row["assistant_masks"], row["kinds"], strict=True)
             if kind == Kind.MISTAKE]
    assert masks and not any(masks)
    with pytest.raises(UserError, match="messages cannot say that a mistake is not to be learnt"):
        export_of(stream, "messages", 4)


def test_collected_trajectories_are_messages_already(trajectories, tmp_path):
    from length_gen.datamodules.tasks import CodeFixing

    folder = trajectories / "interactive"
    task = CodeFixing(str(folder), 8, vocab_size=300)
    with pytest.raises(UserError, match="code_fixing are messages already"):
        export_of(TrajectoryStream(task, 0), "messages", 4)
    rows = datasets.load_dataset("json", data_files=f"{folder}/*.jsonl.gz", split="train",
                                 cache_dir=str(tmp_path / "cache"))
    assert len(rows) == 8 and rows[0]["messages"][-1]["role"] == "assistant"
    stream = TrajectoryStream(task, 0)
    made = written(tmp_path, stream, "tokens")
    tokenizer = AutoTokenizer.from_pretrained(made)
    ids = parquet.read_table(made / "train-00000.parquet")["input_ids"][0].as_py()
    assert ids == stream[0].ids.tolist() and "v10" in tokenizer.decode(ids)


def test_the_command_writes_what_a_training_reads(tmp_path, monkeypatch, capsys, refused):
    from length_gen.lightning_modules.commands.main import main

    monkeypatch.chdir(tmp_path)
    command = ["data", "--config", "configs/add.yaml", "--out", "set", "--seed_everything", "7", "--shard_size", "4"]
    main([*command, "--count", "6"])
    main([*command, "--count", "9", "--workers", "1"])
    assert 'datasets.load_dataset("set", "addition-5-local-interactive")' in capsys.readouterr().out
    rows = datasets.load_dataset("set", "addition-5-local-interactive", split="train", cache_dir="cache")
    problems = [row["messages"][0]["content"].split(" ") for row in rows]
    stream = TrajectoryStream(Addition(5), 7)
    tokens = [stream.vocabulary.decode(stream[i].ids) for i in range(9)]
    assert problems == [said[: said.index("=") + 1] for said in tokens]
    assert "mistakes" in refused(*command, "--count", "9", "--data.mistakes", "0.5", cwd=tmp_path)
    assert "another format" in refused(*command, "--count", "9", "--format", "tokens", cwd=tmp_path)
    assert refused(*command, "--count", "0", cwd=tmp_path) == "error: count 0 is not possible: expected at least 1"
