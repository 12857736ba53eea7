"""ML-KEM-768 behind our interface; the published vectors are in test_published_vectors.py."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnels.crypto.kem import DecapsulationKey, Kem, MlKem768, keypair_from_seed
from tunnels.errors import LocalError, RemoteError
from tunnels.params import KEM_CIPHERTEXT_SIZE, KEM_PUBLIC_SIZE


def test_mlkem_is_a_kem() -> None:
    kem: Kem = MlKem768()
    ek, dk = kem.keypair()
    held: DecapsulationKey = dk
    ct, ss = kem.encapsulate(ek)
    assert (len(ek), len(ct), len(ss)) == (KEM_PUBLIC_SIZE, KEM_CIPHERTEXT_SIZE, 32)
    assert held.decapsulate(ct) == ss


def test_every_pair_and_every_secret_is_another() -> None:
    kem = MlKem768()
    ek, _ = kem.keypair()
    assert kem.keypair()[0] != ek
    (ct, ss), (other_ct, other_ss) = kem.encapsulate(ek), kem.encapsulate(ek)
    assert ct != other_ct
    assert ss != other_ss


@pytest.mark.parametrize("place", [0, 500, KEM_CIPHERTEXT_SIZE - 1])
def test_an_altered_ciphertext_gives_another_secret_and_no_error(place: int) -> None:
    kem = MlKem768()
    ek, dk = kem.keypair()
    ct, ss = kem.encapsulate(ek)
    altered = bytearray(ct)
    altered[place] ^= 1
    assert dk.decapsulate(bytes(altered)) != ss
    assert dk.decapsulate(bytes(altered)) == dk.decapsulate(bytes(altered))


@given(ct=st.binary(max_size=2 * KEM_CIPHERTEXT_SIZE).filter(lambda ct: len(ct) != KEM_CIPHERTEXT_SIZE))
def test_a_ciphertext_of_another_size_is_refused(ct: bytes) -> None:
    _, dk = keypair_from_seed(bytes(64))
    with pytest.raises(RemoteError):
        dk.decapsulate(ct)


@pytest.mark.parametrize("cut", [1, KEM_PUBLIC_SIZE])
def test_a_key_of_another_size_is_refused(cut: int) -> None:
    ek, _ = keypair_from_seed(bytes(64))
    for wrong in (ek[:-cut], ek + bytes(cut)):
        with pytest.raises(RemoteError):
            MlKem768().encapsulate(wrong)


def test_a_key_that_is_not_reduced_is_refused() -> None:
    ek, _ = keypair_from_seed(bytes(64))
    with pytest.raises(RemoteError):
        MlKem768().encapsulate(b"\xff\xff" + ek[2:])


@pytest.mark.parametrize("size", [0, 32, 63, 65])
def test_a_seed_of_another_size_is_our_own_fault(size: int) -> None:
    with pytest.raises(LocalError):
        keypair_from_seed(bytes(size))


def test_no_key_is_printed() -> None:
    seed = bytes(range(64))
    _, dk = keypair_from_seed(seed)
    assert seed.hex()[:16] not in repr(dk)
    assert repr(dk).startswith("<tunnels.crypto.kem.MlKem768Key object")
