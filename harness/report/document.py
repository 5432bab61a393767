"""What a report is before it is written in any format: sections of tables and figures, and what is said about all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.report.figures import Picture
from harness.report.load import Results
from harness.report.tables import Table


@dataclass
class Section:
    """What is compared under one dataset, clip shape, protocol and label mode: a table for each evaluator, figures for all of them."""

    title: str
    main: list[Table] = field(default_factory=list)
    figures: list[Picture] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass
class Report:
    """Everything a report says. words: method label -> what to call it."""

    results: Results
    sections: list[Section]
    overview: list[Table]
    failures: Table | None
    published: list[Table]
    warnings: list[str]
    words: Mapping[str, str]
    previews: bool = True

    @property
    def tables(self) -> list[Table]:
        found = [table for section in self.sections for table in (*section.main, *section.tables)]
        return [*self.overview, *found, *([self.failures] if self.failures else []), *self.published]

    @property
    def figures(self) -> list[Picture]:
        return [picture for section in self.sections for picture in section.figures]
