"""A table as text, Markdown, LaTeX or HTML, and cells of a CSV file.

Cells are untrusted: names, titles and error messages come from files and answers. Each format escapes them, and
terminal control sequences are removed in every format.
"""

from __future__ import annotations

import csv
import html
import io
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tabulate import tabulate

from recbole_llm.utils.text import visible

BEST, SECOND = "best", "second"


@dataclass(frozen=True)
class TableCell:
    """One cell.

    Attributes:
        text: its content.
        rank: ``best`` (bold), ``second`` (underlined) or empty.
        tone: ``better``, ``worse`` or empty, shown as a colour in formats that have colours.
    """

    text: str
    rank: str = ""
    tone: str = ""


@dataclass
class RenderedTable:
    """One table.

    Attributes:
        title: its heading; empty where it continues the table above.
        header: names of the columns.
        rows: its cells.
        notes: lines below it.
        text_columns: how many columns from the left are text; the others are numbers.
    """

    title: str
    header: list[str]
    rows: list[list[TableCell]]
    notes: list[str] = field(default_factory=list)
    text_columns: int = 1


def screen_style() -> str:
    """``terminal`` where standard output is a terminal that shows bold and colour, else ``text``."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not sys.stdout.isatty()
    return "text" if plain else "terminal"


def _plain_cell(cell: TableCell) -> str:
    mark = {BEST: "**", SECOND: "_"}.get(cell.rank, "")
    return f"{mark}{cell.text}{mark}"


_BOLD, _UNDERLINED, _DIM, _RESET = "\x1b[1m", "\x1b[4m", "\x1b[2m", "\x1b[0m"
_TONES = {"better": "\x1b[32m", "worse": "\x1b[31m"}


def _terminal_cell(cell: TableCell) -> str:
    codes = {BEST: _BOLD, SECOND: _UNDERLINED}.get(cell.rank, "") + _TONES.get(cell.tone, "")
    return f"{codes}{cell.text}{_RESET}" if codes else cell.text


def _text(rendered: RenderedTable, cell: Callable[[TableCell], str]) -> str:
    return tabulate([list(map(cell, row)) for row in rendered.rows], rendered.header, "simple", disable_numparse=True)


def _plain(rendered: RenderedTable) -> str:
    title = [rendered.title, ""] if rendered.title else []
    return "\n".join([*title, _text(rendered, _plain_cell), *rendered.notes])


def _terminal(rendered: RenderedTable) -> str:
    title = [f"{_BOLD}{rendered.title}{_RESET}", ""] if rendered.title else []
    return "\n".join([*title, _text(rendered, _terminal_cell), *(f"{_DIM}{note}{_RESET}" for note in rendered.notes)])


def escape_markdown(text: str) -> str:
    """Text escaped so that Markdown shows it as it is, also in a table."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$])", r"\\\1", " ".join(text.split()))


def _markdown_cell(cell: TableCell) -> str:
    text = escape_markdown(cell.text)
    if cell.rank == BEST:
        return f"**{text}**"
    return f"<u>{text}</u>" if cell.rank == SECOND else text


def _markdown(rendered: RenderedTable) -> str:
    lines = [f"### {escape_markdown(rendered.title)}", ""] if rendered.title else []
    lines.append("| " + " | ".join(map(escape_markdown, rendered.header)) + " |")
    texts = rendered.text_columns
    lines.append("|" + "|".join([*[":--"] * texts, *["--:"] * (len(rendered.header) - texts)]) + "|")
    lines += ["| " + " | ".join(map(_markdown_cell, row)) + " |" for row in rendered.rows]
    return "\n".join(
        [*lines, *([""] if rendered.notes else []), *(f"- {escape_markdown(note)}" for note in rendered.notes)]
    )


_LATEX = {
    **{c: "\\" + c for c in "&%$#_{}"},
    **{"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"},
    **{"<": "\\textless{}", ">": "\\textgreater{}", "|": "\\textbar{}", '"': "{\\char34}"},
    **{"±": "$\\pm$", "↑": "$\\uparrow$", "↓": "$\\downarrow$", "−": "$-$", "Δ": "$\\Delta$", "…": "\\ldots{}"},
    **{"≈": "$\\approx$", "†": "$\\dagger$"},
}


def escape_latex(text: str) -> str:
    """Text escaped for LaTeX; characters that are not in the map are left to LaTeX's UTF-8 input.

    A quotation mark is given by its number: LaTeX's default encoding, OT1, has no command for it, and babel makes the
    character itself active in some languages.
    """
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def _latex_cell(cell: TableCell) -> str:
    text = escape_latex(cell.text)
    command = {BEST: "\\textbf", SECOND: "\\underline"}.get(cell.rank)
    return f"{command}{{{text}}}" if command else text


