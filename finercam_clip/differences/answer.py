"""The answer: what tells two sets of pictures apart, as rows, a table and files."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from finercam_clip import render
from finercam_clip.differences.candidates import OTHERS, Candidates
from finercam_clip.differences.pictures import Block, block_picture, page_html, page_picture
from finercam_clip.differences.places import Place
from finercam_clip.differences.ranking import LEVEL, PERMUTATIONS, Ranking
from finercam_clip.files import make_folder, staged, write_whole
from finercam_clip.tables import defused, markdown

TABLE = 10  # rows


@dataclass(frozen=True)
class Row:
    """One text.

    Attributes:
        index: Its column in `Differences.scores`.
        text: The text.
        contrasts: What it is told apart from.
        more_in: The set that has more of it.
        instead: What the other set has more of instead, of the texts that are values of the same thing; or "".
        auroc: In which share of pairs, one picture of each set, that of `more_in` fits the text better: 0.5 says
            nothing, 1 tells them apart always. A tie counts half.
        low: Lower end of its 95 % interval.
        high: Upper end.
        effect: Cohen's d, 0 and up: the difference of the means over the spread within the sets.
        p: Of the Mann-Whitney test, for this text alone.
        corrected: p corrected for the number of texts (Benjamini-Hochberg).
        chance: How often the best of all texts does as well when the pictures are dealt out at random.
        said: 0..1, how much of its effect the texts above that say something new say already; all of it where one of
            them is a value of the same thing.
        new: Whether it says something that those above do not.
        sure: Whether it differs by its corrected p, and the best text by `Differences.by_chance`.
    """

    index: int
    text: str
    contrasts: tuple[str, ...]
    more_in: str
    instead: str
    auroc: float
    low: float
    high: float
    effect: float
    p: float
    corrected: float
    chance: float
    said: float
    new: bool
    sure: bool


@dataclass(frozen=True, eq=False)
class Differences:
    """What tells two sets of pictures apart.

    Attributes:
        names: What the sets are called.
        scores: Of the images of A and of B, [images, texts]: how far each text leads, in logits.
        rows: The texts, best first: those that say something new, then the others.
        places: Where the first rows have their evidence.
        by_chance: How often, when the pictures are dealt out at random, the best text does as well as here.
        notes: What should be known before the table is believed.
        model: The model.
    """

    names: tuple[str, str]
    scores: tuple[NDArray[np.float64], NDArray[np.float64]]
    rows: tuple[Row, ...]
    places: tuple[Place, ...]
    by_chance: float
    notes: tuple[str, ...]
    model: str

    def table(self, count: int = TABLE) -> str:
        """The first rows in Markdown, `TABLE` by default."""
        header = ["text", "more in", "pairs told apart", "effect", "corrected p", "said above", ""]
        cells = [
            [
                row.text,
                row.more_in,
                f"{row.auroc:.3f} [{row.low:.3f}, {row.high:.3f}]",
                f"{row.effect:.2f}",
                p_value(row.corrected),
                f"{row.said:.0%}",
                "new" if row.new else "" if row.sure else "chance?",
            ]
            for row in self.rows[:count]
        ]
        return markdown(header, cells, numbers=(2, 3, 4, 5))

    def to_csv(self) -> str:
        """Every text, a row each, in the order of `rows`."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        names = [field.name for field in fields(Row) if field.name != "index"]
        writer.writerow(names)
        for row in self.rows:
            writer.writerow([_cell(getattr(row, name)) for name in names])
        return buffer.getvalue()

    def blocks(self) -> list[Block]:
        """What the page shows of each of the first rows."""
        return [
            Block(
                title=f"{number}. {row.text}",
                side=self.names.index(row.more_in),
                sentences=tuple(self._sentences(row)),
                names=self.names,
                scores=(self.scores[0][:, row.index], self.scores[1][:, row.index]),
                place=place,
            )
            for number, (row, place) in enumerate(zip(self.rows, self.places, strict=False), 1)
        ]

    def headline(self) -> str:
        """The answer in one sentence."""
        new = [row for row in self.rows if row.new]
        if not new:
            return f"No text tells '{self.names[0]}' from '{self.names[1]}' more surely than chance."
        told = "; ".join(f"{row.text} ({row.more_in})" for row in new)
        return f"What tells '{self.names[0]}' from '{self.names[1]}': {told}."

    def sizes(self) -> str:
        """How many pictures and texts, and by which model."""
        a, b = (len(own) for own in self.scores)
        return f"{a} pictures of '{self.names[0]}', {b} of '{self.names[1]}'; {len(self.rows):,} texts; {self.model}"

    def picture(self, count: int | None = None) -> render.Picture:
        """The answer as one picture, uint8 [h, w, 3]: the headline, and the first `count` texts that have places."""
        blocks = self.blocks()[:count]
        return page_picture((self.headline(), self.sizes(), *self.notes), blocks)

    def save(self, folder: str | Path) -> Path:
        """Writes differ.csv, differ.png, index.html and its pictures: all of them, or none.

        Returns:
            The page, index.html.
        """
        folder = Path(folder)
        blocks = self.blocks()
        head = (self.headline(), self.sizes(), *self.notes)
        with staged(folder) as stage:
            make_folder(stage / "pictures")
            for number, block in enumerate(blocks, 1):
                render.write_picture(stage / "pictures" / f"{number}.png", block_picture(block))
            render.write_picture(stage / "differ.png", page_picture(head, blocks))
            write_whole(stage / "differ.csv", self.to_csv().encode())
            write_whole(stage / "index.html", page_html(head, blocks, self._listed()).encode())
        return folder / "index.html"

    def _sentences(self, row: Row) -> list[str]:
        other = self.names[1 - self.names.index(row.more_in)]
        low, high = 100 * row.low, 100 * row.high
        lines = [
            f"Take a picture of each set: in {100 * row.auroc:.0f} of 100 such pairs that of '{row.more_in}' fits "
            f"better (95 % interval {low:.0f} to {high:.0f}; 50 would say nothing)."
        ]
        if row.instead:
            lines.append(f"The pictures of '{other}' rather show '{row.instead}'.")
        against = row.contrasts[:3]
        more = f" and {len(row.contrasts) - 3} more" if len(row.contrasts) > 3 else ""
        lines.append(f"Compared with {', '.join(against) or OTHERS}{more}.")
        chance = f"Corrected for {len(self.rows):,} texts: p {p_value(row.corrected)}"
        lines.append(chance + (", more than chance." if row.sure else ", which may be chance."))
        if row.new:
            lines.append(f"{row.said:.0%} of it is said above; the rest is new." if row.said else "")
        elif row.sure:
            lines.append("A text above says the same." if row.said == 1 else f"{row.said:.0%} of it is said above.")
        return [line for line in lines if line]

    def _listed(self) -> list[list[str]]:
        """The cells of the page's table: every text that is sure, and some more."""
        return [
            [
                row.text,
                row.more_in,
                f"{100 * row.auroc:.0f} of 100 ({100 * row.low:.0f} to {100 * row.high:.0f})",
                f"{row.effect:.2f}",
                p_value(row.corrected),
                f"{row.said:.0%}",
            ]
            for row in self.rows
        ]


