"""Tables for people: as text, whatever the terminal's width, and as HTML for notebooks."""

import html
import io


def text_table(columns: dict[str, list[str]], left: int = 1) -> str:
    """Columns of text by their titles; the last row is a total. The first `left` columns are flush left, the others right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for index, title in enumerate(columns):
        table.add_column(title, justify="right" if index >= left else "left", no_wrap=True)
    *rows, total = zip(*columns.values(), strict=True)
    for row in rows:
        table.add_row(*row)
    table.add_section()
    table.add_row(*total)
    # The width of the text, whatever that of the terminal: a table that is cut off or folded is not readable.
    console = Console(file=io.StringIO(), width=1000, color_system=None, markup=False, emoji=False)
    console.print(table)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines() if line.rstrip())


def html_table(columns: dict[str, list[str]]) -> str:
    """The same as HTML."""
    head = "".join(f"<th>{html.escape(title)}</th>" for title in columns)
    rows = ["<td>" + "</td><td>".join(html.escape(cell) for cell in row) + "</td>" for row in zip(*columns.values(), strict=True)]
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
