"""Tables of accuracy by length for the terminal."""

from collections.abc import Iterable

from rich import box
from rich.table import Table
from rich.text import Text

from length_gen.lightning_modules.evaluation.metrics import CELL_FIELDS, DEFAULTS, Record, group_records

NOTHING = "\N{EM DASH}"

COLUMNS = ("length", "{} (95%)", "answer", "tokens", "problems", "first errors")


def records_table(records: Iterable[Record], train_length: int | None = None, title: str | None = None,
                  measure: str = "exact match") -> Table:
    """Accuracy by length, a section for each curve (task, variant, evaluator, ...); fits 80 columns.

    records:      records of metrics.json
    train_length: largest length of the training data; lengths up to it get an asterisk
    title:        by default what all records have in common, e.g. `addition, local, rollout`
    measure:      what exact match is called, where it is another share (`metrics.as_passes`)

    Exact match carries its 95% Wilson interval and is green at 100%, red at 0% and yellow between.
    """
    curves = group_records(records)
    common, labels = describe_cells(curves)
    sections = {cell: [_row(r, train_length) for r in curve] for cell, curve in curves.items()}
    rows = [row for section in sections.values() for row in section]
    # Sections are tables of their own, so that a heading may be as wide as the page; equal widths keep them aligned.
    widths = [max((row[i].cell_len for row in rows), default=0) for i in range(len(COLUMNS))]
    table = Table.grid()
    table.title, table.title_style = Text(title or common or "accuracy by length"), "bold"
    if train_length is not None:
        table.caption, table.caption_justify = f"* trained up to {train_length:,}", "left"
    for cell, section in sections.items():
        table.add_row(_section(labels[cell], section, widths, measure))
    if not sections:
        table.add_row(Text("no problems were evaluated", "dim"))
    return table


def _section(heading: str, rows: list[list[Text]], widths: list[int], measure: str) -> Table:
    section = Table(title=Text(heading) if heading else None, title_style="bold", title_justify="left",
                    box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))  # fmt: skip
    for name, width in zip(COLUMNS, widths, strict=True):
        left = name in (COLUMNS[1], COLUMNS[-1])
        last = name == COLUMNS[-1]  # the only one that may wrap
        name = name.format(measure)
        section.add_column(name, justify="left" if left else "right", no_wrap=not last, overflow="fold",
                           min_width=len(name) if last else max(width, len(name)))  # fmt: skip
    for row in rows:
        section.add_row(*row)
    return section


def describe_cells(cells: Iterable[tuple[str, ...]]) -> tuple[str, dict[tuple[str, ...], str]]:
    """What cells (tuples of `CELL_FIELDS`) have in common, and for each cell in what it differs, in words."""
    cells = list(cells)
    differs = [len({cell[i] for cell in cells}) > 1 for i in range(len(CELL_FIELDS))]
    common = [_name(i, value) for i, value in enumerate(cells[0])
              if value not in ("", DEFAULTS.get(CELL_FIELDS[i])) and not differs[i]] if cells else []
    labels = {}
    for cell in cells:
        names = [_name(i, value) for i, value in enumerate(cell) if value and differs[i]]
        missing = [f"no {field}" for field, value, d in zip(CELL_FIELDS, cell, differs, strict=True) if d and not value]
        labels[cell] = ", ".join(names or missing)
    return ", ".join(common), labels


def _name(field: int, value: str) -> str:
    return f"seed {value}" if CELL_FIELDS[field] == "seed" else value


def _row(record: Record, train_length: int | None) -> list[Text]:
    rate = record["exact_match"]
    low, high = (percent(record[f"exact_match_{end}"]).rstrip("%") for end in ("low", "high"))
    seen = train_length is not None and record["length"] <= train_length
    # A blank where others have an asterisk keeps the digits aligned.
    mark = "" if train_length is None else "*" if seen else " "
    return [
        Text(f"{record['length']:,}{mark}"),
        Text.assemble((f"{percent(rate):>6}", _colour(rate)), (f" ({low}\N{EN DASH}{high})", "dim")),
        Text(percent(record["answer_accuracy"])),
        Text(percent(record["token_accuracy"], 2)),
        Text(f"{record['problems']:,}"),
        _where(record["first_error"]),
    ]


def _where(first_error: Record | None) -> Text:
    if first_error is None:
        return Text(NOTHING, "dim")
    return Text(f"{first_error['phase'] or 'no phase'} @{first_error['position']:,}")


def _colour(rate: float) -> str:
    return "green" if rate == 1 else "red" if rate == 0 else "yellow"


def percent(rate: float | None, digits: int = 1) -> str:
    """A rate in [0, 1] as a percentage that reads 0% or 100% only if it is exactly that; an em dash for None."""
    if rate is None:
        return NOTHING
    if rate in (0, 1):
        return f"{rate:.0%}"
    step = 10.0**-digits
    if 100 * rate < step / 2:
        return f"<{step:.{digits}f}%"
    if 100 * (1 - rate) <= step / 2:
        return f">{100 - step:.{digits}f}%"
    return f"{100 * rate:.{digits}f}%"
