"""A table as text, Markdown, LaTeX or HTML. Cells are untrusted text and are escaped for each format."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tabulate import tabulate

BEST, SECOND = "best", "second"


@dataclass(frozen=True)
class TableCell:
    """One cell.

    Attributes:
        text: what stands in it.
        rank: ``best`` (bold), ``second`` (underlined) or nothing.
    """

    text: str
    rank: str = ""


@dataclass
class RenderedTable:
    """One table.

    Attributes:
        title: heading of its own, or nothing where it continues the table above.
        header: names of the columns; the first column is text, the others are numbers.
        rows: its cells.
        notes: lines below it.
    """

    title: str
    header: list[str]
    rows: list[list[TableCell]]
    notes: list[str] = field(default_factory=list)


def _text_cell(cell: TableCell) -> str:
    mark = {BEST: "**", SECOND: "_"}.get(cell.rank, "")
    return f"{mark}{cell.text}{mark}"


def _plain(rendered: RenderedTable) -> str:
    rows = [[_text_cell(cell) for cell in row] for row in rendered.rows]
    table = tabulate(rows, rendered.header, "simple", disable_numparse=True)
    return "\n".join([*([rendered.title, ""] if rendered.title else []), table, *rendered.notes])


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is, in a table too."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$])", r"\\\1", " ".join(text.split()))


def _markdown_cell(cell: TableCell) -> str:
    text = escape_markdown(cell.text)
    if cell.rank == BEST:
        return f"**{text}**"
    return f"<u>{text}</u>" if cell.rank == SECOND else text


def _markdown(rendered: RenderedTable) -> str:
    lines = [f"### {escape_markdown(rendered.title)}", ""] if rendered.title else []
    lines.append("| " + " | ".join(map(escape_markdown, rendered.header)) + " |")
    lines.append("|" + "|".join([":--", *["--:"] * (len(rendered.header) - 1)]) + "|")
    lines += ["| " + " | ".join(map(_markdown_cell, row)) + " |" for row in rendered.rows]
    return "\n".join(
        [*lines, *([""] if rendered.notes else []), *(f"- {escape_markdown(note)}" for note in rendered.notes)]
    )


_LATEX = {
    **{c: "\\" + c for c in "&%$#_{}"},
    **{"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"},
    **{"<": "\\textless{}", ">": "\\textgreater{}", "|": "\\textbar{}", '"': "\\textquotedbl{}"},
    **{"±": "$\\pm$", "↑": "$\\uparrow$", "↓": "$\\downarrow$", "−": "$-$", "Δ": "$\\Delta$", "…": "\\ldots{}"},
}


def escape_latex(text: str) -> str:
    """Text as LaTeX prints it; characters that pdfLaTeX cannot print are left to its UTF-8 input."""
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def _latex_cell(cell: TableCell) -> str:
    text = escape_latex(cell.text)
    command = {BEST: "\\textbf", SECOND: "\\underline"}.get(cell.rank)
    return f"{command}{{{text}}}" if command else text


def _latex(rendered: RenderedTable) -> str:
    """A ``table`` that needs the package booktabs."""
    columns = "l" + "r" * (len(rendered.header) - 1)
    lines = ["\\begin{table}", "\\centering"]
    if rendered.title:
        lines.append(f"\\caption{{{escape_latex(rendered.title)}}}")
    lines += [f"\\begin{{tabular}}{{{columns}}}", "\\toprule"]
    lines.append(" & ".join(map(escape_latex, rendered.header)) + " \\\\")
    lines.append("\\midrule")
    lines += [" & ".join(map(_latex_cell, row)) + " \\\\" for row in rendered.rows]
    lines += ["\\bottomrule", "\\end{tabular}"]
    lines += [f"\\par\\smallskip{{\\footnotesize {escape_latex(note)}}}" for note in rendered.notes]
    return "\n".join([*lines, "\\end{table}"])


def _html_cell(cell: TableCell) -> str:
    text = html.escape(cell.text)
    tag = {BEST: "b", SECOND: "u"}.get(cell.rank)
    return f"<td>{f'<{tag}>{text}</{tag}>' if tag else text}</td>"


def _html(rendered: RenderedTable) -> str:
    lines = ["<table>"]
    if rendered.title:
        lines.append(f"<caption>{html.escape(rendered.title)}</caption>")
    lines.append("<thead><tr>" + "".join(f"<th>{html.escape(name)}</th>" for name in rendered.header) + "</tr></thead>")
    lines.append("<tbody>")
    lines += ["<tr>" + "".join(map(_html_cell, row)) + "</tr>" for row in rendered.rows]
    lines += ["</tbody>", "</table>", *(f"<p>{html.escape(note)}</p>" for note in rendered.notes)]
    return "\n".join(lines)


_STYLES: dict[str, Callable[[RenderedTable], str]] = {
    "text": _plain,
    "markdown": _markdown,
    "latex": _latex,
    "html": _html,
}


def write(rendered_tables: Sequence[RenderedTable], style: str) -> str:
    """All sheets in one format: ``text``, ``markdown``, ``latex`` or ``html``."""
    return "\n\n".join(_STYLES[style](rendered) for rendered in rendered_tables)
