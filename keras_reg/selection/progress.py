"""How far the fits have come."""

import contextlib
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def progress(total: int, shown: bool, title: str) -> Iterator[Callable]:
    """A bar of `rich`, where it is installed; calling what it gives says what came out, and how many more are done."""
    try:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        shown = False
    if not shown:
        yield lambda text, more=1: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[said]}"),
    )
    with Progress(*columns) as bar:
        task = bar.add_task(title, total=total, said="")
        yield lambda text, more=1: bar.update(task, advance=more, said=text)
