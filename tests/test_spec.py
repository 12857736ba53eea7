"""Every citation of the protocol, "SPEC n.m", points at a section of docs/protocol.md."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "protocol.md").read_text()
SOURCES = sorted(
    path
    for folder in ("tunnels", "hidden", "dht", "node", "sim", "bench", "examples", "tests")
    for path in (ROOT / folder).rglob("*.py")
)
HEADING = re.compile(r"^#{2,3} (\d+(?:\.\d+)?)\.? ", re.MULTILINE)
CITATION = re.compile(r"\bSPEC (\d+(?:\.\d+)?(?:(?:, | and | to )\d+\.\d+)*)")
"""`SPEC 2`, `SPEC 4.5, 7.3`, `SPEC 2.1 and 2.2`, `SPEC 5.2 step 6`."""
SECTIONS = frozenset(HEADING.findall(PAGE))


def citations(text: str) -> Iterator[str]:
    for cited in CITATION.findall(text):
        yield from re.split(r", | and | to ", cited)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_section_that_is_cited_exists(path: Path) -> None:
    if path != Path(__file__):
        assert set(citations(path.read_text())) <= SECTIONS


def test_the_page_numbers_every_section_once_and_in_order() -> None:
    numbers = [tuple(int(part) for part in number.split(".")) for number in HEADING.findall(PAGE)]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == len(re.findall(r"^#{2,} ", PAGE, re.MULTILINE))


def test_citations_are_found_in_every_form_they_are_written_in() -> None:
    text = "(SPEC 2), SPEC 4.5, 7.3: SPEC 5.2 steps 4 and 10; SPEC 2.1 to 2.3, 16 bytes; SPECS 9.9"
    assert list(citations(text)) == ["2", "4.5", "7.3", "5.2", "2.1", "2.3"]


def test_a_section_that_does_not_exist_would_be_noticed() -> None:
    assert "9.9" not in SECTIONS
    assert {"1", "2.1", "10"} <= SECTIONS
