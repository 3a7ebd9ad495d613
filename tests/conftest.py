"""Property tests repeat their examples; fault tests tell what they counted.

``--hypothesis-profile=explore`` draws new examples.
"""

from hypothesis import settings

# A failure that comes and goes tells nobody who made it; and a busy machine is no failure.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None, max_examples=300)
settings.load_profile("repeatable")


def pytest_terminal_summary(terminalreporter) -> None:
    """What tests recorded as ``counts``, which is read where nobody reads captured output."""
    counted = [
        (report.nodeid, value)
        for report in terminalreporter.stats.get("passed", ())
        for name, value in report.user_properties
        if name == "counts"
    ]
    if counted:
        terminalreporter.section("counts")
        for test, value in sorted(counted):
            terminalreporter.write_line(f"{test.rpartition('/')[2]}: {value}")
