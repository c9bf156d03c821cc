"""What ``prepare`` shows."""

from __future__ import annotations

from tabulate import tabulate

from recbole_llm.prepare.prepare import PrepareReport

_LEFT_OUT = {
    "malformed_lines": "malformed lines",
    "repeats_of_user_and_item": "repeats of a user and an item",
    "rows_below_kcore": "rows by the k-core filter",
    "rows_without_title": "rows of items without a title",
    "rows_of_unknown_sessions": "rows of sessions without a user or a day",
}
_NOTED = {
    "items_without_record": "items have no metadata",
    "items_without_title": "items have metadata without a title",
    "repeated_item_records": "repeated records of an item were passed over",
    "lines_not_utf8": "lines hold bytes that are not UTF-8; they became U+FFFD",
    "sessions_listed_twice_or_undated": "sessions are listed twice or have no day",
}


def render_report(report: PrepareReport) -> str:
    """The counts beside the published ones, and what was left out."""
    record, counts = report.record, report.counts
    rows = [
        [name, f"{here:,}", "" if known is None else f"{known:,}", _mark(here, known)]
        for name, here, known in report.compared()
    ]
    done = "made" if report.fresh else "was prepared before; nothing to do (--force makes it anew)"
    lines = [
        f"{record['dataset']}: {done}",
        tabulate(rows, ["", "here", "published", ""], colalign=("left", "right", "right", "left")),
        f"{counts['rows_read']:,} rows read, {record['rules']['kcore']}-core. "
        + (_listed(_LEFT_OUT, counts, "left out: ") or "Nothing was left out."),
    ]
    lines += [f"  {example}" for example in record["malformed_examples"]]
    noted = _listed(_NOTED, counts, "")
    return "\n".join([*lines, *([noted] if noted else []), f"files: {report.folder}/"])


def _mark(here: int, known: int | None) -> str:
    return "" if known is None else "equal" if here == known else f"{here - known:+,}"


def _listed(words: dict[str, str], counts: dict[str, int], start: str) -> str:
    found = [f"{counts[key]:,} {text}" for key, text in words.items() if counts.get(key)]
    return f"{start}{'; '.join(found)}." if found else ""
