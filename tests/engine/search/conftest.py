"""A search as it may look, and its report."""

import pytest

from sweeps.engine.search.report import report_md
from tests.engine.search.views import realistic


@pytest.fixture(scope="module")
def snapshot():
    return realistic()


@pytest.fixture(scope="module")
def report(snapshot):
    return report_md(snapshot)
