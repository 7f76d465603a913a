"""Submissions to the judge: right ones of several styles, wrong ones, and hostile ones."""

import functools
import io
import re
import subprocess
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from unittest.mock import patch

from benchmarks.attackers.trial import NOBODY, Attack, Plain, Stage
from length_gen.datamodules import judge
from length_gen.datamodules.codebases import CodeBase, code_base
from length_gen.tools.sandbox import Limits, Sandbox, bubblewrap
from length_gen.tools.sandbox import sandbox as host

MAIN = re.compile(r"^(    v10 = )(\d+)$", re.MULTILINE)
FIXES = ("first", "last", "keyword", "default", "annotated", "crlf", "stderr", "builtins", "module", "guard",
         "exit", "thread")
"""Styles of right fixes."""


def fixed(code: CodeBase, style: str = "last", without: str = "") -> dict[str, bytes]:
    """The files with v10 passed along, but for the function `without`."""
    return {file: _fixed(code, file.removesuffix(".py"), content.decode(), style).encode()
            if file != f"{without}.py" else content for file, content in code.files().items()}


def _fixed(code: CodeBase, name: str, text: str, style: str) -> str:
    if style == "builtins":
        return MAIN.sub(r"\g<0>\n    import builtins\n    builtins.v10 = v10", text)
    if style == "module":
        return MAIN.sub(r"\g<0>\n    import sys\n    sys.modules['foo'].v10 = v10", "import foo as _\n" * (
            name == "main") + text)
    defined, given = {"annotated": ("v10: int", "v10"), "default": ("v10=None", "v10"),
                      "keyword": ("v10", "v10=v10")}.get(style, ("v10", "v10"))
    for target in code.to_fix():
        for start, put in ((f"def {target}", defined), (f"    {target}", given)):
            text = re.sub(rf"^({start})\(([^)]*)\)", rf"\1({put}, \2)" if style == "first" else rf"\1(\2, {put})",
                          text, flags=re.MULTILINE)
    if style == "annotated":
        return "# v10 goes along\n" + MAIN.sub(r"    v10: int = \2  # printed by foo", text)
    if style == "crlf":
        return text.replace("\n", "\r\n")
    if style == "stderr":
        return text.replace("def ", "import sys\nprint('starts', file=sys.stderr)\n\n\ndef ", 1)
    ends = {"guard": "if __name__ == '__main__':\n    main()", "exit": "import sys\nsys.exit(main())",
            "thread": "import threading\nthread = threading.Thread(target=main)\nthread.start()\nthread.join()"}
    return text.replace("\nmain()", f"\n{ends.get(style, 'main()')}")


def judged(code: CodeBase, files: Mapping[str, bytes]) -> judge.Verdict:
    """The judge's verdict; another judge in its place is the defence switched off."""
    return judge.check(code, files)


def in_foo(program: str) -> Callable[[CodeBase], dict[str, bytes]]:
    """The files without a fix, with a program at the beginning of foo.py; VISIBLE is the value that can be seen."""

    def make(code: CodeBase) -> dict[str, bytes]:
        text = program.replace("VISIBLE", str(code.functions["main"].declared["v10"]))
        return code.files() | {"foo.py": text.encode() + b"\n" + code.files()["foo.py"]}

    return make


def beside(more: Callable[[CodeBase], dict[str, bytes]]) -> Callable[[CodeBase], dict[str, bytes]]:
    """The files without a fix, and more."""
    return lambda code: code.files() | more(code)


def close_sandboxes() -> None:
    """Those that this thread keeps."""
    for box in host._thread.sandboxes.values():
        box.close()


def submission(kind: str, name: str, make: Callable[[CodeBase], Mapping[str, bytes]],
               off: Callable[[], AbstractContextManager]) -> Attack:
    """What is judged: it must be refused, a right fix after it accepted, and no fix refused."""

    def attempt(stage: Stage) -> str:
        code, after, found = code_base("attacks", 6), code_base("attacks, the next", 6), []
        with patch.object(judge, "LIMITS", replace(judge.LIMITS, seconds=3)):
            if not (verdict := judged(code, fixed(code))).fixed:
                raise AssertionError(f"this judge accepts no fix: {verdict.reason}")
            if judged(code, make(code)).fixed:
                found.append("counts as fixed")
            if not (verdict := judged(after, fixed(after))).fixed:
                found.append(f"the next fix is refused ({verdict.reason})")
            if judged(after, after.files()).fixed:
                found.append("the next code that is not fixed counts as fixed")
        close_sandboxes()
        return ", ".join(found)

    return Attack(kind, name, attempt, off)


