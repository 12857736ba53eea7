"""Whom a client believes (SPEC 12.3), as laws and as attacks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnels.ids import RelayId
from tunnels.params import MAX_DISAGREEMENT, MIN_SOURCES, VIEW_LIFETIME
from tunnels.path.views import Views


def relay(name: int | str) -> RelayId:
    return RelayId(str(name).encode().rjust(32, b"."))


def relays(count: int, prefix: str = "") -> frozenset[RelayId]:
    return frozenset(relay(f"{prefix}{n}") for n in range(count))


def shown(*views: frozenset[RelayId], min_sources: int = MIN_SOURCES) -> Views:
    """Sources in different networks, each of which has shown one of `views`, at second 0."""
    made = Views(min_sources)
    for number, view in enumerate(views):
        made.show(relay(f"source {number}"), view, 0, networks={f"{number}"})
    return made


def trouble(views: Views, *, min_relays: int = 3, min_age: float = 0, now: float = 0) -> str:
    return views.trouble(min_relays=min_relays, min_age=min_age, now=now)


def agreed(views: Views, *, min_age: float = 0, now: float = 0) -> frozenset[RelayId]:
    return views.agreed(min_age=min_age, now=now)


HONEST, SYBILS = relays(100), relays(1000, "sybil ")
pools = st.frozensets(st.sampled_from(sorted(relays(12))))


# --- Laws ------------------------------------------------------------------------------------


@given(st.lists(pools, max_size=6), st.integers(1, 4))
def test_whatever_is_used_enough_sources_have_shown(pools: list[frozenset[RelayId]], min_sources: int) -> None:
    views = shown(*pools, min_sources=min_sources)
    for each in agreed(views):
        assert sum(each in pool for pool in pools) == views.sources_of(each) >= min_sources


@given(st.lists(pools, max_size=6), st.integers(1, 4), st.integers(0, 9))
def test_no_trouble_means_enough_sources_enough_relays_and_no_split(
    pools: list[frozenset[RelayId]], min_sources: int, min_relays: int
) -> None:
    views = shown(*pools, min_sources=min_sources)
    if not trouble(views, min_relays=min_relays):
        assert len(views) >= min_sources
        assert len(agreed(views)) >= min_relays
        near = [sum(len(a & b) >= (1 - MAX_DISAGREEMENT) * max(len(a), len(b)) for b in pools) for a in pools]
        assert views.disagreement() <= MAX_DISAGREEMENT or max(near) > max(len(pools) / 2, min_sources)


@given(st.lists(pools, min_size=2, max_size=6))
def test_the_order_in_which_sources_answer_does_not_matter(pools: list[frozenset[RelayId]]) -> None:
    forth, back = shown(*pools), shown(*reversed(pools))
    assert forth.disagreement() == back.disagreement()
    assert bool(trouble(forth)) == bool(trouble(back))
    if forth.disagreement() <= MAX_DISAGREEMENT:
        assert agreed(forth) == agreed(back)


@given(pools, pools)
def test_one_source_alone_makes_nothing_usable_however_often_it_answers(
    first: frozenset[RelayId], second: frozenset[RelayId]
) -> None:
    views = Views()
    for now, pool in enumerate((first, second, first)):
        views.show(relay("liar"), pool, now, networks={"1"})
        views.show(relay("liar"), pool, now, networks={"2"})  # it says it has moved
    assert len(views) == 1
    assert not agreed(views, now=9)
    assert trouble(views, now=9) == "1 of 2 directory sources have answered"


@given(st.lists(pools, max_size=5), pools)
def test_what_is_gone_is_neither_source_nor_shown(pools: list[frozenset[RelayId]], gone: frozenset[RelayId]) -> None:
    views = shown(*pools)
    views.forget(gone | {relay("source 0")})
    assert len(views) == max(0, len(pools) - 1)
    assert not agreed(views) & gone
    assert all(views.first_seen(each) is None and not views.sources_of(each) for each in gone)


# --- Trouble says what a person can act on ------------------------------------------------------


def test_nobody_has_answered() -> None:
    assert trouble(Views()) == "0 of 2 directory sources have answered"


def test_too_few_relays_are_known() -> None:
    assert trouble(shown(relays(2), relays(2))) == "2 relays are known from 2 sources; 3 are needed"


def test_sources_differ() -> None:
    assert trouble(shown(HONEST, relays(79))) == (
        "directory sources disagree on 21% of the relays: somebody may be hiding the network"
    )


def test_sources_that_agree_are_no_trouble() -> None:
    assert trouble(shown(HONEST, HONEST)) == ""


@pytest.mark.parametrize(("missing", "believed"), [(0, True), (19, True), (20, True), (21, False), (100, False)])
def test_sources_may_differ_by_a_fifth_and_not_by_more(missing: int, believed: bool) -> None:  # noqa: FBT001
    views = shown(HONEST, relays(100 - missing))
    assert views.disagreement() == pytest.approx(missing / 100)
    assert ("disagree" not in trouble(views)) is believed


def test_empty_sets_agree_and_an_empty_one_disagrees_with_all() -> None:
    assert shown(frozenset(), frozenset()).disagreement() == 0
    assert shown(frozenset(), HONEST).disagreement() == 1


# --- Age -------------------------------------------------------------------------------------


def test_a_relay_is_used_once_it_has_been_known_for_long_enough() -> None:
    views = shown(HONEST, HONEST)
    assert trouble(views, min_age=60, now=59).startswith("0 relays are known")
    assert agreed(views, min_age=60, now=60) == HONEST


def test_a_newcomer_does_not_get_the_age_of_the_others_nor_do_they_lose_theirs() -> None:
    views = shown(HONEST, HONEST)
    for n in range(2):
        views.show(relay(f"source {n}"), HONEST | {relay("new")}, 100, networks={f"{n}"})
    assert agreed(views, min_age=60, now=120) == HONEST
    assert views.first_seen(relay("new")) == 100


def test_who_was_shown_by_nobody_for_a_while_begins_again() -> None:
    views = shown(HONEST, HONEST)
    for now, pool in ((10, relays(99)), (20, HONEST)):
        for n in range(2):
            views.show(relay(f"source {n}"), pool, now, networks={f"{n}"})
    assert views.first_seen(relay(99)) == 20


def test_an_old_view_says_nothing_any_more() -> None:
    views = shown(HONEST, HONEST, HONEST)
    views.show(relay("source 0"), HONEST, VIEW_LIFETIME - 1, networks={"0"})
    assert not trouble(views, now=VIEW_LIFETIME - 1)
    assert trouble(views, now=VIEW_LIFETIME) == "1 of 2 directory sources have answered"
    assert not agreed(views, now=VIEW_LIFETIME)


def test_a_network_that_changed_completely_is_no_disagreement_with_what_was_seen_the_day_before() -> None:
    views = shown(HONEST, HONEST, HONEST)
    for n in (3, 4):
        views.show(relay(f"source {n}"), relays(100, "new "), VIEW_LIFETIME, networks={f"{n}"})
    assert trouble(views, now=VIEW_LIFETIME) == ""


def test_what_a_liar_shows_and_shows_no_more_is_not_remembered() -> None:
    views = Views()
    for now in range(20):
        views.show(relay("liar"), relays(500, f"{now} "), now, networks={"1"})
    assert sum(views.first_seen(each) is not None for now in range(20) for each in relays(500, f"{now} ")) == 500


# --- Eclipse -----------------------------------------------------------------------------------


def test_a_liar_among_honest_sources_is_noticed_and_adds_nothing() -> None:
    views = shown(HONEST, HONEST, SYBILS)
    assert "disagree" in trouble(views)
    assert agreed(views) == HONEST
    views.show(relay("source 3"), HONEST, 0, networks={"3"})
    assert trouble(views) == "", "three honest sources outvote one liar"
    assert agreed(views) == HONEST


def test_two_liars_who_agree_with_each_other_add_nothing_to_an_honest_majority() -> None:
    views = shown(HONEST, HONEST, HONEST, SYBILS | HONEST, SYBILS | HONEST)
    assert trouble(views) == ""
    assert agreed(views) == HONEST


def test_two_liars_who_agree_with_each_other_hide_nothing_from_an_honest_majority() -> None:
    views = shown(HONEST, HONEST, HONEST, relays(10), relays(10))
    assert trouble(views) == ""
    assert agreed(views) == HONEST


def test_liars_as_many_as_the_honest_stop_a_client_and_do_not_lead_it() -> None:
    assert "disagree" in trouble(shown(HONEST, HONEST, HONEST, SYBILS, SYBILS, SYBILS))


def test_sybils_of_one_network_are_one_source_however_many_answer_and_however_late() -> None:
    views = Views()
    for n in range(10):
        views.show(relay(f"sybil {n}"), SYBILS, n * 3600, networks={"66.66.0.0/16"})
        assert trouble(views, now=n * 3600) == "1 of 2 directory sources have answered"
        assert not agreed(views, now=n * 3600)


def test_where_networks_are_not_told_apart_sybils_of_one_network_succeed() -> None:
    views = Views()
    for n in range(2):
        views.show(relay(f"sybil {n}"), SYBILS, 0)
    assert trouble(views) == ""
    assert agreed(views) == SYBILS


def test_with_one_source_enough_a_bootstrap_that_lies_owns_the_client() -> None:
    assert trouble(shown(SYBILS)) == "1 of 2 directory sources have answered"
    assert not agreed(shown(SYBILS))
    undefended = shown(SYBILS, min_sources=1)
    assert trouble(undefended) == ""
    assert agreed(undefended) == SYBILS


def test_liars_who_add_a_little_stay_below_what_can_be_told_from_change() -> None:
    """What is not defended: two of three sources may add a quarter to the network unnoticed."""
    views = shown(HONEST, HONEST | relays(25, "sybil "), HONEST | relays(25, "sybil "))
    assert trouble(views) == ""
    assert len(agreed(views)) == 125
    assert "disagree" in trouble(shown(HONEST, *[HONEST | relays(26, "sybil ")] * 2))
