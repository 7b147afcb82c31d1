"""How `concord consensus` reads in a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table


def show_labelers(labelers: list[dict[str, Any]]) -> None:
    """The labelers as a table that fits 80 columns, and the evidence against those who are flagged."""
    table = Table(title="Labelers", title_justify="left")
    table.add_column("labeler", overflow="fold")
    table.add_column("judged to be", no_wrap=True)
    table.add_column("reliability, 95% interval", no_wrap=True)
    table.add_column("rankings", justify="right")
    for row in labelers:
        table.add_row(
            escape(row["labeler_id"]),
            row["kind"] + (" (flagged)" if row["flagged"] else ""),
            f"{row['reliability']:+.2f}  {row['low']:+.2f} to {row['high']:+.2f}",
            str(row["count"]),
        )
    console = Console()
    console.print(table)
    for row in labelers:
        if row["flagged"]:
            console.print(f"[bold]{escape(row['labeler_id'])}[/bold]: {escape(row['evidence'])}")
