"""What was sent, what arrived, what is lost and what to do about silence (RFC 9002, SPEC 13.5).  Floor 3: sans-IO.

Names as in the RFC.  Knows no frames: a packet carries *records*, and each is told whether it arrived.

HOT PATH.  `on_sent` runs for every packet; `on_ack` for every sixteenth, and touches each packet it acknowledges once.

  cost    0.8 us to send, 1.1 us to acknowledge a packet of one record, without what the record does: a fifth of all
          that tests/tunnels/stream/test_cost.py measures
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import islice
from math import inf
from typing import Final, Protocol

from tunnels.errors import RemoteError, TransientError
from tunnels.ids import Rng
from tunnels.params import (
    ACK_DELAY,
    INITIAL_RTT,
    MAX_LATE,
    MAX_PACKET_NUMBER,
    MAX_PACKET_THRESHOLD,
    MAX_PROBE_TIMEOUT,
    PACKET_THRESHOLD,
    PERSISTENT_CONGESTION,
    PROBES,
    SKIP_EVERY,
    TIME_THRESHOLD,
    TIMER_GRANULARITY,
)
from tunnels.stream.congestion import Congestion, Pacer, RateSample

_MIN_SKIP: Final = 64
"""Packets between two numbers that are left out, at the least: each costs the far end an ACK of its own."""

_FEW_NUMBERS: Final = 64
"""Numbers that are quicker counted through than filtered."""

_LATE_ROUND_TRIPS: Final = 3
"""Round trips after which the acknowledgement of a lost packet teaches nothing."""


class RttEstimator:
    """RFC 9002 5.  All times in seconds."""

    __slots__ = ("latest_rtt", "min_rtt", "rttvar", "smoothed_rtt")

    def __init__(self) -> None:
        self.latest_rtt = 0.0
        self.min_rtt = inf
        self.smoothed_rtt = INITIAL_RTT
        self.rttvar = INITIAL_RTT / 2

    @property
    def has_sample(self) -> bool:
        return self.min_rtt != inf

    def update(self, latest_rtt: float, ack_delay: float) -> None:
        """Take one sample.

        Args:
            latest_rtt: from sending a packet to its acknowledgement, >= 0.
            ack_delay: how long the far end says it held the acknowledgement.  It may lie: no more than ACK_DELAY
                counts, and none that would push the sample below min_rtt (5.3).
        """
        self.latest_rtt = latest_rtt
        if not self.has_sample:
            self.min_rtt, self.smoothed_rtt, self.rttvar = latest_rtt, latest_rtt, latest_rtt / 2
            return
        self.min_rtt = min(self.min_rtt, latest_rtt)
        ack_delay = min(ack_delay, ACK_DELAY)
        if latest_rtt >= self.min_rtt + ack_delay:
            latest_rtt -= ack_delay
        self.rttvar = 0.75 * self.rttvar + 0.25 * abs(self.smoothed_rtt - latest_rtt)
        self.smoothed_rtt = 0.875 * self.smoothed_rtt + 0.125 * latest_rtt

    @property
    def probe_timeout(self) -> float:
        """PTO before back-off (6.2.1)."""
        return self.smoothed_rtt + max(4 * self.rttvar, TIMER_GRANULARITY) + ACK_DELAY

    @property
    def loss_delay(self) -> float:
        """6.1.2."""
        return max(TIME_THRESHOLD * max(self.latest_rtt, self.smoothed_rtt), TIMER_GRANULARITY)


class Carried(Protocol):
    """What a record names: it is told what became of the range that a packet carried."""

    def acked(self, start: int, end: int, fin: bool, /) -> None: ...  # noqa: FBT001 (keywords cost time)

    def lost(self, start: int, end: int, fin: bool, /) -> None: ...  # noqa: FBT001


Record = tuple[Carried, int, int, bool]
"""Whose, start, end, fin."""


class _Sent:
    """One packet on the way (RFC 9002 A.1, and what BBR wants to know of it)."""

    __slots__ = ("app_limited", "delivered", "delivered_time", "first_time", "records", "time")

    def __init__(
        self,
        time: float,
        records: Sequence[Record],
        delivered: int,
        delivered_time: float,
        first_time: float,
        app_limited: bool,  # noqa: FBT001 (keywords would double the cost)
    ) -> None:
        self.time = time
        self.records = records
        self.delivered = delivered
        self.delivered_time = delivered_time
        self.first_time = first_time
        self.app_limited = app_limited


class Recovery:
    """One direction of a circuit.

    INVARIANT: `in_flight` is the number of packets in `_sent` that are not left-out numbers; all of them are at
    `_oldest` or above.
    """

    def __init__(self, congestion: Congestion, rng: Rng) -> None:
        self.congestion = congestion
        self.rtt = RttEstimator()
        self.in_flight = 0
        self.lost_packets = 0
        self.late_packets = 0
        """Called lost, and acknowledged after all."""
        self.probe_timeouts = 0
        self._rng = rng
        self._pacer = Pacer()
        self._sent: dict[int, _Sent | None] = {}
        """None: a number that was left out."""
        self._late: dict[int, _Sent] = {}
        self._next = 0
        self._skip = self._next_skip()
        self._oldest = 0
        self._largest_acked = -1
        self._threshold = PACKET_THRESHOLD
        self._loss_time: float | None = None
        self._last_sent = 0.0
        self._backoff = 0
        self._probes = 0
        self._delivered = 0
        self._delivered_time = 0.0
        self._first_time = 0.0
        self._app_limited_until = 0
        self._lost_since_ack = 0
        self._first_sample: float | None = None

    # --- sending -----------------------------------------------------------------------------

    def allowance(self, now: float) -> int:
        """Packets that may go now; a probe goes whatever the window says."""
        room = self.congestion.window - self.in_flight
        if room > 0:
            room = min(room, self._pacer.allowance(self.congestion.pacing_rate, now))
        return max(room, self._probes)

    @property
    def probes(self) -> int:
        """Packets that have to go although nothing may be new in them."""
        return self._probes

    @property
    def window_full(self) -> bool:
        return self.in_flight >= self.congestion.window

    def pacing_time(self) -> float:
        """When pacing lets the next packets go."""
        return self._pacer.next_time()

    def next_number(self) -> int:
        """The number of the next packet.

        Raises:
            TransientError: all are used up; another circuit has new ones.
        """
        if self._next == self._skip:
            self._sent[self._next] = None
            self._next += 1
            self._skip = self._next_skip()
        number = self._next
        if number > MAX_PACKET_NUMBER:
            raise TransientError("all packet numbers of this circuit are used up", retry_after=0.0)
        self._next += 1
        return number

    def on_sent(self, number: int, records: Sequence[Record], now: float) -> None:
        """Packet `number` went out and asks for an ACK.  One that does not ask is not told here."""
        if not self.in_flight:
            self._first_time = self._delivered_time = now
        self._sent[number] = _Sent(
            now,
            records,
            self._delivered,
            self._delivered_time,
            self._first_time,
            self._delivered < self._app_limited_until,
        )
        self.in_flight += 1
        self._last_sent = now
        if self._probes:
            self._probes -= 1
        self._pacer.on_sent(self.congestion.pacing_rate)
        self.congestion.on_sent(self.in_flight, now)

    def app_limited(self) -> None:
        """There was nothing to send although more was allowed: rates of what is on the way say little."""
        if not self.window_full:
            self._app_limited_until = self._delivered + max(self.in_flight, 1)

    # --- acknowledgements --------------------------------------------------------------------

    def on_ack(self, ranges: Sequence[tuple[int, int]], delay: float, now: float) -> None:
        """Take an ACK.

        Args:
            ranges: first and last packet number, both included, the highest first.

        Raises:
            RemoteError: it acknowledges what was never sent.
        """
        largest = ranges[0][1]
        if largest >= self._next:
            raise RemoteError(f"an ACK of packet {largest}, which was never sent")
        if self._late:
            self._find_late(ranges, now)
        sent, oldest, newest, newest_number, acked = self._sent, self._oldest, None, -1, 0
        for first, last in reversed(ranges):
            if last < oldest:
                continue
            for number in self._numbers(max(first, oldest), last + 1):
                packet = sent.pop(number, _NOT_SENT)
                if packet is _NOT_SENT:
                    continue
                if packet is None:
                    raise RemoteError(f"an ACK of packet {number}, which was left out")
                acked += 1
                newest, newest_number = packet, number
                for carried, start, end, fin in packet.records:
                    carried.acked(start, end, fin)
            if first <= oldest:
                oldest = last + 1
        self._oldest = oldest
        self._largest_acked = max(self._largest_acked, largest)
        if newest is None:
            return
        self.in_flight -= acked
        self._delivered += acked
        self._delivered_time = now
        self._first_time = newest.time
        rtt = None
        if newest_number == largest:
            rtt = max(now - newest.time, 0.0)
            self.rtt.update(rtt, delay)
            self._first_sample = now if self._first_sample is None else self._first_sample
        self._backoff = self._probes = 0
        self._find_lost(now)
        interval = max(newest.time - newest.first_time, now - newest.delivered_time)
        rate = (self._delivered - newest.delivered) / interval if interval > 0 else 0.0
        sample = RateSample(
            acked,
            self._lost_since_ack,
            self._delivered,
            newest.delivered,
            self.in_flight,
            rate,
            rtt,
            self.rtt.smoothed_rtt,
            newest.app_limited,
        )
        self._lost_since_ack = 0
        self.congestion.on_acked(sample, now)

    def _find_late(self, ranges: Sequence[tuple[int, int]], now: float) -> None:
        """What was called lost and came after all: the path reorders more than was thought (RFC 9002 6.1.1)."""
        late, long_ago = self._late, now - _LATE_ROUND_TRIPS * self.rtt.smoothed_rtt
        while late and late[first := next(iter(late))].time < long_ago:
            del late[first]
        firsts, lasts = [first for first, _ in reversed(ranges)], [last for _, last in reversed(ranges)]
        arrived = [n for n in late if (at := bisect_right(firsts, n)) and n <= lasts[at - 1]]
        for number in arrived:
            packet = late.pop(number)
            self.late_packets += 1
            self._threshold = min(max(self._threshold, self._largest_acked - number + 1), MAX_PACKET_THRESHOLD)
            for carried, start, end, fin in packet.records:
                carried.acked(start, end, fin)

    def _find_lost(self, now: float) -> None:
        """RFC 9002 A.10."""
        self._loss_time = None
        sent, largest = self._sent, self._largest_acked
        oldest = self._oldest
        by_number, delay = largest - self._threshold, self.rtt.loss_delay
        lost: list[_Sent] = []
        open_below: int | None = None
        for number in self._numbers(oldest, largest):
            packet = sent.get(number, _NOT_SENT)
            if packet is _NOT_SENT:
                continue
            if packet is None:
                if number <= by_number:
                    del sent[number]
                elif open_below is None:
                    open_below = number
                continue
            if number <= by_number or packet.time <= now - delay:
                del sent[number]
                lost.append(packet)
                self._late[number] = packet
                continue
            if open_below is None:
                open_below = number
            when = packet.time + delay
            if self._loss_time is None or when < self._loss_time:
                self._loss_time = when
        self._oldest = max(largest + 1 if open_below is None else open_below, oldest)
        if lost:
            self._lose(lost, now)

    def _lose(self, lost: list[_Sent], now: float) -> None:
        self.in_flight -= len(lost)
        self.lost_packets += len(lost)
        self._lost_since_ack += len(lost)
        while len(self._late) > MAX_LATE:
            del self._late[next(iter(self._late))]
        for packet in lost:
            for carried, start, end, fin in packet.records:
                carried.lost(start, end, fin)
        self.congestion.on_lost(len(lost), self.in_flight, lost[-1].time, now)
        # 7.6.2: all that was sent over that time is gone.  What lies between two of `lost` was sent with them, so that
        # one acknowledged packet in between shows in _delivered.
        run_start = lost[0]
        for packet in lost:
            if packet.delivered != run_start.delivered:
                run_start = packet
            if (
                self._first_sample is not None
                and run_start.time > self._first_sample
                and packet.time - run_start.time > self.rtt.probe_timeout * PERSISTENT_CONGESTION
            ):
                self.congestion.on_persistent_congestion(now)
                break

    # --- timers ------------------------------------------------------------------------------

    def next_timer(self) -> float | None:
        if self._loss_time is not None:
            return self._loss_time
        if not self.in_flight:
            return None
        return self._last_sent + min(self.rtt.probe_timeout * (1 << self._backoff), MAX_PROBE_TIMEOUT)

    def handle_timer(self, now: float) -> None:
        """RFC 9002 A.9.  Afterwards `allowance` lets probes go, and their records are to be sent again."""
        due = self.next_timer()
        if due is None or due > now:
            return
        if self._loss_time is not None:
            self._find_lost(now)
            return
        self._backoff = min(self._backoff + 1, 16)
        self.probe_timeouts += 1
        self._probes = PROBES
        self._last_sent = now  # so that the next timeout counts from here when there is nothing to probe with
        for packet in self._first(PROBES):
            for carried, start, end, fin in packet.records:
                carried.lost(start, end, fin)

    def _first(self, number: int) -> list[_Sent]:
        return list(islice((packet for packet in self._sent.values() if packet is not None), number))

    def _numbers(self, low: int, high: int) -> Iterable[int]:
        """Those of low to high - 1 that may be on the way, ascending.

        Numbers of packets that ask for no ACK are in no table; whoever makes us send very many of them must not make us
        count through them.
        """
        if high - low <= _FEW_NUMBERS + 4 * len(self._sent):
            return range(low, high)
        return [number for number in self._sent if low <= number < high]

    def _next_skip(self) -> int:
        return self._next + _MIN_SKIP + self._rng.below(2 * (SKIP_EVERY - _MIN_SKIP))


_NOT_SENT: Final = _Sent(0.0, (), 0, 0.0, 0.0, False)
"""In place of a packet that is not on the way: None is a number that was left out."""
