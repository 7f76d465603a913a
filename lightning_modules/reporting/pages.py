"""The pages that `report` makes: texts and figures by their place, made before anything is written."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure

from length_gen.lightning_modules.evaluation.plots import save_figure
from length_gen.lightning_modules.reporting.results import Run
from length_gen.tools.files import atomic_path

LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
MADE = "*Made by `python run.py report`; no number is typed by hand.*"
"""Every page ends with it, and so is known as one."""


@dataclass
class Pages:
    """A main page, `out`, and a folder beside it, of its name, with all other pages and the figures.

    results: the folder of results
    texts:   path -> lines
    figures: path -> what draws it
    """

    results: Path
    out: Path
    texts: dict[Path, str] = field(default_factory=dict)
    figures: dict[Path, Callable[[], Figure]] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where all pages but the main one are."""
        return self.out.with_suffix("")

    def add(self, name: str | None, lines: Sequence[str]) -> None:
        """A page of the folder, or the main one."""
        path = self.folder / f"{name}.md" if name else self.out
        up = [] if name is None else ["", f"[All results](../{self.out.name})"]
        self.texts[path] = "\n".join([*lines, *up]).rstrip() + f"\n\n{MADE}\n"

    def picture(self, name: str, what: str, draw: Callable[[], Figure], main: bool = False) -> list[str]:
        """Lines that show a figure, on the main page or another."""
        path = self.folder / "figures" / f"{name}.svg"
        self.figures[path] = draw
        return [f"![{what}]({os.path.relpath(path, self.out.parent if main else self.folder)})", ""]

    def link(self, name: str, text: str) -> str:
        """From the main page to another."""
        return f"[{text}]({self.folder.name}/{name}.md)"

    def file(self, run: Run, text: str) -> str:
        """From a page of the folder to a file of results, with its command, commit, device and versions."""
        return f"[{text}]({os.path.relpath(self.results / run.experiment / f'{run.name}.json', self.folder)})"

    def write(self) -> None:
        """Write all; what was made before and is not made any more stays (`stale`)."""
        for path, draw in self.figures.items():
            save_figure(draw(), path)
        for path, text in self.texts.items():
            with atomic_path(path) as temporary:
                temporary.write_text(text, encoding="utf-8")

    def stale(self) -> list[Path]:
        """Pages and figures that an earlier report has made and this one has not."""
        old = [path for path in sorted(self.folder.glob("*.md")) if path not in self.texts
               and path.read_text(encoding="utf-8", errors="replace").rstrip().endswith(MADE)]
        return old + [path for path in sorted((self.folder / "figures").glob("*.*")) if path not in self.figures]

    def wrong(self) -> list[str]:
        """What a report would change, and links that lead nowhere, a line each."""
        lines = [f"{path} is not what {self.results} gives: run `python run.py report`"
                 for path, text in self.texts.items()
                 if not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != text]
        lines += [f"{path} is not there: run `python run.py report`" for path in self.figures if not path.is_file()]
        lines += [f"{path} is made no more: remove it" for path in self.stale()]
        return lines + [f"{path} leads to {target}, which is not there" for path, text in self.texts.items()
                        for target in dict.fromkeys(LINK.findall(text))
                        if "://" not in target and not (path.parent / target).exists()
                        and path.parent / target not in self.figures]
