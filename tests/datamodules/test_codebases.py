import itertools
import re

import pytest

from length_gen.datamodules.codebases import code_base
from length_gen.tools import UserError


def calls(files: dict[str, bytes]) -> dict[str, set[str]]:
    """Who calls whom, read from the text of the files."""
    return {name.removesuffix(".py"): set(re.findall(r"^    (f\w+)\(", text.decode(), re.MULTILINE))
            for name, text in files.items()}


def on_paths(graph: dict[str, set[str]], node: str = "main", path: tuple[str, ...] = ()) -> set[str]:
    """All functions on any path from main to foo, by walking every path."""
    if node == "foo":
        return {*path, node}
    return set().union(*(on_paths(graph, callee, (*path, node)) for callee in graph[node]), set())


@pytest.mark.parametrize("n", [2, 3, 9, 60])
def test_a_code_base_is_what_it_says(n):
    code = code_base("a", n)
    files = code.files()
    graph = calls(files)
    assert len(files) == n and {"main.py", "foo.py"} <= files.keys() and code_base("a", n).files() == files
    assert all(re.fullmatch(r"main|foo|f\d{1,3}", name) for name in graph)
    assert code.to_fix() == on_paths(graph) - {"main"}
    reached, grown = {"main"}, True
    while grown:
        more = reached.union(*(graph[name] for name in reached))
        grown, reached = more != reached, more
    assert reached == graph.keys()  # nothing is dead code
    assert "v10 = " in files["main.py"].decode() and "print(v10)" in files["foo.py"].decode()
    others = "".join(text.decode() for name, text in files.items() if name not in ("main.py", "foo.py"))
    assert "v10" not in others


def test_seeds_and_sizes_share_nothing():
    texts = [code_base(seed, n).files()["main.py"] for seed, n in itertools.product(("1", "2"), (8, 9))]
    assert len(set(texts)) == 4
    for n in (0, 1, 1001):
        with pytest.raises(UserError, match=r"2 .main and foo. to 1000"):
            code_base("1", n)
