"""A table of text cells, and how it is written in Markdown."""

import re
from collections.abc import Sequence
from typing import NamedTuple

Row = Sequence[str]


class Table(NamedTuple):
    """A table whose cells are text.

    `note`    a sentence below the table.
    `marked`  the indices of the rows in bold.
    `left`    how many leading columns hold words, which are aligned to the left; the others hold numbers.
    """

    title: str
    header: Row
    rows: Sequence[Row]
    note: str = ""
    marked: Sequence[int] = ()
    left: int = 1

    def markdown(self) -> str:
        """The grid without title and note, and without a line break at its end."""
        rule = ["---"] * self.left + ["---:"] * (len(self.header) - self.left)
        rows = [
            [f"**{cell}**" if cell and index in self.marked else cell for cell in map(_escape, row)]
            for index, row in enumerate(self.rows)
        ]
        return "\n".join(f"| {' | '.join(cells)} |" for cells in (map(_escape, self.header), rule, *rows))

    def section(self) -> str:
        """The title in bold, the grid and the note, with a line break at the end."""
        return "\n\n".join([f"**{self.title}**", self.markdown(), *filter(None, [self.note])]) + "\n"


def _escape(cell: str) -> str:
    """A cell that neither ends at a "|" nor starts an HTML tag."""
    return re.sub(r"<(?=[a-zA-Z/!?])", "&lt;", cell.replace("|", "\\|"))
