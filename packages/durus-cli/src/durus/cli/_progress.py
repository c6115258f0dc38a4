"""A bar on a terminal for what takes more than a second."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Timer

from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from durus.cli._output import bytes_text, count_text, one_line, stderr_console

__all__ = ["progress"]

_DELAY_S = 1.0


@contextmanager
def progress(
    title: str, total: int | None = None, noun: str = "object"
) -> Iterator[Callable[[int], None]]:
    """Show how far the block has come, on stderr if that is a terminal, after one second.

    Args:
        title: what is being done, such as "packing app.durus".
        total: how many there are; without it, and until the first are done, the bar moves without
            a share, and the time that has passed stands in place of the time left.
        noun: what is counted; "byte" is written as kB, MB, ...

    Yields:
        A function that takes how many are done, to be called as often as is convenient.
    """
    console = stderr_console()
    if not console.is_terminal:
        yield lambda done: None  # noqa: ARG005 - nobody watches
        return
    columns = (TextColumn("{task.description}"), BarColumn(), _Done(noun), _Time())
    bar = Progress(*columns, console=console, transient=True)
    # Before the first come what tells nothing, such as a storage's look at itself.
    task = bar.add_task(one_line(title), total=None)
    delay = Timer(_DELAY_S, bar.start)
    delay.daemon = True
    delay.start()
    try:
        yield lambda done: bar.update(task, completed=done, total=total)
    finally:
        delay.cancel()
        delay.join()
        bar.stop()


class _Time(ProgressColumn):
    """The time that is left, or that has passed where that is not known."""

    def __init__(self) -> None:
        super().__init__()
        self._elapsed = TimeElapsedColumn()
        self._remaining = TimeRemainingColumn()

    def render(self, task: Task) -> Text:
        column = self._elapsed if task.total is None else self._remaining
        return column.render(task)


class _Done(ProgressColumn):
    """How many are done, and how many a second."""

    def __init__(self, noun: str) -> None:
        super().__init__()
        self._noun = noun

    def render(self, task: Task) -> Text:
        if not task.completed:
            return Text("")
        text = self._count(int(task.completed))
        return Text(f"{text}, {self._count(int(task.speed))}/s" if task.speed else text)

    def _count(self, count: int) -> str:
        return bytes_text(count) if self._noun == "byte" else count_text(count, self._noun)
