"""What a benchmark has beside its measurement: options, and records that are printed and written as they come.

    options = arguments(__doc__, "packing", trajectories=(10_000, "of each training"))
    records = Records(options.out, trajectories=options.trajectories)
    records.add({"what": "addition <= 5", "ours": 0.2})
    records.show()

`results/benchmarks/` has what they write, and `report` makes a page of it.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markdown import Markdown

from length_gen.lightning_modules.evaluation.metrics import write_metrics
from length_gen.lightning_modules.provenance import origin
from length_gen.lightning_modules.reporting.details import common
from length_gen.lightning_modules.reporting.text import cell


def arguments(doc: str, out: str | Callable[[argparse.Namespace], str], **options: Any) -> argparse.Namespace:
    """The options that the command line was given, and `out`, the file to write.

    doc:     of the benchmark's module, its help
    out:     path without .json, in results/benchmarks/ where it names no folder; or what makes it of the options
    options: a default, or (default, help); help None: it is not shown. False is a flag, a list takes several values, a
             mapping some of its keys (all, unless they are given), a type, or a list of one, has no default (None)
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, given in options.items():
        default, text = given if isinstance(given, tuple) else (given, "")
        kind: dict[str, Any] = {}
        if isinstance(default, Mapping):
            default = kind["choices"] = list(default)
        sample = default[0] if isinstance(default, list) else default
        if isinstance(default, list):
            kind["nargs"] = "+"
        if default is False:
            kind["action"] = "store_true"
        else:
            kind["type"] = sample if isinstance(sample, type) else type(sample)
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS if text is None else text,
                            default=None if isinstance(sample, type) else default, **kind)
    parser.add_argument("--out", help="file to write")
    parsed = parser.parse_args()
    name = out(parsed) if callable(out) else out
    parsed.out = parsed.out or f"{name if '/' in name else f'results/benchmarks/{name}'}.json"
    return parsed


class Records(list[dict[str, Any]]):
    """Records of a benchmark; each is printed and written when it is added.

    key:   names of values: a record takes the place of one of the file that has the same, and others stay, with the
           command, commit, device and versions that they were measured with. None: the file is begun anew
    out:   None: nothing is written
    facts: what else the file says of all its records
    """

    def __init__(self, out: str | Path | None, device: str | torch.device = "cpu", key: Sequence[str] | None = None,
                 **facts: Any) -> None:
        super().__init__()
        self.out, self.key, self.facts = out and Path(out).resolve(), key, facts
        self.origin = origin(torch.device(device))

    def add(self, record: dict[str, Any], **facts: Any) -> None:
        """Add a record, and what else the file says from now on."""
        self.append(record)
        self.facts |= facts
        print(", ".join(f"{name} {cell(value)}" for name, value in record.items()), flush=True)
        if self.out:
            records = self if self.key is None else self._among_those_before(record)
            write_metrics(self.out, records, **self.origin, **self.facts)

    def _among_those_before(self, record: dict[str, Any]) -> list[dict[str, Any]]:
        before = []
        if self.out.is_file():
            content = json.loads(self.out.read_text(encoding="utf-8"))
            of_all = {name: value for name, value in content.items() if name != "records" and name not in self.facts}
            before = [of_all | other for other in content["records"]]
        same = [place for place, other in enumerate(before)
                if all(other.get(name) == record[name] for name in self.key)]
        place = same[0] if same else len(before)
        return [*before[:place], record | self.origin, *before[place + 1 :]]

    def show(self) -> None:
        """Print all that were added as a table."""
        lines = common([{name: cell(value) for name, value in record.items()} for record in self])
        Console(width=160, emoji=False).print(Markdown("\n".join(lines)))
