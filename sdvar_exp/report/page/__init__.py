"""One self-contained HTML file of a study, from the results store alone; see `write_page`."""

from sdvar_exp.report.page.live import Live
from sdvar_exp.report.page.write import LARGEST, write_page

__all__ = ["LARGEST", "Live", "write_page"]
