"""RFC 9002, as tests; numbers in brackets are its sections."""

from dataclasses import dataclass, field

import pytest

from tests.tunnels.stream.pair import make_rng
from tunnels.errors import RemoteError, TransientError
from tunnels.params import (
    ACK_DELAY,
    INITIAL_RTT,
    MAX_PACKET_NUMBER,
    MAX_PROBE_TIMEOUT,
    PACKET_THRESHOLD,
    PROBES,
    SKIP_EVERY,
    TIME_THRESHOLD,
)
from tunnels.stream.congestion import Pacer, RateSample
from tunnels.stream.recovery import Recovery, RttEstimator


@dataclass
class Fixed:
    """A `Congestion` that writes down what it is told."""

    window: int = 1000
    pacing_rate: float = 1e6
    samples: list[RateSample] = field(default_factory=list)
    lost: int = 0
    persistent: int = 0

    def on_sent(self, in_flight: int, now: float) -> None:
        pass

    def on_acked(self, sample: RateSample, now: float) -> None:
        self.samples.append(sample)

    def on_lost(self, lost: int, in_flight: int, newest_sent: float, now: float) -> None:
        self.lost += lost

    def on_persistent_congestion(self, now: float) -> None:
        self.persistent += 1


@dataclass
class Carrier:
    arrived: list[int] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)

    def acked(self, start: int, end: int, fin: bool, /) -> None:  # noqa: FBT001
        self.arrived.append(start)

    def lost(self, start: int, end: int, fin: bool, /) -> None:  # noqa: FBT001
        self.gone.append(start)


class Sender:
    """Packets whose record says which they are; the numbers they got are in `numbers`."""

    def __init__(self) -> None:
        self.congestion = Fixed()
        self.recovery = Recovery(self.congestion, make_rng())
        self.carrier = Carrier()
        self.numbers: list[int] = []

    def send(self, now: float, packets: int = 1) -> None:
        for _ in range(packets):
            number = self.recovery.next_number()
            self.recovery.on_sent(number, ((self.carrier, len(self.numbers), 0, False),), now)
            self.numbers.append(number)

    def ack(self, now: float, *packets: int, delay: float = 0.0) -> None:
        ranges = tuple((self.numbers[packet],) * 2 for packet in sorted(packets, reverse=True))
        self.recovery.on_ack(ranges, delay, now)


def timer_of(sender: Sender) -> float:
    timer = sender.recovery.next_timer()
    assert timer is not None
    return timer


def test_the_first_sample_sets_everything_5_2() -> None:
    rtt = RttEstimator()
    assert (rtt.smoothed_rtt, rtt.rttvar) == (INITIAL_RTT, INITIAL_RTT / 2)
    rtt.update(0.1, 0.02)
    assert (rtt.min_rtt, rtt.smoothed_rtt, rtt.rttvar) == (0.1, 0.1, 0.05)


def test_a_lie_about_the_delay_neither_goes_below_the_minimum_nor_beyond_what_was_promised_5_3() -> None:
    rtt = RttEstimator()
    rtt.update(0.1, 0.0)
    rtt.update(0.11, 0.02)
    assert rtt.smoothed_rtt == pytest.approx(0.875 * 0.1 + 0.125 * 0.11)
    rtt = RttEstimator()
    rtt.update(0.1, 0.0)
    rtt.update(1.0, 0.9)
    assert rtt.smoothed_rtt == pytest.approx(0.875 * 0.1 + 0.125 * (1.0 - ACK_DELAY))


def test_a_packet_is_lost_three_below_an_acknowledged_one_and_not_before_6_1_1() -> None:
    sender = Sender()
    sender.send(0.0, 5)
    sender.ack(0.1, 1, PACKET_THRESHOLD - 1)
    assert sender.carrier.gone == []
    sender.ack(0.1, PACKET_THRESHOLD)
    assert sender.carrier.gone == [0]
    assert sender.congestion.lost == 1
    assert sender.recovery.in_flight == 1


def test_a_packet_is_lost_nine_eighths_of_a_round_trip_after_it_was_sent_6_1_2() -> None:
    sender = Sender()
    sender.send(0.0)
    sender.send(0.01)
    sender.ack(0.11, 1)
    due = sender.recovery.next_timer()
    assert due == pytest.approx(TIME_THRESHOLD * 0.1)
    sender.recovery.handle_timer(0.112)
    assert sender.carrier.gone == []
    sender.recovery.handle_timer(0.113)
    assert sender.carrier.gone == [0]


def test_silence_is_probed_with_what_is_oldest_and_ever_more_slowly_6_2() -> None:
    sender = Sender()
    sender.send(0.0, 4)
    first = timer_of(sender)
    assert first == pytest.approx(INITIAL_RTT + 4 * INITIAL_RTT / 2 + ACK_DELAY)
    sender.congestion.window = 4
    assert sender.recovery.allowance(first) == 0
    sender.recovery.handle_timer(first)
    assert sender.carrier.gone == [0, 1]
    assert sender.recovery.in_flight == 4, "a timeout alone calls nothing lost"
    assert sender.congestion.lost == 0
    assert sender.recovery.allowance(first) == PROBES
    second = timer_of(sender)
    assert second == pytest.approx(first + 2 * first)
    now = second
    for _ in range(20):
        sender.recovery.handle_timer(now)
        following = timer_of(sender)
        assert following - now <= MAX_PROBE_TIMEOUT + 1e-6
        now = following


