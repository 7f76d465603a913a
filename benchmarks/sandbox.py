"""What the sandbox costs: a sandbox, a command, a judgement and a whole trajectory, beside the same as plain processes.

    python benchmarks/sandbox.py

Sandboxed and plain take turns, so that a busy machine slows both. Prints a table of medians and writes
results/benchmarks/sandbox.json.
"""

import re
import time
from collections.abc import Callable
from statistics import median

from length_gen.datamodules.codebases import CodeBase, code_base
from length_gen.datamodules.collection import Collection
from length_gen.datamodules.judge import check
from length_gen.lightning_modules.reporting.measurements import Records, arguments
from length_gen.tools.sandbox import Sandbox


def main() -> None:
    """Time everything in turns, print and write."""
    options = arguments(__doc__, "sandbox", rounds=100)
    code = code_base("benchmark", 16)
    files, numbers = fixed(code), iter(range(10**9))

    def made(plain: bool) -> None:
        with Sandbox(unsandboxed=plain) as box:
            box.run("true")

    with Sandbox() as inside, Sandbox(unsandboxed=True) as outside:
        boxes = {False: inside, True: outside}
        for box in boxes.values():
            box.write({"main.py": b"print(1)\n"})
        things: dict[str, Callable[[bool], object]] = {
            "a new sandbox and its first command": made,
            "the command `true`": lambda plain: boxes[plain].run("true"),
            "the command `python3 main.py`": lambda plain: boxes[plain].run("python3 main.py"),
            "a judgement (16 functions)": lambda plain: check(code, files, plain),
            "a trajectory (interactive, 4 to 16 functions)": lambda plain: Collection(unsandboxed=plain).record(
                next(numbers) // 2)}
        records = Records(options.out, rounds=options.rounds)
        for name, thing in things.items():
            records.add(row(name, thing, options.rounds))
    records.show()


def row(name: str, thing: Callable[[bool], object], rounds: int) -> dict:
    """Medians in milliseconds of both, after one round that is not counted."""
    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(rounds + 1):
        for plain, seconds in times.items():
            begun = time.perf_counter()
            thing(plain)
            seconds.append(time.perf_counter() - begun)
    ours, alternative = (1000 * median(times[plain][1:]) for plain in (False, True))
    return {"what": name, "ours": ours, "alternative": alternative, "alternative_name": "plain processes",
            "unit": "ms", "ratio": ours / alternative}


def fixed(code: CodeBase) -> dict[str, bytes]:
    """The code base with v10 passed on, as the last argument."""
    files, names = code.files(), code.to_fix()
    for name in {*names, "main"}:
        text = files[f"{name}.py"].decode()
        for target in names:
            text = re.sub(rf"(^|def |    )({target}\([^)]*)\)", r"\1\2, v10)", text, flags=re.MULTILINE)
        files[f"{name}.py"] = text.encode()
    assert check(code, files).fixed
    return files


if __name__ == "__main__":
    main()
