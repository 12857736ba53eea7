"""What the DNS server of the demo knows, and what the client asks it."""

from typing import Final

from dnslib import QTYPE, RR

DOMAIN: Final = "demo.example"

LONG: Final = " ".join(f'"{letter * 250}"' for letter in "abcdefghijkl")
"""A text of 3000 bytes: its answer fills three cells, so it comes back in fragments."""

ZONE: Final = f"""
{DOMAIN}.       60  IN  MX    10 mail.{DOMAIN}.
{DOMAIN}.       60  IN  TXT   "asked by nobody you know"
www.{DOMAIN}.   60  IN  A     192.0.2.80
www.{DOMAIN}.   60  IN  AAAA  2001:db8::80
long.{DOMAIN}.  60  IN  TXT   {LONG}
"""

QUESTIONS: Final = (
    (f"www.{DOMAIN}", "A"),
    (f"www.{DOMAIN}", "AAAA"),
    (DOMAIN, "MX"),
    (DOMAIN, "TXT"),
    (f"long.{DOMAIN}", "TXT"),
    (f"nobody.{DOMAIN}", "A"),
)
"""The last has no answer, and to be told so is the right answer."""


_RECORDS: Final = tuple(RR.fromZone(ZONE))


def expected(name: str, kind: str) -> list[str]:
    """The data of the records with this name and type, as text; none when there is no such name."""
    return [str(record.rdata) for record in _RECORDS if record.rname == name and QTYPE[record.rtype] == kind]