def test_an_acknowledgement_ends_the_back_off() -> None:
    sender = Sender()
    sender.send(0.0, 2)
    sender.recovery.handle_timer(5.0)
    sender.recovery.handle_timer(20.0)
    sender.ack(20.1, 0)
    assert sender.recovery.probes == 0
    timer = sender.recovery.next_timer()
    assert timer is not None
    assert timer < 20.0 + 100


def test_nothing_on_the_way_needs_no_timer() -> None:
    sender = Sender()
    assert sender.recovery.next_timer() is None
    sender.send(0.0)
    sender.ack(0.1, 0)
    assert sender.recovery.next_timer() is None


def test_persistent_congestion_is_told_when_all_was_lost_over_three_timeouts_and_not_otherwise_7_6() -> None:
    for between, told in ((False, 1), (True, 0)):
        sender = Sender()
        sender.send(0.0)
        sender.ack(0.1, 0)
        timeout = sender.recovery.rtt.probe_timeout
        sender.send(0.2)
        sender.send(0.2 + 1.6 * timeout)
        if between:
            sender.ack(0.3 + 1.6 * timeout, 2)
        sender.send(0.2 + 3.2 * timeout)
        sender.send(0.2 + 3.3 * timeout, 4)
        sender.ack(0.3 + 3.3 * timeout, 7)
        assert sender.congestion.persistent == told


def test_who_acknowledges_what_was_never_sent_is_found_out() -> None:
    sender = Sender()
    sender.send(0.0, 3)
    with pytest.raises(RemoteError, match="never sent"):
        sender.recovery.on_ack(((0, 3),), 0.0, 0.1)


def test_who_acknowledges_a_number_that_was_left_out_is_found_out() -> None:
    sender = Sender()
    sender.send(0.0, 2 * SKIP_EVERY)
    left_out = set(range(sender.numbers[-1])) - set(sender.numbers)
    assert left_out
    with pytest.raises(RemoteError, match="left out"):
        sender.recovery.on_ack(((0, sender.numbers[-1]),), 0.0, 0.1)


def test_numbers_are_left_out_at_places_that_differ() -> None:
    def places(seed: int) -> list[int]:
        recovery = Recovery(Fixed(), make_rng(seed))
        numbers = {recovery.next_number() for _ in range(20 * SKIP_EVERY)}
        return sorted(set(range(max(numbers))) - numbers)

    one, two = places(1), places(2)
    assert 10 < len(one) < 60
    assert not set(one) & set(two)


def test_a_left_out_number_is_no_loss_and_does_not_pile_up() -> None:
    sender = Sender()
    for turn in range(100):
        sender.send(turn / 10, 64)
        sender.ack(turn / 10 + 0.05, *range(64 * turn, 64 * turn + 64))
    assert sender.recovery.lost_packets == 0
    assert sender.recovery.in_flight == 0
    assert len(sender.recovery._sent) <= 2  # noqa: SLF001 (a bound nobody else can see)


def test_what_comes_late_is_not_sent_again_the_next_time_6_1_1() -> None:
    sender = Sender()
    sender.send(0.0, 10)
    sender.ack(0.1, 6, 7, 8, 9)
    assert sender.carrier.gone == [0, 1, 2, 3, 4, 5]
    sender.ack(0.11, *range(10))
    assert sorted(sender.carrier.arrived) == list(range(10))
    assert sender.recovery.late_packets == 6
    sender.send(0.2, 10)
    sender.ack(0.3, 16, 17, 18, 19)
    assert sender.carrier.gone == [0, 1, 2, 3, 4, 5], "the path reorders by that much"


def test_the_rate_is_what_was_delivered_between_sending_and_acknowledging() -> None:
    sender = Sender()
    sender.send(0.0)
    sender.ack(0.1, 0)
    for tick in range(40):
        sender.send(1.0 + tick / 100)
        if tick >= 10:
            sender.ack(1.0 + tick / 100, 1 + tick - 10)
    assert sender.congestion.samples[-1].rate == pytest.approx(100, rel=0.02)


def test_rates_of_a_sender_with_too_little_to_send_are_marked() -> None:
    sender = Sender()
    sender.send(0.0)
    sender.recovery.app_limited()
    sender.send(0.05)
    sender.ack(0.1, 0)
    sender.ack(0.15, 1)
    assert [sample.app_limited for sample in sender.congestion.samples] == [False, True]


def test_hostile_acks_do_not_make_us_count_through_numbers_that_asked_for_none() -> None:
    recovery = Recovery(Fixed(), make_rng())
    numbers = [recovery.next_number() for _ in range(100_000)]
    assert len(list(recovery._numbers(0, numbers[-1]))) < 1000  # noqa: SLF001 (the cost is what is tested)


def test_when_all_numbers_are_used_another_circuit_is_needed() -> None:
    recovery = Recovery(Fixed(), make_rng())
    recovery._next = recovery._skip = MAX_PACKET_NUMBER  # noqa: SLF001 (2^32 packets take a week)
    with pytest.raises(TransientError):
        recovery.next_number()


def test_a_pacer_lets_a_quantum_go_and_keeps_the_rate() -> None:
    pacer, rate, now, gone = Pacer(), 10_000.0, 5.0, 0
    while now < 6.0:
        allowed = pacer.allowance(rate, now)
        assert allowed <= 0.001 * rate + 1
        for _ in range(allowed):
            pacer.on_sent(rate)
        gone += allowed
        now = max(pacer.next_time(), now + 1e-6)
    assert gone == pytest.approx(rate, rel=0.01)


def test_a_pacer_saves_nothing_up_while_nothing_is_sent() -> None:
    pacer = Pacer()
    assert pacer.allowance(1000.0, 100.0) <= 2
