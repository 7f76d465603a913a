import gzip
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from length_gen.datamodules.collection import (
    Collection,
    average_characters,
    read_collection,
    read_files,
    read_records,
    read_shard,
    read_trajectory,
    split,
    start_collection,
    summary,
)
from length_gen.datamodules.scripted import AGENTS, SUBMIT, message
from length_gen.tools import UserError
from length_gen.tools.agent import Agent, PolicyModel, SandboxEnvironment
from length_gen.tools.sandbox import Sandbox
from tests.agents import UNSANDBOXED, needs_bubblewrap


def collection(**settings):
    return Collection(**{"lengths": (4, 6), "shard_size": 3, "unsandboxed": UNSANDBOXED} | settings)


def test_trajectories_are_a_function_of_seed_and_index(tmp_path):
    for name in "ab":
        start_collection(str(tmp_path / name), collection())
    assert [len(collection().shard(str(tmp_path / "a"), k, 8)) for k in range(3)] == [3, 3, 2]
    collection().shard(str(tmp_path / "b"), 1, 8)
    first, again = ((tmp_path / name / "00001.jsonl.gz").read_bytes() for name in "ab")
    assert first == again
    found, records = read_collection(tmp_path / "a"), list(read_records(tmp_path / "a"))
    assert found == Collection(lengths=(4, 6), shard_size=3) and [r["index"] for r in records] == list(range(8))
    assert all(r["fixed"] and r["status"] == "Submitted" and 4 <= r["n"] <= 6 and not r["needless"] for r in records)
    assert collection(seed=1).record(0)["messages"] != records[0]["messages"]


@needs_bubblewrap
def test_the_sandbox_makes_no_difference_to_what_is_said():
    inside, outside = (collection(unsandboxed=unsandboxed, lengths=(8, 12)) for unsandboxed in (False, True))
    for index in range(3):
        assert inside.record(index) == outside.record(index)


def test_a_file_that_is_there_stays_and_another_collection_is_refused(tmp_path):
    start_collection(str(tmp_path), collection())
    records = collection().shard(str(tmp_path), 0, 1)
    path = tmp_path / "00000.jsonl.gz"
    before = path.stat().st_mtime_ns
    assert collection().shard(str(tmp_path), 0, 1) == records and path.stat().st_mtime_ns == before
    with pytest.raises(UserError, match="another agent, seed"):
        start_collection(str(tmp_path), collection(agent="single_turn", seed=3))
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match="not a whole file"):
        read_shard(path)
    with pytest.raises(UserError, match=r"no trajectories in .*: collect some with"):
        read_collection(str(tmp_path / "none"))


