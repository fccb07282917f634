"""Experiment 0: amounts on the command line are read as people write them."""

import re

import pytest

from llm_spec.numerics import units

BYTES = {
    "36GB": 36e9, "36G": 36e9, "36": 36e9, "36 gb": 36e9, "1.5T": 1.5e12, "512M": 512e6,
    "36GiB": 36 * 2**30, "150GB/s": 150e9, "800B": 800,
}  # fmt: skip
NUMBERS = {"4,8": [4, 8], "32k": [32_768], "2K, 128k": [2048, 131_072], "1000": [1000]}
NEITHER = ("G", "36X", "36Gb5", "k", "3.5k", "-4", "")


def want_every_letter(monkeypatch):
    monkeypatch.setattr(
        units, "AMOUNT", re.compile(r"\s*([0-9.]+)\s*([kKmMgGtT]?[iI]?[bB])?\s*(/\s*s)?\s*")
    )


@pytest.mark.claim(id="0.127", falsifier=want_every_letter)
def test_amounts_are_read_as_people_write_them(exhibit):
    """36G is 36 GB, 32k tokens are 32,768; text that is not a number is refused."""
    wrong = [t for t, size in BYTES.items() if read(units.parse_bytes, t, 1, 1e13) != size]
    wrong += [t for t, n in NUMBERS.items() if read(units.parse_numbers, t, range(1, 2**20)) != n]
    believed = [t for t in NEITHER if read(units.parse_numbers, t, range(1, 2**20)) is not None]
    exhibit.table(
        [[text, str(meant)] for text, meant in {**BYTES, **NUMBERS}.items()],
        columns=["written", "read as"], title="amounts",
    )  # fmt: skip

    says = exhibit.measured("amounts read wrongly", wrong, should_be=[])

    assert believed == [], f"{believed} were read as numbers, but should be refused"
    assert wrong == [], says


def read(parse, text, *bounds):
    try:
        return parse(text, "--amount", *bounds)
    except units.BadAmount:
        return None
