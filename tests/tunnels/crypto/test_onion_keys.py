"""SPEC 5.1, as tests: how long an onion key lives."""

import contextlib
import math
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnels.crypto.handshake import keyid_of
from tunnels.crypto.onion_keys import DatedKey, OnionKeys
from tunnels.crypto.rng import StreamRng
from tunnels.crypto.x25519 import KeyPair
from tunnels.errors import LocalError
from tunnels.params import ONION_KEY_LIFETIME

DAY: Final = 86400.0
WEEK: Final = 7 * DAY
START: Final = 1_700_000_000.0

waits = st.floats(0, 3 * WEEK) | st.sampled_from([0.0, DAY, WEEK, 2 * WEEK, math.nextafter(WEEK, 0)])
jumps = st.floats(-5 * WEEK, 5 * WEEK) | st.sampled_from([-WEEK, -1.0, 0.0, 1.0, WEEK, 2 * WEEK, -1e9, 1e9])
starts = st.floats(0, 4e9)


def rng() -> StreamRng:
    return StreamRng(b"onion keys".ljust(32, b"."))


def accepted(keys: OnionKeys, now: float) -> set[bytes]:
    return {pair.public for pair in keys.accepted(now).values()}


def test_a_key_is_current_for_a_week_and_accepted_for_two() -> None:
    assert ONION_KEY_LIFETIME == WEEK
    keys = OnionKeys.generate(START, rng())
    first = keys.public
    assert not keys.rotate(START + WEEK - 1)
    assert keys.public == first
    assert keys.rotate(START + WEEK)
    second = keys.public
    assert second != first
    assert accepted(keys, START + 2 * WEEK - 1) == {first, second}
    assert accepted(keys, START + 2 * WEEK) == {second}
    assert keys.rotate(START + 2 * WEEK)
    assert accepted(keys, START + 2 * WEEK) == {second, keys.public}


@given(starts, st.lists(st.tuples(waits, st.booleans()), max_size=20))
def test_at_any_time_exactly_the_keys_younger_than_two_weeks_are_accepted(
    start: float, steps: list[tuple[float, bool]]
) -> None:
    keys, now = OnionKeys.generate(start, rng()), start
    births = {keys.public: start}
    for wait, rotates in steps:
        now += wait
        if rotates:
            keys.rotate(now)
            births.setdefault(keys.public, now)
        assert accepted(keys, now) == {key for key, birth in births.items() if now < birth + WEEK + WEEK}


@given(starts, st.lists(waits, max_size=20))
def test_after_a_rotation_the_current_key_is_younger_than_a_week_and_accepted(start: float, steps: list[float]) -> None:
    keys, now, birth, current = OnionKeys.generate(start, rng()), start, start, b""
    for wait in steps:
        now += wait
        keys.rotate(now)
        if keys.public != current:
            current, birth = keys.public, now if current else birth
        assert now < keys.next_rotation
        assert keys.public in accepted(keys, now)
        assert len(keys.accepted(now)) <= 2


@given(starts, st.lists(waits, max_size=20))
def test_there_is_something_to_do_exactly_from_next_rotation_on(start: float, steps: list[float]) -> None:
    keys, now = OnionKeys.generate(start, rng()), start
    for wait in steps:
        now += wait
        due = now >= keys.next_rotation
        assert keys.rotate(now) is due
        assert keys.rotate(now) is False


@given(starts)
def test_a_relay_that_always_rotates_in_time_has_a_new_key_every_week(start: float) -> None:
    keys = OnionKeys.generate(start, rng())
    seen = [keys.public]
    for number in range(1, 6):
        assert keys.next_rotation == pytest.approx(start + number * WEEK)
        keys.rotate(keys.next_rotation)
        seen.append(keys.public)
    assert len(set(seen)) == len(seen)


def test_the_secret_of_a_key_that_is_too_old_is_gone_and_not_only_hidden() -> None:
    keys = OnionKeys.generate(START, rng())
    keys.rotate(START + WEEK)
    size = len(keys.to_bytes())
    keys.rotate(START + 4 * WEEK)
    assert len(keys.to_bytes()) < size
    assert len(keys.accepted(START)) == 1


def test_a_relay_that_was_off_for_long_starts_with_a_new_key_and_no_old_one() -> None:
    keys = OnionKeys.generate(START, rng())
    old = keys.public
    assert accepted(keys, START + 3 * WEEK) == set()
    keys.rotate(START + 3 * WEEK)
    assert old not in accepted(keys, START + 3 * WEEK)
    assert len(keys.accepted(START + 3 * WEEK)) == 1


# --- Clocks that jump -----------------------------------------------------------------------------


@given(starts, st.lists(jumps, max_size=20))
def test_however_the_clock_jumps_there_is_a_current_key_and_it_is_accepted(start: float, steps: list[float]) -> None:
    keys, now = OnionKeys.generate(start, rng()), start
    for jump in steps:
        now += jump
        keys.rotate(now)
        assert keys.public in accepted(keys, now)
        assert keys.rotate(now) is False


