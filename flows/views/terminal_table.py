"""Tables, counts and amounts at the terminal.

A table has no lines, a dim header, and two spaces between its columns.
On a terminal that is too narrow for its figures and names, each row is shown as a block
of lines instead: nothing is cut.
"""

from collections.abc import Collection, Iterable, Iterator
from decimal import Decimal

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.styled import Styled
from rich.table import Column, Table
from rich.text import Text


def counted(number: int, noun: str) -> str:
    """`1 clip`, `12,000 clips`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def aligned(amounts: Iterable[Decimal]) -> list[str]:
    """Exact amounts for one column: cents, and as many places more as any of them needs."""
    known = [*amounts]
    exponents = [amount.normalize().as_tuple().exponent for amount in known]
    places = max([2, *(-each for each in exponents if isinstance(each, int))])
    return [f"{amount:,.{places}f}" for amount in known]


def terminal_table(
    *columns: str,
    right: Collection[str] = (),
    folds: Collection[str] = (),
    header: bool = True,
    gap: int = 2,
    row_gap: int = 0,
) -> Table:
    """An empty table; columns in `right` hold figures, those in `folds` may be wrapped."""
    table = _TerminalTable(
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


class _TerminalTable(Table):
    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> RenderResult:
        if self._least_width(console, options) <= options.max_width:
            yield from super().__rich_console__(console, options)
        else:
            yield from self._blocks()

    def _least_width(self, console: Console, options: ConsoleOptions) -> int:
        """The width at which no figure and no name is cut."""
        gaps = self.padding[1] * (len(self.columns) - 1)
        wide = options.update(width=10_000)

        def width(column: Column, cell: RenderableType) -> int:
            measured = Measurement.get(console, wide, cell)
            return measured.maximum if column.no_wrap else measured.minimum

        return gaps + sum(
            max(
                width(column, cell)
                for cell in [column.header if self.show_header else "", *column.cells]
            )
            for column in self.columns
        )

    def _blocks(self) -> Iterator[RenderableType]:
        """Each row as its first cell, with the others below it beside their names."""
        head, *rest = self.columns
        names = [str(column.header) for column in rest]
        rows = zip(*(column.cells for column in self.columns), strict=True)
        for number, (row, (first, *cells)) in enumerate(
            zip(self.rows, rows, strict=True)
        ):
            if number:
                yield ""
            block = Table.grid(padding=(0, 2, 0, 0))
            block.add_column(style="dim", min_width=max(map(len, names)), no_wrap=True)
            block.add_column(overflow="fold")
            for name, cell in zip(names, cells, strict=True):
                if not _empty(cell):
                    block.add_row(name, cell)
            if not _empty(first):
                yield Styled(Styled(first, head.style or ""), row.style or "")
            yield Styled(Padding(block, (0, 0, 0, 2)), row.style or "")


def _empty(cell: RenderableType) -> bool:
    return isinstance(cell, str | Text) and not str(cell)
