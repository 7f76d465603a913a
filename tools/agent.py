"""mini-swe-agent's loop in the sandbox, driven by any policy, or token by token as the tool of a rollout."""

import os
import platform
import queue
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from length_gen.tools.base import InvalidCommand, Tool
from length_gen.tools.errors import UserError
from length_gen.tools.prompt import fill
from length_gen.tools.sandbox import FOLDER, Limits, Sandbox

os.environ.setdefault("MSWEA_SILENT_STARTUP", "1")
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else its import asks the network
with tempfile.TemporaryDirectory(prefix="mini-swe-agent-") as _empty:  # its import reads settings: none of others'
    _settings = os.environ.setdefault("MSWEA_GLOBAL_CONFIG_DIR", _empty)
    try:
        from jinja2 import StrictUndefined, Template
        from jinja2.sandbox import ImmutableSandboxedEnvironment
        from minisweagent.agents.default import AgentConfig, DefaultAgent
        from minisweagent.environments.local import LocalEnvironment
        from minisweagent.exceptions import LimitsExceeded
        from minisweagent.models.utils.actions_text import parse_regex_actions
    except ImportError as error:
        raise UserError(f"code fixing needs mini-swe-agent ({error}): pip install -e '.[codefix]'") from error
    finally:
        if _settings == _empty:  # what this process starts makes a folder of its own
            del os.environ["MSWEA_GLOBAL_CONFIG_DIR"]

SUBMITTED = "Submitted"

ACTION = r"```mswea_bash_command\s*\n(.*?)\n```"
"""What a command looks like in a message, as in mini-swe-agent's text models."""

FORMAT_ERROR = """\
Format error:

<error>
{{error}}
</error>

Please always provide EXACTLY ONE action in triple backticks, found {{actions|length}} actions."""

OBSERVATION = """\
{% if output.exception_info %}<exception>{{output.exception_info}}</exception>
{% endif %}<returncode>{{output.returncode}}</returncode>
{% if output.output|length <= limit %}<output>
{{output.output}}</output>{% else %}<output_head>
{{output.output[:limit // 2]}}
</output_head>
<elided_chars>
{{output.output|length - limit}} characters elided
</elided_chars>
<output_tail>
{{output.output[-(limit // 2):]}}
</output_tail>{% endif %}"""
"""What a command is answered by, in the words of mini-swe-agent's configurations."""

OBSERVATION_CHARACTERS = 100_000

Message = dict[str, Any]
Policy = Callable[[Sequence[Message]], str]
"""Messages so far (`role` and `content` each) -> what the agent writes next."""


@dataclass(frozen=True, slots=True)
class Templates:
    """The first two messages of an agent, which `tools.prompt.fill` fills in.

    step_limit: most messages of an agent; 0 is no limit
    """

    system: str
    instance: str
    step_limit: int = 0


def llm_templates(step_limit: int) -> Templates:
    """The messages that mini-swe-agent gives models which write their commands as text."""
    import yaml
    from minisweagent.config import builtin_config_dir  # not a file of that name in the working folder

    agent = yaml.safe_load((builtin_config_dir / "mini_textbased.yaml").read_text(encoding="utf-8"))["agent"]
    known = machine() | {"task": "{{task}}"}
    return Templates(*(_template(agent[key]).render(known) for key in ("system_template", "instance_template")),
                     step_limit)


def machine() -> dict[str, str]:
    """What messages may say of the sandbox; not the host's, for prompts must not depend on where they are made."""
    return {"cwd": FOLDER, "system": "Linux", "release": "", "version": "", "machine": platform.machine()}


def llm(config: Mapping[str, Any]) -> Any:
    """A model that mini-swe-agent can call, such as one behind an OpenAI-compatible endpoint.

    config: `model_name`, `model_class`, `model_kwargs` (`api_base`, `api_key`, ...) and what else the class takes
    """
    import litellm
    from minisweagent.models import get_model

    litellm.suppress_debug_info = True  # it prints beside the progress bar
    defaults = {"model_class": "litellm_textbased", "cost_tracking": "ignore_errors", "action_regex": ACTION,
                "format_error_template": FORMAT_ERROR,
                "observation_template": OBSERVATION.replace("limit", str(OBSERVATION_CHARACTERS))}
    return get_model(config=defaults | dict(config))