@contextmanager
def old_judge() -> Iterator[None]:
    """A judge that runs what was left as it is, in its folder, with one value that can be foreseen."""
    box = Plain(user=NOBODY)

    def check(code: CodeBase, files: Mapping[str, bytes]) -> judge.Verdict:
        value = code.functions["main"].declared["v10"] + 100
        box.clear()
        box.write(dict(files) | {"main.py": re.sub(rb"(v10 = )\d+", b"\\g<1>%d" % value, files["main.py"])})
        result = box.run(f"exec {bubblewrap.python()} main.py")
        right = not result.returncode and result.output.splitlines() == code.expected(value)
        return judge.Verdict(right, result.output[-100:] * (not right), ())

    try:
        with patch(f"{__name__}.judged", check):
            yield
    finally:
        box.close()


class Foreseen:
    """Draws the visible value: of those below 100 the one that it may not draw."""

    def choice(self, values: list[int]) -> int:
        """The value below 100 that is not among `values`."""
        self.value = (set(range(100)) - set(values)).pop()
        return self.value

    def randrange(self, *_: int) -> int:
        """The same value again."""
        return self.value


def uncleared() -> AbstractContextManager:
    """A judge whose folder is the same for all."""
    return patch.object(Sandbox, "clear", lambda box: None)


def constants(value: int) -> Callable[[CodeBase], dict[str, bytes]]:
    """Prints what right code would print, were it declared as the visible value and `value`."""
    return lambda code: in_foo("import sys\n" + "".join(
        f"sys.stdout.write('{line}\\n')\n" for line in code.expected(code.functions["main"].declared["v10"] + value))
        + "sys.stdout.flush()\nsys.exit(0)")(code)


def zipped(code: CodeBase) -> dict[str, bytes]:
    """A main.py that Python takes for a zip file, with other code in it."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("__main__.py", constants(100)(code)["foo.py"])
    return {"main.py": code.files()["main.py"] + b"# " + data.getvalue()}


def bytecode(code: CodeBase) -> dict[str, bytes]:
    """What Python keeps of foo.py, but of another one, and never to be held against its source."""
    fixed_foo = PASSES + code.files()["foo.py"]
    compiler = ("import importlib.util as u, importlib._bootstrap_external as e, sys; sys.stdout.buffer.write("
                "e._code_to_hash_pyc(compile(sys.stdin.read(), 'foo.py', 'exec'), b'12345678', False))")
    made = subprocess.run([bubblewrap.python(), "-c", compiler], input=fixed_foo, stdout=subprocess.PIPE, check=True)
    return {f"__pycache__/foo.cpython-3{version}.pyc": made.stdout for version in VERSIONS}


PASSES = b"import builtins, re\nbuiltins.v10 = re.search(r'v10 = (\\d+)', open('main.py').read())[1]\n"
VERSIONS = range(9, 20)
SITE = [f".local/lib/python3.{version}/site-packages" for version in VERSIONS]



SUBMITTED = [
    ("foreseen values", "what is printed for the visible value", constants(0), functools.partial(
        patch.object, judge, "_values", Foreseen())),
    ("foreseen values", "what is printed for the visible value + 100", constants(100), old_judge),
    ("foreseen values", "a zip file as main.py", beside(zipped), old_judge),
    ("code beside the sources", "usercustomize.py in HOME", beside(
        lambda code: {f"{folder}/usercustomize.py": PASSES for folder in SITE}), old_judge),
    ("code beside the sources", "a .pth file in HOME", beside(
        lambda code: {f"{folder}/a.pth": b"import builtins; exec(%r)" % PASSES.decode() for folder in SITE}),
        old_judge),
    ("code beside the sources", "stale bytecode", beside(bytecode), old_judge),
    ("the next submission", "a full disk", in_foo("""
for i in range(99): open(f"full{i}", "wb").write(bytes(1 << 20))
"""), uncleared),
    ("the next submission", "as many hard links as there can be", in_foo("""
import os
for i in range(10 ** 5): os.link("foo.py", f"link{i}")
"""), uncleared),
    ("the next submission", "other code in the folder", in_foo("""
import os, threading
for folder in (".", "..", "../0", "../1"):
    for name in ("threading.py", "sitecustomize.py"): open(f"{folder}/{name}", "w").write("")
    os.chmod(f"{folder}/foo.py", 0)
    os.rename(f"{folder}/foo.py", f"{folder}/kept"); os.mkdir(f"{folder}/foo.py")
"""), uncleared),
    ("folders", "of mode 0", in_foo("import os\nos.chmod('.', 0)\nos.chmod('..', 0)\n"), old_judge),
    ("folders", "1,500 in each other", in_foo("""
