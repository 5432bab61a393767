"""What is compared in one table."""

from __future__ import annotations

from dataclasses import dataclass

from harness.report.tables import slug

LABEL_WORDS = {"hard": "hard labels", "soft": "soft labels of one teacher", "native": "each method's own labels"}


@dataclass(frozen=True)
class Group:
    """What is compared in one table: everything but the method and the IPC. shape: frames x height x width of a clip."""

    dataset: str
    shape: str
    evaluator: str
    protocol: str
    labels: str

    @property
    def name(self) -> str:
        """A file stem: letters, digits, dot and dash."""
        return slug(f"{self.dataset}-{self.shape}-{self.evaluator}-{self.protocol}-{self.labels}")

    @property
    def title(self) -> str:
        return f"{self.dataset} ({self.shape}), {self.evaluator}, protocol {self.protocol}, {LABEL_WORDS.get(self.labels, self.labels)}"

    @property
    def dataset_stem(self) -> str:
        return slug(f"{self.dataset}-{self.shape}")

    @property
    def stem(self) -> str:
        """A file stem without the evaluator, for figures that have a panel for each."""
        return slug(f"{self.dataset}-{self.shape}-{self.protocol}-{self.labels}")

    @property
    def reference(self) -> tuple[str, str, str, str]:
        """What a ``full`` cell must share with this group."""
        return (self.dataset, self.shape, self.evaluator, self.protocol)