class SandboxEnvironment(LocalEnvironment):
    """mini-swe-agent's environment for a `Sandbox`: every command in a new shell, in the folder of the files."""

    def __init__(self, sandbox: Sandbox) -> None:
        super().__init__(cwd=FOLDER)
        self.sandbox = sandbox

    def execute(self, action: dict, cwd: str = "", *, timeout: int | None = None) -> dict[str, Any]:
        """Run `action["command"]`. Raises mini-swe-agent's Submitted if it submits."""
        result = self.sandbox.run(action.get("command", ""), timeout)
        exception = f"An error occurred while executing the command: {result.exceeded}" if result.exceeded else ""
        output = {"output": result.output, "returncode": result.returncode, "exception_info": exception}
        self._check_finished(output)
        return output

    def get_template_vars(self, **kwargs: Any) -> dict[str, Any]:
        """What the loop's templates may name of the machine."""
        return machine() | kwargs


class PolicyModel:
    """mini-swe-agent's model whose messages a policy writes; the command in them is parsed as for its text models."""

    def __init__(self, policy: Policy) -> None:
        self.config = AgentConfig(system_template="", instance_template="")  # the protocol asks for one
        self._policy = policy

    def query(self, messages: list[Message], **_: Any) -> Message:
        """The policy's next message, with the commands in it. Raises mini-swe-agent's FormatError where there is not
        one."""
        content = self._policy(messages)
        actions = parse_regex_actions(content, action_regex=ACTION, format_error_template=FORMAT_ERROR)
        return self.format_message(role="assistant", content=content, extra={"actions": actions, "cost": 0.0})

    def format_message(self, **message: Any) -> Message:
        """A message as mini-swe-agent keeps it: its parts as they are given, since no server wants them otherwise."""
        return message

    def format_observation_messages(self, message: Message, outputs: list[dict],
                                    template_vars: dict | None = None) -> list[Message]:
        """A user's message for each command's output, as an agent is told of it."""
        return [{"role": "user", "content": observation_text(output)} for output in outputs]

    def get_template_vars(self, **_: Any) -> dict[str, Any]:
        """Nothing: the templates name none of a model."""
        return {}

    def serialize(self) -> dict:
        """Nothing: a policy has no settings."""
        return {}


class Agent(DefaultAgent):
    """mini-swe-agent's loop; it keeps the trajectory in memory, instead of preparing it for a file at every step."""

    def save(self, path: Path | None, *extra_dicts: dict) -> dict:
        return super().save(path, *extra_dicts) if path else {}

    def _render_template(self, template: str) -> str:
        return fill(template, machine() | {"task": self.extra_template_vars["task"]})


def run_agent(model: Any, sandbox: Sandbox, task: str, templates: Templates) -> tuple[list[Message], str]:
    """Run mini-swe-agent's loop until it ends: all messages but the last, which says why it ended; and why.

    Raises what the model's `query` raises.
    """
    agent = Agent(model, SandboxEnvironment(sandbox), system_template=templates.system,
                  instance_template=templates.instance, step_limit=templates.step_limit, cost_limit=0.0)
    status = agent.run(task).get("exit_status", "")
    return [message for message in agent.messages if message.get("role") != "exit"], status


def prompt_messages(task: str, templates: Templates) -> list[Message]:
    """The first two messages of an agent."""
    return [{"role": role, "content": fill(text, machine() | {"task": task})}
            for role, text in (("system", templates.system), ("user", templates.instance))]


@cache
def _template(text: str) -> Template:
    """Of mini-swe-agent's templates or this file's; compiling one takes as long as a short command."""
    return ImmutableSandboxedEnvironment(undefined=StrictUndefined).from_string(text)


def observation_text(output: Mapping[str, Any]) -> str:
    """What an agent is told of a command's `output`, `returncode` and `exception_info`."""
    return _template(OBSERVATION).render(output=output, limit=OBSERVATION_CHARACTERS)


