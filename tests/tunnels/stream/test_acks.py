"""SPEC 13.5 for the receiver of packets."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnels.params import (
    ACK_DELAY,
    ACK_EVERY,
    ACK_MIN_DELAY,
    ACK_START,
    ACK_START_EVERY,
    MAX_ACK_RANGES,
    RECEIVED_RANGES,
)
from tunnels.stream.acks import Received, ack_delay


def warm() -> tuple[Received, int]:
    """One that is past the start, owes nothing, and the next packet number."""
    received = Received()
    for number in range(ACK_START):
        received.received(number, 0.0, ACK_DELAY, asks=True)
    received.told()
    return received, ACK_START


def test_an_ack_is_due_after_sixteen_packets_and_not_before() -> None:
    received, number = warm()
    for each in range(number, number + ACK_EVERY - 1):
        received.received(each, 1.0, ACK_DELAY, asks=True)
    assert received.due == 1.0 + ACK_DELAY
    received.received(number + ACK_EVERY - 1, 1.001, ACK_DELAY, asks=True)
    assert received.due == 1.001


def test_at_the_start_it_is_due_after_four() -> None:
    received = Received()
    for number in range(ACK_START_EVERY):
        assert received.due > 0.0
        received.received(number, 0.0, ACK_DELAY, asks=True)
    assert received.due == 0.0


def test_a_packet_that_asks_for_nothing_gets_nothing_but_is_listed_in_the_next_ack() -> None:
    received, number = warm()
    received.received(number, 1.0, ACK_DELAY, asks=False)
    assert not received.waiting
    assert received.due == float("inf")
    assert received.ack(1.0).ranges == ((0, number),)


def test_a_gap_is_told_when_the_other_end_can_call_it_a_loss_and_once() -> None:
    received, number = warm()
    for each in (number + 1, number + 2):
        received.received(each, 1.0, ACK_DELAY, asks=True)
        assert received.due == 1.0 + ACK_DELAY
    received.received(number + 3, 1.0, ACK_DELAY, asks=True)
    assert received.due == 1.0
    received.told()
    received.received(number + 4, 1.0, ACK_DELAY, asks=True)
    assert received.due == 1.0 + ACK_DELAY


def test_the_delay_is_that_of_the_highest_packet() -> None:
    received = Received()
    received.received(5, 1.0, ACK_DELAY, asks=True)
    received.received(3, 1.5, ACK_DELAY, asks=True)
    ack = received.ack(1.75)
    assert ack.delay == pytest.approx(0.75)
    assert ack.ranges == ((5, 5), (3, 3))


def test_what_is_remembered_is_bounded_and_what_is_forgotten_counts_as_seen() -> None:
    received = Received()
    for number in range(0, 20 * RECEIVED_RANGES, 2):
        received.received(number, 0.0, ACK_DELAY, asks=True)
    assert len(received.ack(0.0).ranges) == MAX_ACK_RANGES
    assert received.seen(1)
    assert received.seen(20 * RECEIVED_RANGES - 2)
    assert not received.seen(20 * RECEIVED_RANGES - 3)


@given(st.lists(st.integers(0, 50)))
def test_a_number_is_taken_once(numbers: list[int]) -> None:
    received, taken = Received(), set[int]()
    for number in numbers:
        assert received.seen(number) == (number in taken)
        if number not in taken:
            received.received(number, 0.0, ACK_DELAY, asks=True)
            taken.add(number)
    if taken:
        listed = {n for first, last in received.ack(0.0).ranges for n in range(first, last + 1)}
        assert listed == taken


@pytest.mark.parametrize(("rtt", "delay"), [(0.0, ACK_MIN_DELAY), (0.04, 0.01), (3.0, ACK_DELAY)])
def test_an_ack_waits_a_quarter_of_a_round_trip_within_bounds(rtt: float, delay: float) -> None:
    assert ack_delay(rtt) == pytest.approx(delay)
