"""A table as text, Markdown, LaTeX or HTML. Cells are untrusted text and are escaped for each format."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tabulate import tabulate

BEST, SECOND = "best", "second"


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: what stands in it.
        rank: ``best`` (bold), ``second`` (underlined) or nothing.
    """

    text: str
    rank: str = ""


@dataclass
class Sheet:
    """One table.

    Attributes:
        title: heading of its own, or nothing where it continues the table above.
        header: names of the columns; the first column is text, the others are numbers.
        rows: its cells.
        notes: lines below it.
    """

    title: str
    header: list[str]
    rows: list[list[Cell]]
    notes: list[str] = field(default_factory=list)


def _text_cell(cell: Cell) -> str:
    mark = {BEST: "**", SECOND: "_"}.get(cell.rank, "")
    return f"{mark}{cell.text}{mark}"


def _plain(sheet: Sheet) -> str:
    rows = [[_text_cell(cell) for cell in row] for row in sheet.rows]
    table = tabulate(rows, sheet.header, "simple", disable_numparse=True)
    return "\n".join([*([sheet.title, ""] if sheet.title else []), table, *sheet.notes])


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is, in a table too."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$])", r"\\\1", " ".join(text.split()))


def _markdown_cell(cell: Cell) -> str:
    text = escape_markdown(cell.text)
    if cell.rank == BEST:
        return f"**{text}**"
    return f"<u>{text}</u>" if cell.rank == SECOND else text


def _markdown(sheet: Sheet) -> str:
    lines = [f"### {escape_markdown(sheet.title)}", ""] if sheet.title else []
    lines.append("| " + " | ".join(map(escape_markdown, sheet.header)) + " |")
    lines.append("|" + "|".join([":--", *["--:"] * (len(sheet.header) - 1)]) + "|")
    lines += ["| " + " | ".join(map(_markdown_cell, row)) + " |" for row in sheet.rows]
    return "\n".join([*lines, *([""] if sheet.notes else []), *(f"- {escape_markdown(note)}" for note in sheet.notes)])


_LATEX = {
    **{c: "\\" + c for c in "&%$#_{}"},
    **{"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"},
    **{"<": "\\textless{}", ">": "\\textgreater{}", "|": "\\textbar{}", '"': "\\textquotedbl{}"},
    **{"±": "$\\pm$", "↑": "$\\uparrow$", "↓": "$\\downarrow$", "−": "$-$", "Δ": "$\\Delta$", "…": "\\ldots{}"},
}


def escape_latex(text: str) -> str:
    """Text as LaTeX prints it; characters that pdfLaTeX cannot print are left to its UTF-8 input."""
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def _latex_cell(cell: Cell) -> str:
    text = escape_latex(cell.text)
    command = {BEST: "\\textbf", SECOND: "\\underline"}.get(cell.rank)
    return f"{command}{{{text}}}" if command else text


def _latex(sheet: Sheet) -> str:
    """A ``table`` that needs the package booktabs."""
    columns = "l" + "r" * (len(sheet.header) - 1)
    lines = ["\\begin{table}", "\\centering"]
    if sheet.title:
        lines.append(f"\\caption{{{escape_latex(sheet.title)}}}")
    lines += [f"\\begin{{tabular}}{{{columns}}}", "\\toprule"]
    lines.append(" & ".join(map(escape_latex, sheet.header)) + " \\\\")
    lines.append("\\midrule")
    lines += [" & ".join(map(_latex_cell, row)) + " \\\\" for row in sheet.rows]
    lines += ["\\bottomrule", "\\end{tabular}"]
    lines += [f"\\par\\smallskip{{\\footnotesize {escape_latex(note)}}}" for note in sheet.notes]
    return "\n".join([*lines, "\\end{table}"])


def _html_cell(cell: Cell) -> str:
    text = html.escape(cell.text)
    tag = {BEST: "b", SECOND: "u"}.get(cell.rank)
    return f"<td>{f'<{tag}>{text}</{tag}>' if tag else text}</td>"


def _html(sheet: Sheet) -> str:
    lines = ["<table>"]
    if sheet.title:
        lines.append(f"<caption>{html.escape(sheet.title)}</caption>")
    lines.append("<thead><tr>" + "".join(f"<th>{html.escape(name)}</th>" for name in sheet.header) + "</tr></thead>")
    lines.append("<tbody>")
    lines += ["<tr>" + "".join(map(_html_cell, row)) + "</tr>" for row in sheet.rows]
    lines += ["</tbody>", "</table>", *(f"<p>{html.escape(note)}</p>" for note in sheet.notes)]
    return "\n".join(lines)


_STYLES: dict[str, Callable[[Sheet], str]] = {"text": _plain, "markdown": _markdown, "latex": _latex, "html": _html}


def write(sheets: Sequence[Sheet], style: str) -> str:
    """All sheets in one format: ``text``, ``markdown``, ``latex`` or ``html``."""
    return "\n\n".join(_STYLES[style](sheet) for sheet in sheets)
