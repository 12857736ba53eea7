"""The example as it is run by its readers."""

import re
import subprocess
import sys
from typing import Final

from tests.support.house import ROOT

PATIENCE: Final = 120.0
"""Seconds for what takes four on an idle machine."""


def test_two_applications_ask_each_other_and_neither_is_asked_from_where_the_other_is() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "examples.embed_in_p2p_app"], cwd=ROOT, text=True, capture_output=True, timeout=PATIENCE
    )
    assert (done.returncode, done.stderr) == (0, "")
    first, where_first, second, where_second = done.stdout.splitlines()
    assert (first, second) == ("Leeks: behind the stove", "Onions: third shelf")
    for line, asking, asked in ((where_first, 11, 12), (where_second, 12, 11)):
        told = re.fullmatch(rf"  asked by 127\.{asking}\.0\.1; 127\.{asked}\.0\.1 was asked from ([\d.]+)", line)
        assert told, line
        assert told[1] not in {"127.11.0.1", "127.12.0.1"}
