"""SPEC 8.4, as tests."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vectors import make_wire
from tunnels.errors import LocalError, RemoteError
from tunnels.wire.destination import Destination, Kind

LABEL = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"

ports = st.integers(1, 65535)
labels = st.text(LABEL, min_size=1, max_size=63)
names = st.builds(
    lambda front, last, dot: ".".join([*front, last]) + dot,
    st.lists(labels, max_size=2),
    st.text(LABEL, min_size=1, max_size=20).map("x".__add__),
    st.sampled_from(["", "."]),
)
addresses = st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).map(str)
destinations = st.builds(Destination, names | addresses, ports)


@pytest.mark.parametrize("vector", make_wire.load()["destinations"], ids=lambda vector: vector["host"][:30])
def test_destinations_are_as_in_the_vectors_both_ways(vector: make_wire.DestinationVector) -> None:
    destination, wire = Destination(vector["host"], vector["port"]), bytes.fromhex(vector["hex"])
    assert destination.host == vector["host"]
    assert destination.encode() == wire
    assert Destination.decode(wire) == destination
    assert destination.kind == wire[0]


@given(destinations)
def test_what_was_encoded_decodes_to_itself(destination: Destination) -> None:
    decoded = Destination.decode(destination.encode())
    assert (decoded.host, decoded.port) == (destination.host, destination.port)


@given(st.ip_addresses(v=4), ports)
def test_ipv4_takes_7_bytes_and_mapped_into_ipv6_it_is_another_destination(address: object, port: int) -> None:
    plain, mapped = Destination(str(address), port), Destination(f"::ffff:{address}", port)
    assert (len(plain.encode()), len(mapped.encode())) == (7, 19)
    assert plain != mapped
    assert Destination.decode(mapped.encode()) == mapped
    assert mapped.host == f"::ffff:{address}"


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("2001:DB8:0:0:0:0:0:1", "2001:db8::1"),
        ("0:0::0", "::"),
        ("::FFFF:c000:0201", "::ffff:192.0.2.1"),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.1"),
        ("64:ff9b::192.0.2.1", "64:ff9b::c000:201"),
    ],
)
def test_an_ipv6_address_is_one_value_however_it_was_written(written: str, canonical: str) -> None:
    assert Destination(written, 1).host == canonical
    assert Destination(written, 1) == Destination(canonical, 1)


@pytest.mark.parametrize(
    "host",
    [
        "127.1",
        "127.0.1",
        "2130706433",
        "0",
        "0x7f.0.0.1",
        "0x7f000001",
        "0X7F.1",
        "0x",
        "017700000001",
        "127.0.0.01",
        "127.0.0.1.",
        "127.0.0.256",
        "1.2.3.4.5",
        "host.7",
        "host.0x7f",
        "2130706433.",
    ],
)
def test_an_address_in_disguise_is_not_a_name_on_either_side(host: str) -> None:
    with pytest.raises(LocalError, match="IPv4"):
        Destination(host, 80)
    with pytest.raises(RemoteError):
        Destination.decode(bytes([Kind.NAME, len(host)]) + host.encode() + b"\0\x50")


@pytest.mark.parametrize("host", ["192.0.2.1", "::1", "2001:db8::1", "::ffff:192.0.2.1"])
def test_an_address_does_not_travel_as_a_name(host: str) -> None:
    with pytest.raises(RemoteError, match="an address where a name belongs"):
        Destination.decode(bytes([Kind.NAME, len(host)]) + host.encode() + b"\0\x50")


@pytest.mark.parametrize("host", ["1password.com", "3com", "0x7f.example", "7.a", "0xyz", "12-34", "1_2"])
def test_a_name_may_have_numbers_anywhere_but_alone_at_the_end(host: str) -> None:
    assert Destination.decode(Destination(host, 80).encode()).kind is Kind.NAME


@pytest.mark.parametrize(
    "host",
    [
        "",
        ".",
        "..",
        ".example",
        "a..example",
        "example..",
        "a b",
        "a\n",
        "\na",
        "a\0b",
        "a/b",
        "user@example.com",
        "[::1]",
        "example.com:80",
        "*.example",
        "%41",
        "a" * 64,
        "a." * 126 + "ab",
        "fe80::1%eth0",
        "::1%",
        ":",
        "::1::",
        "1::2:3:4:5:6:7:8:9",
    ],
)
def test_what_is_no_host_is_refused_on_either_side(host: str) -> None:
    with pytest.raises(LocalError):
        Destination(host, 80)
    if len(host) < 256:
        with pytest.raises(RemoteError):
            Destination.decode(bytes([Kind.NAME, len(host)]) + host.encode() + b"\0\x50")


@pytest.mark.parametrize("host", ["bücher.example", "例え.jp", "ｅｘａｍｐｌｅ.com", "١٢٧.0.0.1", "a。b"])  # noqa: RUF001 (on purpose)
def test_a_name_beyond_ascii_is_refused_with_the_way_out(host: str) -> None:
    with pytest.raises(LocalError, match="IDNA"):
        Destination(host, 80)
    wire = host.encode()
    with pytest.raises(RemoteError):
        Destination.decode(bytes([Kind.NAME, len(wire)]) + wire + b"\0\x50")


def test_253_bytes_of_name_fit_and_254_do_not() -> None:
    longest = "a." * 126 + "b"
    assert len(Destination(longest, 1).encode()) == 2 + 253 + 2
    with pytest.raises(LocalError):
        Destination(longest + ".", 1)


@pytest.mark.parametrize("port", [-1, 0, 65536])
def test_a_port_is_1_to_65535(port: int) -> None:
    with pytest.raises(LocalError, match="port"):
        Destination("example.com", port)


@pytest.mark.parametrize("host", ["192.0.2.1", "::1", "example.com"])
def test_port_0_is_refused_from_the_wire(host: str) -> None:
    wire = Destination(host, 1).encode()[:-2] + b"\0\0"
    with pytest.raises(RemoteError, match="port"):
        Destination.decode(wire)


@pytest.mark.parametrize("kind", [0, 2, 3, 5, 7, 255])
def test_an_unknown_kind_is_refused(kind: int) -> None:
    with pytest.raises(RemoteError, match="kind"):
        Destination.decode(bytes([kind]) + bytes(20))


@given(destinations)
def test_a_destination_that_is_cut_off_or_followed_by_something_is_refused(destination: Destination) -> None:
    wire = destination.encode()
    for cut in range(len(wire)):
        with pytest.raises(RemoteError):
            Destination.decode(wire[:cut])
    with pytest.raises(RemoteError):
        Destination.decode(wire + b"\0")


@given(destinations)
def test_one_destination_has_one_encoding(destination: Destination) -> None:
    wire = destination.encode()
    assert Destination.decode(wire).encode() == wire


@pytest.mark.parametrize("host", ["secret.example", "127.1", "secret example", "sécret", "2001:db8::zz"])
def test_no_host_is_in_a_repr_or_an_error(host: str) -> None:
    try:
        shown = repr(Destination(host, 80))
    except LocalError as error:
        shown = str(error)
    assert host not in shown
