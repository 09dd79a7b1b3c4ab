"""The stock of random digits."""

from gate.slots import random_ids
from gate.slots.random_ids import RandomDigits


def test_no_digit_is_handed_out_twice_however_the_stock_ends(monkeypatch) -> None:
    counted = iter(range(10**6))
    monkeypatch.setattr(random_ids.secrets, "token_hex", lambda count: f"{next(counted):04x}" * (count // 2))
    monkeypatch.setattr(random_ids, "STOCK_BYTES", 64)
    stock = RandomDigits()
    drawn = [stock.digits(count) for count in (64, 64, 100, 32, 128, 4)]
    assert [len(digits) for digits in drawn] == [64, 64, 100, 32, 128, 4]
    of_each = [{digits[place : place + 4] for place in range(0, len(digits), 4)} for digits in drawn]
    assert of_each == [{"0000"}, {"0000"}, {"0001"}, {"0002"}, {"0003"}, {"0004"}], "what is left of a stock is not stretched"


def test_lease_ids_differ() -> None:
    stock = RandomDigits()
    assert len({stock.digits(32) for _ in range(5000)}) == 5000