import os
for _ in range(1500): os.mkdir("deeper"); os.chdir("deeper")
"""), old_judge),
    ("folders", "1,500 in each other, submitted", beside(
        lambda code: {"d/" * 1500 + "x.py": b"", "d/" * 3000 + "x.py": b""}), old_judge),
    ("names", "that are no text, submitted", beside(lambda code: {
        "\udcff.py": b"", "a\nb.py": b"", "x" * 255 + ".py": b"", "": b"", chr(0xD800) + ".py": b""}), old_judge),
    ("names", "of files outside", beside(lambda code: {
        "../out.py": b"", "/tmp/out.py": b"", "a/../../out.py": b"", "a\0.py": b"", "main.py/x.py": b""}), old_judge),
]

ORPHANS = """
import socket
server, kept = socket.create_server(("127.0.0.1", 0)), []
for _ in range(14):
    kept += [socket.create_connection(server.getsockname()), server.accept()[0]]
    for end in kept[-2:]: end.setsockopt(0, 21, 255)  # the least time to live: nothing arrives any more
    kept[-1].setblocking(False)
    try:
        while True: kept[-1].send(bytes(65536))
    except OSError: pass
"""
HOSTILE = {f"{kind}: {name}": make for kind, name, make, _ in SUBMITTED} | {
    "ends at once, well": in_foo("import os\nos._exit(0)"),
    "kills all": in_foo("import os\nos.kill(-1, 9)"),
    "kills its parent": in_foo("import os\nos.kill(os.getppid(), 9)"),
    "forks": in_foo("import os\nwhile True: os.fork()"),
    "takes memory": in_foo("kept = [bytearray(1 << 20) for _ in range(10 ** 5)]"),
    "takes memory in children": in_foo("""
import os, time
for _ in range(20):
    if os.fork() == 0: kept = bytearray(100 << 20); time.sleep(5); os._exit(0)
"""),
    "prints without end": in_foo("while True: print('x' * 9999)"),
    "prints late": in_foo("""
import os, time
if os.fork() == 0: time.sleep(0.1); print(1); os._exit(0)
"""),
    "changes what comes after": in_foo("""
import atexit, builtins, os, sys
atexit.register(os._exit, 0)
builtins.compile = builtins.exec = builtins.print = lambda *_, **__: None
sys.excepthook = lambda *_: os._exit(0)
"""),
    "closes its output": in_foo("import os\nfor fd in range(3): os.close(fd)"),
    "leaves sockets": in_foo(ORPHANS),
    "leaves links": in_foo("""
import os
for folder in (".", "../0", "../1", ".."):
    for name in ("foo.py", "main.py", "x"):
        try: os.unlink(f"{folder}/{name}")
        except OSError: pass
        os.symlink("/proc/self/mem", f"{folder}/{name}")
"""),
    "is 40 MB": beside(lambda code: {"large.py": b"#" * (40 << 20)}),
    "is 30,000 files": beside(lambda code: {f"{i}.py": b"" for i in range(30000)}),
}
SLOW = {
    "never ends": in_foo("while True: pass"),
    "stops all": in_foo("import os, signal\nos.kill(-1, signal.SIGSTOP)\nos.kill(os.getpid(), signal.SIGSTOP)"),
    "sleeps": in_foo("import time\ntime.sleep(999)"),
}
"""Submissions that are false. The slow ones end with the judge's limit on time."""


@contextmanager
def by_thread_number() -> Iterator[None]:
    """Sandboxes kept by the number of their thread, which another thread gets after it."""

    @functools.cache
    def new(use: str, limits: Limits, unsandboxed: bool, thread: int) -> Sandbox:
        return Sandbox(limits, unsandboxed)

    with patch.object(judge, "of_thread", lambda *key: new(*key, threading.get_ident())), \
            patch.object(Sandbox, "clear", lambda box: box._ask("clear")):
        yield


def judged_in_threads(stage: Stage) -> str:
    """Verdicts about right fixes, each in a thread of its own."""
    code, verdicts = code_base("attacks", 6), []
    for _ in range(4):
        thread = threading.Thread(target=lambda: verdicts.append(judged(code, fixed(code))))
        thread.start()
        thread.join()
    return f"{4 - sum(verdict.fixed for verdict in verdicts)} of 4 fixes refused" * any(
        not verdict.fixed for verdict in verdicts + [judge.Verdict(False, "", ())] * (4 - len(verdicts)))


SUBMISSIONS = [*(submission(*row) for row in SUBMITTED), Attack(
    "threads", "one that has the number of one that has ended", judged_in_threads, by_thread_number)]
