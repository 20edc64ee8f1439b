"""Rules for the whole suite: in CI no end-to-end test may be skipped, since a skip there would hide a hole."""

from __future__ import annotations

import os

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The end-to-end wheel runs last: a broken rule should show within seconds, not after a training run."""
    items.sort(key=lambda item: item.get_closest_marker("e2e") is not None)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    """Turn a skipped end-to-end test into a failure where CI=true."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("CI") == "true" and item.get_closest_marker("e2e") is not None:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and CI must run every end-to-end test"
