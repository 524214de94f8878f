"""How an error is told to a person: one red line on standard error."""

from __future__ import annotations

from rich.console import Console


def tell_error(text: str, *, kind: str = "error") -> None:
    from rich.markup import escape

    Console(stderr=True).print(f"[red]{kind}:[/red] {escape(text)}", soft_wrap=True, highlight=False)