@given(starts, st.lists(jumps, max_size=20))
def test_a_key_is_made_only_when_the_clock_moved_a_week_forward(start: float, steps: list[float]) -> None:
    keys, now, forward = OnionKeys.generate(start, rng()), start, 0.0
    made = {keys.public}
    for jump in steps:
        now += jump
        forward += max(jump, 0.0)
        keys.rotate(now)
        made.add(keys.public)
        assert (len(made) - 1) * WEEK <= forward + 1


@given(starts, st.floats(0, 1e9))
def test_a_clock_that_is_set_back_takes_no_key_away(start: float, back: float) -> None:
    keys = OnionKeys.generate(start, rng())
    keys.rotate(start + WEEK)
    before, current = accepted(keys, start + WEEK), keys.public
    now = start + WEEK - back
    assert accepted(keys, now) == before
    keys.rotate(now)
    assert keys.public == current
    assert accepted(keys, now) == before


def test_a_key_made_by_a_clock_years_ahead_lives_no_longer_than_any_other() -> None:
    keys = OnionKeys.generate(START + 5 * 365 * DAY, rng())
    first = keys.public
    assert keys.rotate(START)
    assert keys.public == first
    assert keys.next_rotation == START + WEEK
    keys.rotate(START + WEEK)
    assert keys.public != first
    keys.rotate(START + 2 * WEEK)
    assert first not in accepted(keys, START + 2 * WEEK)


# --- Saving ---------------------------------------------------------------------------------------


@given(starts, st.lists(waits, max_size=4))
def test_saved_keys_come_back(start: float, steps: list[float]) -> None:
    keys, now = OnionKeys.generate(start, rng()), start
    for wait in steps:
        now += wait
        keys.rotate(now)
    saved = keys.to_bytes()
    again = OnionKeys.from_bytes(saved, rng())
    assert again.to_bytes() == saved
    assert (again.public, again.next_rotation) == (keys.public, keys.next_rotation)
    assert accepted(again, now) == accepted(keys, now)


@given(starts, st.lists(jumps, max_size=8))
def test_keys_saved_under_a_clock_that_jumps_come_back_too(start: float, steps: list[float]) -> None:
    keys, now = OnionKeys.generate(start, rng()), start
    for jump in steps:
        now += jump
        keys.rotate(now)
        assert OnionKeys.from_bytes(keys.to_bytes(), rng()).to_bytes() == keys.to_bytes()


def test_keys_that_came_back_open_the_same_handshakes() -> None:
    keys = OnionKeys.generate(START, rng())
    keys.rotate(START + WEEK)
    again = OnionKeys.from_bytes(keys.to_bytes(), rng())
    other = KeyPair(b"x" * 32)
    for keyid, pair in again.accepted(START + WEEK).items():
        assert keyid == keyid_of(pair.public)
        assert pair.exchange(other.public) == other.exchange(keys.accepted(START + WEEK)[keyid].public)


@given(st.binary(max_size=90) | st.binary(min_size=40, max_size=40).map(lambda entry: b"\1" + entry))
def test_garbage_instead_of_saved_keys_is_keys_or_a_local_error(saved: bytes) -> None:
    with contextlib.suppress(LocalError):
        assert OnionKeys.from_bytes(saved, rng()).to_bytes() == saved


def test_damaged_saved_keys_are_refused() -> None:
    keys = OnionKeys.generate(START, rng())
    keys.rotate(START + WEEK)
    saved = keys.to_bytes()
    current, previous = saved[1:41], saved[41:]
    not_a_number = bytes.fromhex("7ff8000000000000")
    for damaged in (b"", saved[:-1], saved + b"\0", b"\2" + saved[1:], saved[:1], saved[:1] + not_a_number + saved[9:]):
        with pytest.raises(LocalError):
            OnionKeys.from_bytes(damaged, rng())
    with pytest.raises(LocalError, match="older"):
        OnionKeys.from_bytes(saved[:1] + previous + current, rng())


@pytest.mark.parametrize("now", [math.nan, math.inf, -math.inf])
def test_what_is_no_time_is_our_own_fault_and_changes_nothing(now: float) -> None:
    with pytest.raises(LocalError, match="no time"):
        OnionKeys.generate(now, rng())
    keys = OnionKeys.generate(START, rng())
    saved = keys.to_bytes()
    with pytest.raises(LocalError, match="no time"):
        keys.rotate(now)
    assert keys.to_bytes() == saved


def test_wiped_keys_are_gone() -> None:
    keys = OnionKeys.generate(START, rng())
    keys.rotate(START + WEEK)
    keys.wipe()
    for use in (keys.to_bytes, lambda: keys.public, lambda: keys.accepted(START), lambda: keys.rotate(START)):
        with pytest.raises(LocalError, match="wiped"):
            use()


def test_nothing_of_a_key_is_printed() -> None:
    keys = OnionKeys.generate(START, rng())
    assert repr(keys).startswith("<tunnels.crypto.onion_keys.OnionKeys object at")
    assert repr(DatedKey.of(KeyPair(b"s" * 32), START)).startswith("<tunnels.crypto.onion_keys.DatedKey object at")
