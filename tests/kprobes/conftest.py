"""Fixtures of the runtime's tests."""

import pytest

from tests.kprobes.fakemachine import MODES, FakeMachine


@pytest.fixture(params=MODES)
def every_mode(request, monkeypatch):
    """Run the test in each way of executing displaced instructions; return the options."""
    monkeypatch.setattr(FakeMachine, "mode", MODES[request.param])
    return MODES[request.param]
