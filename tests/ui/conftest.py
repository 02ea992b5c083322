"""The page, served."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from finercam_clip.explainer import Explainer
from finercam_clip.ui.serve import launch


@pytest.fixture(scope="module")
def page(bundled: Explainer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, str]]:
    """The served page and its address."""
    pytest.importorskip("gradio", reason="the page is the extra `ui`")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        served, address = launch(bundled)
        yield served, address
        served.close(verbose=False)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says so if the page was not tried in a browser."""
    skipped = terminalreporter.getreports("skipped")
    count = sum("no browser" in str(report.longrepr) for report in skipped)
    if count:
        terminalreporter.write_line(f"skipped: no browser ({count} tests of the page)", yellow=True)