def written(folder, content):
    (folder / "collection.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


@pytest.mark.parametrize(("content", "words"), [
    ('{"agent": "inter', "Unterminated string"), ("", "Expecting value"), ([1], "not a table of agent"),
    ({"agent": "interactive", "lenghts": [4, 8]}, "lenghts"), ({"lengths": None}, "lengths is null"),
    ({"lengths": [4]}, "lengths.*2 elements"), ({"seed": "one"}, "seed.*int"), ({"agent": "me"}, "unknown agent 'me'"),
    ({"lengths": [4, 10**30]}, "not possible"), ({"system": 5}, "system.*str"), ("[" * 100_000, "recursion")])
def test_a_collection_file_that_is_broken_or_foreign_gets_one_line(content, words, tmp_path):
    with pytest.raises(UserError, match=rf"(?s)collection.json is not what collect wrote.*{words}.*another folder$"):
        read_collection(written(tmp_path, content))
    with pytest.raises(UserError, match="is not what collect wrote"):
        start_collection(str(tmp_path), collection())


@pytest.mark.parametrize("key", ["system", "instance"])
@pytest.mark.parametrize("text", [
    "{{ cycler.__init__.__globals__.os.system('touch touched') }}", "{{ ''.__class__.__mro__ }}", "{{task|upper}}",
    "{% for i in range(10**9) %}{% endfor %}", "{# no #}", "{{name}}", "{{ task", "{{{task}}}", "{{'a' * 10**9}}"])
def test_text_of_a_collection_file_is_never_run(key, text, tmp_path, monkeypatch):
    """Of a fetched file, or of one's own: the text stands for itself, but for a few names."""
    monkeypatch.chdir(tmp_path)
    words = r"is not possible in the text of a message: expected \{\{task\}\}, "
    with pytest.raises(UserError, match=rf"collection.json is not what collect wrote.*{words}"):
        read_collection(written(tmp_path, {"agent": "interactive", key: f"Repair. {text}"}))
    with pytest.raises(UserError, match=words):
        collection(**{key: text})
    assert [path.name for path in tmp_path.iterdir()] == ["collection.json"]


def test_a_collection_file_of_before_is_read(tmp_path):
    """A key that is not there has its default, as when the file was written by an older version."""
    assert read_collection(written(tmp_path, {"agent": "llm", "model": {"model_name": "m"}})).seed == 0


@pytest.mark.parametrize("record", [[], {}, {"index": 0}, {"messages": [{"role": "user"}]}, {"messages": [3]},
                                    {"n": "4"}, {"messages": []}])
def test_a_trajectory_that_is_none_gets_one_line(record, tmp_path):
    if record and record != {"index": 0}:
        record = {"index": 0, "n": 4, "status": "", "fixed": True, "needless": [], "messages": []} | record
    (tmp_path / "00000.jsonl.gz").write_bytes(gzip.compress(json.dumps(record).encode()))
    with pytest.raises(UserError, match=r"00000.jsonl.gz is not a whole file .*line 1 is no trajectory"):
        read_shard(tmp_path / "00000.jsonl.gz")


def test_one_bad_file_of_a_folder_is_left_out(trajectories, tmp_path):
    """A pipe, a device, a folder, a file that unpacks to 2.4 GB in one line or in lines, one that is cut off."""
    good = (trajectories / "interactive/00001.jsonl.gz").read_bytes()
    wanted = read_shard(trajectories / "interactive/00001.jsonl.gz")
    (tmp_path / "00000.jsonl.gz").write_bytes(good)
    os.mkfifo(tmp_path / "00001.jsonl.gz")
    (tmp_path / "00002.jsonl.gz").symlink_to("/dev/zero")
    (tmp_path / "00003.jsonl.gz").mkdir()
    (tmp_path / "00004.jsonl.gz").write_bytes(gzip.compress(bytes(2**24)) * 150)
    line = gzip.decompress(good).splitlines(keepends=True)[0]
    (tmp_path / "00005.jsonl.gz").write_bytes(gzip.compress(line * 4000) * 250)
    (tmp_path / "00006.jsonl.gz").write_bytes(good[:-9])
    with open(tmp_path / "00007.jsonl.gz", "wb") as file:
        file.truncate(2**40)
    (tmp_path / "00008.jsonl.gz").write_bytes(good)
    (tmp_path / "00009.jsonl.gz").write_bytes(gzip.compress(b" " * 2**20 + b"\n") * 70)
    many = json.loads(line) | {"messages": [{"role": "assistant", "content": ""}] * 101}
    (tmp_path / "00010.jsonl.gz").write_bytes(gzip.compress((json.dumps(many) + "\n").encode() * 9_901))
    with pytest.warns(UserWarning) as warned, pytest.MonkeyPatch.context() as patch:
        patch.setattr("length_gen.datamodules.collection.UNPACKED", 2**26)  # to be quick
        patch.setattr("length_gen.datamodules.collection.RECORDS", 2**24)
        assert list(read_records(tmp_path)) == wanted * 2
    for number, words in enumerate(["no regular file", "no regular file", "Is a directory", "16,777,216 in a line",
                                    "10,000 trajectories", "ended before", "at most 134,217,728 are read", "",
                                    "Expecting value", "1,000,000 messages"], 1):
        if not words:
            continue
        assert any(f"{number:05}.jsonl.gz is not a whole file" in (text := str(w.message)) and words in text
                   and text.endswith("delete it and collect again; it is left out") for w in warned), words


def test_halves_of_characters_and_other_keys_are_not_kept(tmp_path):
    record = {"index": 0, "n": 4, "status": "", "fixed": False, "needless": [], "more": [[]] * 9,
              "messages": [{"role": "user", "content": "a\ud800b", "extra": 1}]}
    (tmp_path / "00000.jsonl.gz").write_bytes(gzip.compress(json.dumps(record).encode()))
    found, = read_shard(tmp_path / "00000.jsonl.gz")
    assert found["messages"] == [{"role": "user", "content": "a?b"}] and "more" not in found


@pytest.mark.parametrize(("settings", "words"), [
    ({"agent": "x"}, "unknown agent 'x'"), ({"lengths": (1, 4)}, "not possible"), ({"lengths": (5, 4)}, "not possible"),
    ({"shard_size": 0}, "expected 1 to 10,000"), ({"agent": "llm"}, "needs a model")])
def test_settings_that_are_not_possible(settings, words):
    with pytest.raises(UserError, match=words):
        collection(**settings)


class Endpoint(BaseHTTPRequestHandler):
    """An OpenAI-compatible endpoint whose model is the scripted agent, but for its second answer, which is none."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        messages = [m for m in body["messages"] if "Format error" not in m["content"]]
        if "refuse" in body["model"]:
            status, words = {"refuse-long": (400, "This model's maximum context length is 10 tokens"),
                             "refuse-key": (401, "Incorrect API key provided")}[body["model"]]
            return self.answer(status, json.dumps({"error": {"message": words}}).encode())
        text = AGENTS["interactive"](messages)
        if len(self.server.bodies) == 2:
            text = "I think about it."
        answer = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"],
                  "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
                  "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}
        self.answer(200, json.dumps(answer).encode())

    def answer(self, status, data):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def test_an_llm_behind_an_endpoint_is_an_agent_too(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("MSWEA_MODEL_RETRY_STOP_AFTER_ATTEMPT", "1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    server.bodies = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    model = {"model_name": "openai/scripted", "model_kwargs": {
        "api_base": f"http://127.0.0.1:{server.server_port}/v1", "api_key": "none"}}
    try:
        record = collection(agent="llm", model=model, step_limit=30).record(0)
        long = collection(agent="llm", model=model | {"model_name": "openai/refuse-long"}).record(0)
        with pytest.raises(UserError, match=r"cannot be asked .AuthenticationError"):
            collection(agent="llm", model=model | {"model_name": "openai/refuse-key"}).record(0)
    finally:
        server.shutdown()
    assert (long["fixed"], long["status"], long["messages"]) == (False, "ContextWindowExceededError", [])
    assert record["fixed"] and record["status"] == "Submitted"
    assert "exactly ONE bash code block" in server.bodies[0]["messages"][0]["content"]  # mini-swe-agent's own words
    assert "v10 is declared in main.py" in record["messages"][1]["content"]
    assert sum("Format error" in m["content"] for m in record["messages"]) == 1


def test_trajectories_of_mini_swe_agent_are_read(tmp_path):
    said = iter([message("Run.", "echo hi"), message("Done.", SUBMIT)])
    with Sandbox(unsandboxed=UNSANDBOXED) as box:
        agent = Agent(PolicyModel(lambda _: next(said)), SandboxEnvironment(box), system_template="s",
                      instance_template="{{task}}", cost_limit=0, output_path=tmp_path / "in/one.traj.json")
        agent.run("fix it")
    record = read_trajectory(tmp_path / "in/one.traj.json")
    assert [m["role"] for m in record["messages"]] == ["system", "user", "assistant", "user", "assistant"]
    assert [m["content"] for m in record["messages"][1:3]] == ["fix it", message("Run.", "echo hi")]
    assert record["fixed"] and record["status"] == "Submitted"
    calls = {"messages": [{"role": "system", "content": "s"},
                          {"role": "user", "content": [{"type": "text", "text": "t"}]},
                          {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}],
                           "extra": {"actions": [{"command": "ls"}]}}, {"role": "tool", "content": "x"},
                          {"role": "exit", "content": ""}], "info": {"exit_status": "LimitsExceeded", "n": 7}}
    (tmp_path / "in/two.traj.json").write_text(json.dumps(calls))
    (tmp_path / "out").mkdir()
    assert [r["fixed"] for r in read_files(str(tmp_path / "in"), str(tmp_path / "out"), 10)] == [True, False]
    two = json.loads(gzip.decompress((tmp_path / "out/00000.jsonl.gz").read_bytes()).splitlines()[1])
    assert two["n"] == 7 and two["messages"][1]["content"] == "t"
    assert two["messages"][2]["content"] == "```mswea_bash_command\nls\n```" and len(two["messages"]) == 4
    (tmp_path / "in/bad.traj.json").write_text("[1]")
    with pytest.warns(UserWarning, match=r"bad\.traj\.json is not a trajectory.*it is left out"):
        assert len(read_files(str(tmp_path / "in"), str(tmp_path / "out"), 10)) == 2
    for name in ("one", "two"):
        (tmp_path / f"in/{name}.traj.json").unlink()
    with pytest.warns(UserWarning), pytest.raises(UserError, match=r"none of the 1 \.traj\.json files"):
        read_files(str(tmp_path / "in"), str(tmp_path / "out"), 10)
    with pytest.raises(UserError, match=r"no \.traj.json files"):
        read_files(str(tmp_path / "out"), str(tmp_path / "out"), 10)


def responses_trajectory(path):
    """A trajectory of mini-swe-agent's own loop and its model for OpenAI's Responses API, of whose answers one has no
    command."""
    from litellm.types.llms.openai import ResponsesAPIResponse
    from minisweagent.models.litellm_response_model import LitellmResponseModel

    answers = iter([("Look.", ["ls"]), ("I think.", []), ("Done.", [SUBMIT])])

    class Model(LitellmResponseModel):
        def _query(self, messages, **_):
            text, commands = next(answers)
            calls = [{"type": "function_call", "call_id": f"c{len(messages)}", "name": "bash", "status": "completed",
                      "id": "f", "arguments": json.dumps({"command": command})} for command in commands]
            said = {"type": "message", "id": "m", "role": "assistant", "status": "completed",
                    "content": [{"type": "output_text", "text": text, "annotations": []}]}
            thought = {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "hidden"}]}
            return ResponsesAPIResponse(id="1", created_at=0, object="response", output=[thought, said, *calls])

    model = Model(model_name="openai/x", cost_tracking="ignore_errors", observation_template="{{output.output}}",
                  format_error_template="{{error}}")
    with Sandbox(unsandboxed=UNSANDBOXED) as box:
        box.write({"a.py": b""})
        Agent(model, SandboxEnvironment(box), system_template="s", instance_template="{{task}}", cost_limit=0,
              output_path=path).run("fix it")


def test_trajectories_of_the_responses_api_are_read(tmp_path):
    responses_trajectory(tmp_path / "one.traj.json")
    record = read_trajectory(tmp_path / "one.traj.json")
    assert [(m["role"], m["content"]) for m in record["messages"]] == [
        ("system", "s"), ("user", "fix it"), ("assistant", message("Look.", "ls")), ("tool", "a.py\n"),
        ("user", "No tool calls found in the response. Every response MUST include at least one tool call."),
        ("assistant", message("Done.", SUBMIT))]
    assert record["fixed"]


@pytest.mark.parametrize("content", [
    '{"messages": [{"roll": "user"}]}', '{"messages": [{"role": "assistant", "content": 3}]}', '{"messages": {}}',
    '{"messages": [{"object": "response"}]}', '{"messages": [{"object": "response", "output": [1]}]}',
    '{"messages": [{"role": "assistant"}], "info": {"n": 1e999}}', "[" * 100_000, '{"messages": [null]}'])
def test_files_that_are_no_trajectories_get_one_line(content, tmp_path):
    (tmp_path / "a.traj.json").write_text(content)
    with pytest.raises(UserError, match=r"a.traj.json is not a trajectory"):
        read_trajectory(tmp_path / "a.traj.json")


def test_average_lengths():
    records = [{"n": n, "fixed": True, "needless": [], "messages": [{"role": "assistant", "content": "x" * size}]}
               for n, size in ((4, 1), (4, 3), (5, 7))]
    assert average_characters([summary(record) for record in records]) == {4: 2.0, 5: 7.0}


def test_a_trajectory_stays_in_its_split():
    whole, part = split(range(4000)), split(range(500))
    assert sorted(i for places in whole.values() for i in places) == list(range(4000))
    for name, places in part.items():
        assert [i for i in whole[name] if i < 500] == places.tolist()
        assert len(whole[name]) == pytest.approx({"training": 3600}.get(name, 200), rel=0.2)
    kept = np.arange(0, 500, 3)  # those that a filter leaves
    assert {kept[i] for i in split(kept.tolist())["test"]} == set(part["test"]) & set(kept)
    for size in range(3, 40):
        parts = split(range(size))
        assert all(map(len, parts.values())) and sum(map(len, parts.values())) == size
    with pytest.raises(UserError, match="2 trajectories that can be trained on are too few"):
        split([0, 1])