class Codec(Protocol):
    """Text <-> tokens, as they stand in a vocabulary; `end_of_message` is the token after every message."""

    end_of_message: str

    def encode(self, text: str) -> list[str]:
        """The tokens of what was said, of any length, without the one that ends a message."""
        ...

    def decode(self, tokens: Sequence[str]) -> str:
        """The text that tokens of the model stand for, whatever they are; the end of a message is no text."""
        ...


class AgentTool(Tool):
    """The tool of a rollout whose commands are messages: the agent loop runs in a thread, and the rollout is its model.

    Every token that the model writes belongs to a message; the one that ends it, [EOM], brings what the loop answers
    (an observation, or what was wrong with the message), also ended by [EOM]. When the agent has submitted, the
    observation is empty, and the model should end. InvalidCommand if the loop ends in another way (too many messages
    without a command, say), or if the model goes on after it has submitted.

    The answer is a sequence that is filled when it is first looked at, so that the sandboxes of several rows work at
    the same time. `close` ends the loop; `files` is then what it left.
    """

    def __init__(self, codec: Codec, task: str, templates: Templates, limits: Limits, unsandboxed: bool,
                 files: Mapping[str, bytes]) -> None:
        self.codec, self.task, self.templates = codec, task, templates
        self.limits, self.unsandboxed, self._first_files = limits, unsandboxed, files
        self.files: dict[str, bytes] = dict(files)
        self.status = ""
        self._thread: threading.Thread | None = None
        self._message: list[str] = []
        self._said: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._heard: queue.SimpleQueue[str | Exception | None] = queue.SimpleQueue()

    def reset(self, prompt: Sequence[str]) -> None:
        """The loop starts with the model's first message, so that rows which wait for their turn cost nothing."""
        self.close()
        self.files, self.status, self._message = dict(self._first_files), "", []

    def write(self, token: str) -> "Answer | tuple[str, ...]":
        if self.status:
            raise InvalidCommand(f"the agent has ended ({self.status}), but the model goes on")
        self._message.append(token)
        if token != self.codec.end_of_message:
            return ()
        text, self._message = self.codec.decode(self._message[:-1]), []
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
            self._heard.get()
        self._said.put(text)
        return Answer(self._hear)

    def close(self) -> None:
        """End the loop, if it runs, and keep the files that it left."""
        if self._thread is not None:
            self._said.put(None)
            self._thread.join()
            self._thread = None
            while not self._heard.empty():
                self._heard.get()
            while not self._said.empty():
                self._said.get()

    def _hear(self) -> Sequence[str]:
        heard = self._heard.get()
        if isinstance(heard, Exception):
            self.status = type(heard).__name__
            raise heard
        if heard is None:
            if self.status != SUBMITTED:
                raise InvalidCommand(f"the agent loop ended: {self.status}")
            return ()
        return [*self.codec.encode(heard), self.codec.end_of_message]

    def _run(self) -> None:
        seen = 0

        def query(messages: Sequence[Message]) -> str:
            nonlocal seen
            self._heard.put("\n".join(m["content"] for m in messages[seen:] if m["role"] != "assistant"))
            said, seen = self._said.get(), len(messages)
            if said is None:
                raise LimitsExceeded({"role": "exit", "content": "", "extra": {"exit_status": "Closed"}})
            return said

        try:
            with Sandbox(self.limits, self.unsandboxed) as sandbox:
                sandbox.write(self._first_files)
                _, status = run_agent(PolicyModel(query), sandbox, self.task, self.templates)
                self.files = sandbox.read()
        except Exception as error:
            self._heard.put(error)
        else:
            self.status = status
            self._heard.put(None)


class Answer(Sequence):
    """Observation tokens that are fetched when they are first looked at, which may raise."""

    def __init__(self, fetch: Callable[[], Sequence[str]]) -> None:
        self._fetch, self._tokens = fetch, None

    def _get(self) -> Sequence[str]:
        if self._tokens is None:
            self._tokens = self._fetch()
        return self._tokens

    def __len__(self) -> int:
        return len(self._get())

    def __getitem__(self, index: Any) -> Any:
        return self._get()[index]

    def __iter__(self) -> Iterator[str]:
        return iter(self._get())
