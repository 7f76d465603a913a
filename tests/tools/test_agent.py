"""mini-swe-agent's real loop with policies that are not a model."""

import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jinja2
import pytest
import yaml
from minisweagent.config import builtin_config_dir

from length_gen.datamodules.codebases import code_base
from length_gen.datamodules.judge import check
from length_gen.datamodules.scripted import AGENTS, SUBMIT, message
from length_gen.datamodules.text import TextCodec
from length_gen.tools import InvalidCommand
from length_gen.tools.agent import AgentTool, PolicyModel, Templates, llm_templates, prompt_messages, run_agent
from length_gen.tools.sandbox import Limits, Sandbox
from tests.agents import UNSANDBOXED
from tests.tools.sandbox.boxes import running

TEMPLATES = Templates("You repair code.", "Please: {{task}}")


def run(policy, files=None, templates=TEMPLATES):
    with Sandbox(Limits(seconds=60), UNSANDBOXED) as box:
        box.write(files or {"main.py": b"print(1)\n"})
        messages, status = run_agent(PolicyModel(policy), box, "fix it", templates)
        return messages, status, box.read()


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("n", [2, 5, 17, 70])
def test_scripted_agents_fix_the_code(agent, n):
    code = code_base("agents", n)
    messages, status, files = run(AGENTS[agent], code.files())
    verdict = check(code, files, UNSANDBOXED)
    assert verdict.fixed and not verdict.needless and status == "Submitted"
    assert [m["role"] for m in messages[:3]] == ["system", "user", "assistant"]
    assert messages[1]["content"] == "Please: fix it" == prompt_messages("fix it", TEMPLATES)[1]["content"]
    if agent == "single_turn":
        assert len(messages) == 5


@pytest.mark.parametrize("text", ["{{task}}", " {{ task }}\n\n", "a\r\nb\rc\n{{\ntask}}{{cwd}}", "{ {task} }} % #",
                                  "{{system}} {{release}} {{version}} {{machine}}", "", "\n"])
def test_first_messages_are_what_jinja_made_of_them(text):
    task = "fix {{cwd}} {% it %}\n"
    known = {"task": task, "cwd": "/repo", "system": "Linux", "release": "", "version": "",
             "machine": platform.machine()}
    assert [m["content"] for m in prompt_messages(task, Templates(text, "x{{task}}"))] == [
        jinja2.Template(text).render(known), f"x{task}"]


def test_first_messages_of_an_llm_are_mini_swe_agents(tmp_path, monkeypatch):
    agent = yaml.safe_load((builtin_config_dir / "mini_textbased.yaml").read_text(encoding="utf-8"))["agent"]
    known = {"task": "fix it", "system": "Linux", "release": "", "version": "", "machine": platform.machine()}
    monkeypatch.chdir(tmp_path)  # where a file of that name says something else
    (tmp_path / "mini_textbased.yaml").write_text("agent: {system_template: '{{task}}', instance_template: ''}")
    assert [m["content"] for m in prompt_messages("fix it", llm_templates(0))] == [
        jinja2.Template(agent[key]).render(known) for key in ("system_template", "instance_template")]


def test_observations_are_those_of_mini_swe_agent():
    said = iter([message("one", "echo out; echo err >&2; exit 3"), message("two", "sleep 60"),
                 message("three", "seq 100000"), message("done", SUBMIT)])

    def policy(_):
        text = next(said)
        box.limits = Limits(seconds=0.5 if "sleep" in text else 60)
        return text

    with Sandbox(unsandboxed=UNSANDBOXED) as box:
        messages, status = run_agent(PolicyModel(policy), box, "fix it", TEMPLATES)
    seen = [m["content"] for m in messages if m["role"] == "user"][1:]
    assert status == "Submitted"
    assert seen[0] == "<returncode>3</returncode>\n<output>\nout\nerr\n</output>"
    assert seen[1] == ("<exception>An error occurred while executing the command: timed out after 0.5 seconds"
                       "</exception>\n<returncode>-1</returncode>\n<output>\n</output>")
    assert "488895 characters elided" in seen[2] and len(seen[2]) < 110_000  # 588,895 in all


IMPORTING = """
import dotenv, os, subprocess, sys
from pathlib import Path
def load(dotenv_path=None, **options):
    if Path(dotenv_path or "").parent.parent == Path(os.environ["TMPDIR"]):
        listed = subprocess.run(["ls", dotenv_path.parent], user=65534, group=65534, capture_output=True)
        print(oct(dotenv_path.parent.stat().st_mode & 0o777), listed.returncode != 0)
    return real(dotenv_path, **options)
real, dotenv.load_dotenv = dotenv.load_dotenv, load
import length_gen.tools.agent
print(os.environ.get("PLANTED"), os.environ.get("MSWEA_GLOBAL_CONFIG_DIR"), sorted(os.listdir(os.environ["TMPDIR"])))
"""


