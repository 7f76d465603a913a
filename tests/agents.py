"""What the tests of code fixing share."""

import pytest

from length_gen.tools import UserError
from length_gen.tools.sandbox import check_bubblewrap


def _refusal() -> str:
    try:
        check_bubblewrap()
    except UserError as error:
        return str(error)
    return ""


REFUSAL = _refusal()
needs_bubblewrap = pytest.mark.skipif(bool(REFUSAL), reason=REFUSAL)
UNSANDBOXED = bool(REFUSAL)
"""Tests that need no escape-proof sandbox, whose commands are harmless, run without one where there is none."""
