"""One self-contained HTML page from one or more run directories."""

from fedmem.report.page import write_report

__all__ = ["write_report"]
