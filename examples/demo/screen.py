"""What a person sees: lines with a time, who says it, and what; colours only on a terminal."""

import os
import sys
import time
from typing import Final

BOLD: Final = "1"
DIM: Final = "2"
RED: Final = "31"
GREEN: Final = "32"
YELLOW: Final = "33"
CYAN: Final = "36"


class Screen:
    """Standard output, from now on."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"

    @property
    def seconds(self) -> float:
        """Since the demo began."""
        return time.monotonic() - self._began

    def heading(self, text: str) -> None:
        print(f"\n{self._styled(text, BOLD)}", flush=True)

    def line(self, who: str, text: str, style: str = "") -> None:
        clock = self._styled(f"{self.seconds:6.1f} s", DIM)
        print(f"{clock}  {self._styled(f'{who:<7}', CYAN)}  {self._styled(text, style)}", flush=True)

    def end(self, text: str, style: str) -> None:
        print(f"\n{self._styled(text, style)}", flush=True)

    def _styled(self, text: str, style: str) -> str:
        return f"\x1b[{style}m{text}\x1b[0m" if self._colours and style and text else text
