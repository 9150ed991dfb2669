"""What became of the rows of a file of text, counted and said once."""

from typing import Any

from mmengine.logging import MMLogger

from ssm_train.data.datasets.row_tokens import RowTokens
from ssm_train.data.faults import Faults, Unusable


class RowReport:
    """Counts what became of the rows of a file, and says it once.

    Args:
        path: the file.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.rows = self.cut = self.left_off = self.open = 0
        self.faults = Faults("rows", path)

    @classmethod
    def of(cls, path: str, notes: dict[str, Any]) -> "RowReport":
        """A report with the counts that :meth:`notes` gave."""
        report = cls(path)
        report.rows, report.cut, report.left_off, report.open = notes["counts"]
        report.faults.kinds.update(notes["kinds"])
        # The file may have had another name.
        report.faults.first.update({k: words.replace(notes["path"], path) for k, words in notes["first"].items()})
        return report

    def notes(self) -> dict[str, Any]:
        """All counts, as JSON."""
        counts = [self.rows, self.cut, self.left_off, self.open]
        return {"path": self.path, "counts": counts, "kinds": dict(self.faults.kinds), "first": self.faults.first}

    def count(self, made: RowTokens) -> None:
        """Count a row that is used."""
        self.rows += 1
        self.cut += made.is_cut
        self.left_off += made.is_shortened
        self.open += not made.is_closed

    def leave_out(self, name: str, fault: Unusable) -> None:
        """Count a row that is left out."""
        self.rows += 1
        self.faults.add(fault.kind, f"{name} {fault}")

    def check(self) -> None:
        """Raise a :class:`DataError` if more than half of the rows are left out."""
        self.faults.check(self.rows)

    def say(self, max_length: int) -> None:
        """Log everything that a user has to know about the rows."""
        logger, of = MMLogger.get_current_instance(), f"of {self.rows} rows of {self.path}"
        for line in self.faults.lines(self.rows):
            logger.warning(line)
        if self.cut:
            logger.info(f"cut {self.cut} {of} at max_length={max_length} tokens")
        if self.left_off:
            logger.info(f"left off what follows the last response in {self.left_off} {of}")
        if self.open:
            logger.warning(
                f"the last response of {self.open} {of} does not end in the tokenizer's eos token, so that the model "
                "does not learn to stop there: the chat template has to write eos_token behind a response"
            )
