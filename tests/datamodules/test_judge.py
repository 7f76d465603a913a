"""What is right and what is not, by the judge in its real sandbox."""

import os
import re
import time
from dataclasses import replace

import pytest

from length_gen.datamodules.codebases import code_base
from length_gen.datamodules.judge import Verdict, check, judge_sandbox
from length_gen.tools.sandbox import Limits
from tests.agents import UNSANDBOXED, needs_bubblewrap


def edited(files: dict[str, bytes], names: set[str], callers: set[str]) -> dict[str, bytes]:
    """v10 as the last argument: another fix than the scripted agents'."""
    result = dict(files)
    for name in callers:
        text = files[f"{name}.py"].decode()
        for target in names:
            text = re.sub(rf"(^|def |    )({target}\([^)]*)\)", r"\1\2, v10)", text, flags=re.MULTILINE)
        result[f"{name}.py"] = text.encode()
    return result


def test_the_largest_runs():
    code = code_base("1", 1000)
    names = code.to_fix()
    assert check(code, edited(code.files(), names, {*names, "main"}), UNSANDBOXED).fixed


@pytest.mark.parametrize("seed", range(6))
def test_any_fix_is_right_and_no_half_fix(seed):
    code = code_base(str(seed), 12)
    files, names = code.files(), code.to_fix()
    fixed = edited(files, names, {*names, "main"})
    verdict = check(code, fixed, UNSANDBOXED)
    assert verdict.fixed and verdict.needless == () and verdict.reason == ""
    assert check(code, files, UNSANDBOXED).reason == "exit status 1"
    for name in names:
        assert not check(code, {**fixed, f"{name}.py": files[f"{name}.py"]}, UNSANDBOXED).fixed
        assert not check(code, {file: text for file, text in fixed.items() if file != f"{name}.py"}, UNSANDBOXED).fixed


def test_what_only_looks_fixed_is_not(monkeypatch):
    code = code_base("3", 6)
    files, value = code.files(), code.functions["main"].declared["v10"]
    foo, main = files["foo.py"].decode(), files["main.py"].decode()
    cheats = {"a constant in foo": {"foo.py": foo.replace("print(v10)", f"print({value})")},
              "no print": {"foo.py": foo.replace("print(v10)", "pass")},
              "exit": {"foo.py": "import os\nos._exit(0)\n" + foo},
              "no declaration": {"main.py": main.replace("v10 =", "v11 =")},
              "two declarations": {"main.py": main.replace(f"v10 = {value}", f"v10 = {value}\n    v10 = {value}")},
              "endless": {"foo.py": "while True: pass\n"}}
    reasons = {}
    for name, changes in cheats.items():
        with monkeypatch.context() as patch:
            if name == "endless":
                patch.setattr("length_gen.datamodules.judge.LIMITS", Limits(seconds=0.5))
            verdict = check(code, files | {k: v.encode() for k, v in changes.items()}, UNSANDBOXED)
        assert not verdict.fixed and verdict.reason, name
        reasons[name] = verdict.reason
    assert [name for name, reason in reasons.items() if "timed out" in reason] == ["endless"]
    assert not check(code, {}, UNSANDBOXED).fixed
    unusual = check(code, files | {"foo.py": b"import builtins\n" + foo.replace("v10", "builtins.v10").encode(),
                                   "main.py": main.replace(f"v10 = {value}", f"v10 = {value}\n    import builtins\n"
                                                           "    builtins.v10 = v10").encode()}, UNSANDBOXED)
    assert unusual.fixed  # however it does so


def test_needless_edits_are_reported():
    code = code_base("5", 20)
    files, names = code.files(), code.to_fix()
    other = next(name for name in files if name.removesuffix(".py") not in {*names, "main"})
    left = edited(files, names, {*names, "main"}) | {other: files[other] + b"# a note\n", "new.py": b""}
    verdict = check(code, left, UNSANDBOXED)
    assert verdict.fixed and verdict.needless == tuple(sorted((other, "new.py")))


def fixed_base(seed="7", n=8):
    """A code base and a right fix of it."""
    code = code_base(seed, n)
    names = code.to_fix()
    return code, edited(code.files(), names, {*names, "main"})


@pytest.mark.parametrize("style", [
    lambda main, value: main.replace(f"v10 = {value}", f"v10 = {value}  # passed on"),
    lambda main, value: main.replace(f"v10 = {value}", f"v10: int = {value}"),
    lambda main, value: main.replace(f"v10 = {value}", f"v10={value}; unused = 1"),
    lambda main, value: main.replace(f"v10 = {value}", f"v10 = {value}\n    v10 = {value}"),
    lambda main, value: main.replace("\n", "\r\n"),
    lambda main, value: f"#!/usr/bin/python3\nimport sys\nprint('start', file=sys.stderr)\n{main}\nsys.exit(0)\n",
    lambda main, value: main.replace("\nmain()\n", "\nif __name__ == '__main__':\n    main()\n    exit()\n"),
    lambda main, value: "\ufeff" + main],
    ids=["comment", "type", "one line", "twice", "crlf", "stderr", "guard", "bom"])
