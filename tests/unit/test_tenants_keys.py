import hashlib
import string
import time

from tenants import keys


def multiply(a: int, b: int, modulus: int) -> int:
    """Two polynomials over GF(2), modulo a third of degree 32."""
    product = 0
    while b:
        if b & 1:
            product ^= a
        b >>= 1
        a <<= 1
        if a >> 32:
            a ^= modulus
    return product


def power_of_x(exponent: int, modulus: int) -> int:
    result, base = 1, 2
    while exponent:
        if exponent & 1:
            result = multiply(result, base, modulus)
        base = multiply(base, base, modulus)
        exponent >>= 1
    return result


def test_the_checksums_generator_is_primitive_as_its_guarantee_needs() -> None:
    generator = 0x1_04C1_1DB7
    order = 2**32 - 1

    assert power_of_x(order, generator) == 1
    assert all(power_of_x(order // prime, generator) != 1 for prime in (3, 5, 17, 257, 65537))


def test_the_format_never_changes() -> None:
    known = "aiaas_live_0123456789AB_0123456789ABCDEFGHIJKLMNOPQRSTUV"

    assert keys.parse(known + keys._checksum(known)) == keys.ParsedKey("key_0123456789AB", "live")
    assert keys.digest(known) == hashlib.sha256(known.encode()).digest()


def test_the_checksum_is_crc_32_in_base_62_with_leading_zeros() -> None:
    alphabet = string.digits + string.ascii_uppercase + string.ascii_lowercase
    checksum = keys._checksum("123456789")

    assert len(checksum) == 6
    assert (
        sum(alphabet.index(digit) * 62**place for place, digit in enumerate(reversed(checksum))) == 0xCBF43926
    )
    assert keys._checksum("") == "000000"


def test_keys_do_not_repeat() -> None:
    assert len({keys.new_key("live") for _ in range(1000)}) == 1000


def test_a_long_text_is_refused_as_fast_as_a_short_one() -> None:
    long = "aiaas_live_" + "a" * 10_000_000
    start_s = time.perf_counter()

    assert keys.parse(long) is None
    assert time.perf_counter() - start_s < 0.01
