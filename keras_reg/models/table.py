"""Tables of the reports on models: text for `print`, HTML for notebooks."""

import html
import io


def text_table(columns: dict[str, list[str]], total: bool = False, left: tuple[str, ...] = ()) -> str:
    """Columns of cells under their titles, the first and those named in `left` set flush left; a `total` is ruled off below."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for index, title in enumerate(columns):
        table.add_column(title, justify="right" if index and title not in left else "left", no_wrap=True)
    rows = list(zip(*columns.values(), strict=True))
    for index, row in enumerate(rows):
        if total and index == len(rows) - 1:
            table.add_section()
        table.add_row(*row)
    # The width of the text, whatever that of the terminal: a table that is cut off or folded is not readable.
    console = Console(file=io.StringIO(), width=1000, color_system=None, markup=False, emoji=False)
    console.print(table)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    return "\n".join(line for line in lines if line)


def html_table(columns: dict[str, list[str]]) -> str:
    head = "".join(f"<th>{html.escape(title)}</th>" for title in columns)
    rows = ["<td>" + "</td><td>".join(html.escape(cell) for cell in row) + "</td>" for row in zip(*columns.values(), strict=True)]
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