def _latex(rendered: RenderedTable) -> str:
    """A ``table`` environment, which needs the package booktabs."""
    columns = "l" * rendered.text_columns + "r" * (len(rendered.header) - rendered.text_columns)
    lines = ["\\begin{table}", "\\centering"]
    if rendered.title:
        lines.append(f"\\caption{{{escape_latex(rendered.title)}}}")
    lines += [f"\\begin{{tabular}}{{{columns}}}", "\\toprule"]
    lines.append(" & ".join(map(escape_latex, rendered.header)) + " \\\\")
    lines.append("\\midrule")
    rows = [" & ".join(map(_latex_cell, row)) + " \\\\" for row in rendered.rows]
    # After the \\ that ends a row, LaTeX would read a leading [ or * as an argument of \\.
    lines += [f"{{{row[0]}}}{row[1:]}" if row.startswith(("[", "*")) else row for row in rows]
    lines += ["\\bottomrule", "\\end{tabular}"]
    lines += [f"\\par\\smallskip{{\\footnotesize {escape_latex(note)}}}" for note in rendered.notes]
    return "\n".join([*lines, "\\end{table}"])


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Results</title>
<style>
:root { color-scheme: light dark; }
body { margin: 1.5rem; font: 15px/1.5 system-ui, sans-serif; }
section { overflow-x: auto; margin-bottom: 1.5rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .5rem 0; }
th, td { padding: .3rem .75rem; text-align: right; white-space: nowrap; border-bottom: 1px solid #8884; }
thead th { border-top: 2px solid; border-bottom: 1px solid; }
tbody tr:last-child td { border-bottom: 2px solid; }
.t { text-align: left; }
.better { color: #0a7a3d; }
.worse { color: #b3261e; }
@media (prefers-color-scheme: dark) { .better { color: #5fd08a; } .worse { color: #ff8a80; } }
p { margin: .15rem 0; font-size: .85rem; opacity: .8; }
</style>
</head>
<body>
"""


def _html_cell(cell: TableCell, is_text: bool) -> str:
    text = html.escape(cell.text)
    tag = {BEST: "b", SECOND: "u"}.get(cell.rank)
    classes = " ".join(filter(None, ["t" if is_text else "", cell.tone if cell.tone in _TONES else ""]))
    attribute = f' class="{classes}"' if classes else ""
    return f"<td{attribute}>{f'<{tag}>{text}</{tag}>' if tag else text}</td>"


def _html(rendered: RenderedTable) -> str:
    lines = ["<section>", "<table>"]
    if rendered.title:
        lines.append(f"<caption>{html.escape(rendered.title)}</caption>")
    names = [
        f'<th class="t">{html.escape(name)}</th>' if n < rendered.text_columns else f"<th>{html.escape(name)}</th>"
        for n, name in enumerate(rendered.header)
    ]
    lines.append(f"<thead><tr>{''.join(names)}</tr></thead>")
    lines.append("<tbody>")
    for row in rendered.rows:
        cells = [_html_cell(cell, n < rendered.text_columns) for n, cell in enumerate(row)]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    lines += ["</tbody>", "</table>", *(f"<p>{html.escape(note)}</p>" for note in rendered.notes), "</section>"]
    return "\n".join(lines)


_STYLES: dict[str, Callable[[RenderedTable], str]] = {
    "text": _plain,
    "terminal": _terminal,
    "markdown": _markdown,
    "latex": _latex,
    "html": _html,
}


def write(rendered_tables: Sequence[RenderedTable], style: str) -> str:
    """All tables in one format: ``text``, ``terminal``, ``markdown``, ``latex`` or ``html`` (a page with its style)."""
    text = "\n\n".join(_STYLES[style](_without_escapes(rendered)) for rendered in rendered_tables)
    return f"{_PAGE}{text}\n</body>\n</html>" if style == "html" else text


def _without_escapes(rendered: RenderedTable) -> RenderedTable:
    return RenderedTable(
        visible(rendered.title),
        list(map(visible, rendered.header)),
        [[replace(cell, text=visible(cell.text)) for cell in row] for row in rendered.rows],
        list(map(visible, rendered.notes)),
        rendered.text_columns,
    )


def csv_table(columns: Sequence[str], lines: Iterable[Mapping[str, str | float | None]]) -> str:
    """Lines as a CSV file with a header; a column that a line lacks is empty."""
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: csv_text(value) for name, value in line.items()} for line in lines)
    return out.getvalue().rstrip("\n")


_FORMULAS = ("=", "+", "-", "@", "＝", "＋", "－", "＠")


def csv_text(value: str | float | None) -> str:
    """A cell of a CSV file: floats with six digits, and text on one line that no spreadsheet takes for a formula.

    Text that begins with ``=``, ``+``, ``-``, ``@`` or one of their full-width forms gets an apostrophe in front
    (OWASP, "CSV injection").
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    text = " ".join(visible(str(value)).split())
    return f"'{text}" if isinstance(value, str) and text.startswith(_FORMULAS) else text