def rows_of(candidates: Candidates, ranking: Ranking, names: tuple[str, str]) -> tuple[Row, ...]:
    """The rows of a ranking, in its order."""
    sure = ranking.sure
    return tuple(
        _row(candidates, ranking, names, int(i), new=place < ranking.new, sure=bool(sure[i]))
        for place, i in enumerate(ranking.order)
    )


def _row(candidates: Candidates, ranking: Ranking, names: tuple[str, str], i: int, *, new: bool, sure: bool) -> Row:
    in_a = bool(ranking.effect[i] > 0 if ranking.effect[i] else ranking.auroc[i] >= 0.5)
    sign = 1 if in_a else -1
    auroc, low, high = float(ranking.auroc[i]), float(ranking.low[i]), float(ranking.high[i])
    if not in_a:
        auroc, low, high = 1 - auroc, 1 - high, 1 - low
    opposite = np.where(ranking.sure & (candidates.kin == candidates.kin[i]), -sign * ranking.effect, 0.0)
    best = int(opposite.argmax())
    return Row(
        index=i,
        text=candidates.concepts[i].label,
        contrasts=tuple(candidates.concepts[j].label for j in candidates.contrasts[i]),
        more_in=names[0 if in_a else 1],
        instead=candidates.concepts[best].label if opposite[best] > 0 and new else "",
        auroc=auroc,
        low=low,
        high=high,
        effect=abs(float(ranking.effect[i])),
        p=float(ranking.p[i]),
        corrected=float(ranking.corrected[i]),
        chance=float(ranking.chance[i]),
        said=float(ranking.said[i]),
        new=new,
        sure=sure,
    )


def p_value(p: float) -> str:
    """For people: three digits, and never 0."""
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def _cell(value: object) -> str:
    if isinstance(value, tuple):
        return defused(" | ".join(value))
    if isinstance(value, bool):
        return str(int(value))
    return f"{value:.6g}" if isinstance(value, float) else defused(str(value))


__all__ = ["LEVEL", "PERMUTATIONS", "Differences", "Row", "p_value", "rows_of"]