def imported(folder, **environment):
    return subprocess.run([sys.executable, "-c", IMPORTING], cwd=Path(__file__).parents[2], text=True, check=True,
                          env=os.environ | {"TMPDIR": folder, "LITELLM_MODE": "PRODUCTION"} | environment,
                          capture_output=True).stdout.splitlines()


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="root alone can act as two users")
def test_settings_that_another_user_planted_are_not_read():
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o1777)
        subprocess.run(["bash", "-c", "mkdir mini-swe-agent; echo PLANTED=yes | tee .env > mini-swe-agent/.env"],
                       cwd=folder, user=65534, group=65534, check=True)
        assert imported(folder) == ["0o700 True", "None None ['.env', 'mini-swe-agent']"]
        own = f"{folder}/mini-swe-agent"  # of the user, who says so
        assert imported(folder, MSWEA_GLOBAL_CONFIG_DIR=own)[1] == f"yes {own} ['.env', 'mini-swe-agent']"


BAD = {"no command": "I do not know.", "two commands": message("a", "ls") + message("b", "ls"), "nothing": "",
       "a template": "{{ cycler.__init__.__globals__.os.system('false') }}{% raise %}",
       "rubbish": "\x00\ufffd\x1b[2J```mswea_bash_command\nls", "another language": "```python\nprint(1)\n```"}


@pytest.mark.parametrize("bad", BAD)
def test_a_message_without_one_command_gets_the_format_error_and_the_loop_goes_on(bad):
    said = iter([BAD[bad], message("done", SUBMIT)])
    messages, status, _ = run(lambda _: next(said))
    assert status == "Submitted"
    count = 2 if bad == "two commands" else 0
    assert f"EXACTLY ONE action in triple backticks, found {count} actions" in messages[2]["content"]


def test_the_loop_ends_with_a_reason():
    messages, status, _ = run(lambda _: "nothing")
    assert status == "RepeatedFormatError" and len(messages) == 5
    _, status, _ = run(lambda _: message("again", "ls"), templates=Templates("a", "b", step_limit=3))
    assert status == "LimitsExceeded"


@pytest.fixture(scope="module")
def codec():
    return TextCodec.train([message("Run it.", "python3 main.py"), SUBMIT], 300)


def tool(codec, files=None):
    made = AgentTool(codec, "fix it", TEMPLATES, Limits(seconds=60), UNSANDBOXED, files or {"main.py": b"print(1)\n"})
    made.reset(())
    return made


def say(tool, codec, text):
    for token in codec.encode(text):
        assert tool.feed(token) == ()
    return tool.feed(codec.end_of_message)


def heard(codec, answer):
    assert not len(answer) or answer[-1] == codec.end_of_message
    return codec.decode(list(answer)[:-1])


def test_a_rollout_drives_the_loop_token_by_token(codec):
    row = tool(codec)
    assert heard(codec, say(row, codec, message("Run.", "python3 main.py; echo x > new"))).endswith("\n1\n</output>")
    assert "found 0 actions" in heard(codec, say(row, codec, "hm"))
    assert len(say(row, codec, message("Done.", SUBMIT))) == 0
    assert row.status == "Submitted" and row.files == {"main.py": b"print(1)\n", "new": b"x\n"}
    with pytest.raises(InvalidCommand, match=r"has ended .Submitted."):
        row.feed("a")
    row.reset(())
    assert row.status == "" and heard(codec, say(row, codec, message("", "ls"))).endswith("main.py\n</output>")
    row.close()
    assert row.files == {"main.py": b"print(1)\n"}


def test_a_loop_that_gives_up_ends_the_row(codec):
    row = tool(codec)
    for _ in range(2):
        assert "EXACTLY ONE" in heard(codec, say(row, codec, "\ufffd\x00"))
    with pytest.raises(InvalidCommand, match="RepeatedFormatError"):
        len(say(row, codec, "nothing"))
    row.close()


def test_a_row_that_is_cut_off_keeps_its_files(codec):
    row = tool(codec)
    answer = say(row, codec, message("", "echo 2 > main.py; sleep 0.2"))
    row.close()
    assert row.files == {"main.py": b"2\n"} and answer is not None
    row.close()


def test_rows_work_at_the_same_time(codec):
    rows = [tool(codec) for _ in range(6)]
    answers = [say(row, codec, message("", "sleep 54331")) for row in rows]
    deadline = time.monotonic() + 60
    while len(found := running("sleep 54331")) < len(rows) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(found) == len(rows)
    for pid in found:
        os.kill(pid, signal.SIGKILL)
    assert all("<returncode>" in heard(codec, answer) for answer in answers)
    for row in rows:
        row.close()