def test_a_right_fix_is_right_however_it_is_written(style):
    code, fixed = fixed_base()
    main = style(fixed["main.py"].decode(), code.functions["main"].declared["v10"])
    assert main != fixed["main.py"].decode()
    assert check(code, fixed | {"main.py": main.encode()}, UNSANDBOXED) == Verdict(True, "", ())


def test_a_fix_that_imports_the_value_is_right():
    code = code_base("7", 8)
    files, value = code.files(), code.functions["main"].declared["v10"]
    main = files["main.py"].decode().replace(f"    v10 = {value}\n", "").replace("\nmain()\n", (
        "\nif __name__ == '__main__':\n    main()\n")).replace("def main", f"v10 = {value}\n\n\ndef main")
    foo = files["foo.py"].decode().replace("print(v10)", "from main import v10; print(v10)")
    assert check(code, files | {"main.py": main.encode(), "foo.py": foo.encode()}, UNSANDBOXED).fixed


@pytest.mark.parametrize("trick", ["constant", "value + 100", "user site", "home", "bytecode", "customize", "memory"])
def test_a_trick_is_no_fix(trick):
    code = code_base("7", 8)
    files, value = code.files(), code.functions["main"].declared["v10"]
    foo = files["foo.py"].decode()
    inject = b"import builtins\nbuiltins.v10 = 42\n"
    left = {"constant": {"foo.py": foo.replace("print(v10)", f"print({value})").encode()},
            "value + 100": {"foo.py": foo.replace("print(v10)", f"print({value + 100})").encode()},
            "user site": {".local/lib/python3.11/site-packages/usercustomize.py": inject,
                          ".local/lib/python3.11/site-packages/x.pth": b"import builtins; builtins.v10 = 42\n"},
            "home": {"usercustomize.py": inject, "sitecustomize.py": inject},
            "bytecode": {"__pycache__/foo.cpython-311.pyc": inject, "foo.pyc": inject},
            "customize": {"pyvenv.cfg": b"home = /repo\n", "sitecustomize.py": inject},
            # The judge is no process that the program could find, and knows no value that the program does not.
            "memory": {"foo.py": foo.replace("print(v10)", "import os; print(os.environ.get('v10'), open(f'/proc/"
                                                           "{os.getppid()}/cmdline').read()[-9:])").encode()}}
    verdict = check(code, files | left[trick], UNSANDBOXED)
    assert not verdict.fixed and verdict.reason


@needs_bubblewrap
@pytest.mark.parametrize("bad", [
    "for i in range(300): os.mkdir('d'); os.chdir('d')", "open('full', 'w').write('x' * 10**9)", "os.kill(-1, 9)",
    "os.kill(os.getppid(), 19)", "os.fork() or time.sleep(99)", "os.symlink('/proc/1/mem', 's')",
    "os.chmod('.', 0)", "os.write(1, b'0\\n' * 10**5)", "os.truncate('main.py', 0)", "os.fork()\n  while 1: os.fork()"])
def test_after_a_bad_program_the_judge_is_what_it_was(bad, monkeypatch):
    monkeypatch.setattr("length_gen.datamodules.judge.LIMITS", Limits(seconds=60, processes=20))
    box = judge_sandbox(False)
    code, fixed = fixed_base()
    foo = b"import os, time\ntry:\n  " + bad.encode() + b"\nexcept OSError:\n  pass\n" + code.files()["foo.py"]
    with monkeypatch.context() as patch:
        patch.setattr(box, "limits", replace(box.limits, seconds=1))
        assert not check(code, code.files() | {"foo.py": foo}).fixed
    assert check(code, fixed).fixed and judge_sandbox(False) is box


@needs_bubblewrap
@pytest.mark.parametrize("names", [
    {"x" * 300 + ".py": b""}, {"a/" * 2500 + "b.py": b""}, {os.fsdecode(b"\xff.py"): b"x"}, {"\ud800.py": b""},
    {"../x.py": b""}, {f"{i}.py": b"" for i in range(30_000)}, {"large.py": bytes(20 << 20)}, {"main.py/b.py": b""}],
    ids=["long", "deep", "bytes", "surrogate", "up", "many", "large", "both a file and a folder"])
def test_files_of_any_name_and_size_get_a_verdict(names):
    code, fixed = fixed_base()
    verdict = check(code, fixed | names)
    assert verdict.needless and (verdict.fixed == (os.fsdecode(b"\xff.py") in names))
    assert check(code, fixed).fixed


def test_a_declaration_is_found_in_time_that_grows_with_the_length():
    """With the square of it, 2^36 steps, it would take minutes."""
    code, fixed = fixed_base()
    start = time.process_time()
    assert not check(code, fixed | {"main.py": b"v10:" * (1 << 18)}, UNSANDBOXED).fixed
    assert time.process_time() - start < 20
