"""How long work tells how far it is. The command line draws a bar; a run writes it down; a test stays silent."""

from typing import Protocol


class Progress(Protocol):
    """Called with the step's label, what is done, what there is to do, and a word on how it goes."""

    def __call__(self, label: str, done: int, total: int, note: str = "") -> None: ...


def silent(label: str, done: int, total: int, note: str = "") -> None:
    """Progress that nobody watches."""
