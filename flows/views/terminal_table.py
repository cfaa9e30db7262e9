"""The one form of a table at the terminal: no lines, a dim header, two spaces between."""

from collections.abc import Collection

from rich.table import Table


def terminal_table(
    *columns: str,
    right: Collection[str] = (),
    folds: Collection[str] = (),
    header: bool = True,
    gap: int = 2,
    row_gap: int = 0,
) -> Table:
    """An empty table; columns in `right` hold figures, those in `folds` may be wrapped."""
    table = Table(
        box=None,
        padding=(0, gap, row_gap, 0),
        pad_edge=False,
        header_style="dim",
        show_header=header,
    )
    for name in columns:
        table.add_column(
            name,
            justify="right" if name in right else "left",
            no_wrap=name not in folds,
            overflow="fold" if name in folds else "ellipsis",
        )
    return table
