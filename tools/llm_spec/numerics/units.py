"""Amounts of bytes as people write and read them: "36GB", "150 GB/s"."""

import re

FACTORS = {
    "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40,
}  # fmt: skip
DECIMAL = ("B", "kB", "MB", "GB", "TB")
BINARY = ("B", "KiB", "MiB", "GiB", "TiB")
EXPONENT = re.compile(r"(?<=\d)(?:\.0)?e([+-])0*(\d+)\b")
AMOUNT = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kKmMgGtT](?:[iI]?[bB])?|[bB])?\s*(/\s*s)?\s*")


class BadAmount(ValueError):
    """This is not an amount, or an impossible one. The text is one sentence."""


def parse_bytes(text: str, what: str, least: float, most: float, per: str = "") -> int:
    """Read "36GB" or "36G" (a bare number counts gigabytes) as bytes.

    A machine's memory is sold as GB and means GiB: the caller decides. Raises BadAmount, naming
    `what`, unless the amount lies between `least` and `most` bytes; `per` is what follows them.
    """
    match = AMOUNT.fullmatch(text)
    if match is None:
        raise BadAmount(f"{what} {text!r} is not an amount; write it like 36GB.")
    number, unit, _ = match.groups()
    letters = (unit or "GB").upper().removesuffix("B") + "B"
    value = float(number) * FACTORS[letters]
    if not least <= value <= most:
        raise BadAmount(
            f"{what} {text!r} is out of range: it should be between {show_bytes(least)}{per} and "
            f"{show_bytes(most)}{per}."
        )
    return round(value)


def show_bytes(value: float, binary: bool = False) -> str:
    """Bytes in three digits and the unit that suits them: 1,500,000 is "1.5 MB".

    `binary` counts in units of 1,024, as memory is sold: 38,654,705,664 bytes are "36 GiB", and
    "38.7 GB" without it.
    """
    *units, last = BINARY if binary else DECIMAL
    for unit in units:
        if abs(float(f"{value:.3g}")) < 1000:
            return f"{value:.3g} {unit}"
        value /= 1024 if binary else 1000
    return f"{value:.3g} {last}"


def show_size(size: int, beside: int) -> str:
    """`show_bytes(size)`; all digits where another size, `beside`, would be shown alike."""
    shown = show_bytes(size)
    return f"{size:,} B" if size != beside and shown == show_bytes(beside) else shown


def show_number(value: float) -> str:
    """A measured number as it is read: 0.4123, 1.2e-5, 3.5e8. Powers of ten keep two digits."""
    text = f"{value:.4g}"
    return short_exponents(f"{value:.2g}") if "e" in text else text


def show_value(value: object) -> str:
    """A measured value as it is read: a number, "none" for an empty collection, or text."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        is_empty = isinstance(value, (list, tuple, set, dict)) and not value
        return "none" if is_empty else short_exponents(str(value))
    return f"{value:,}" if isinstance(value, int) else show_number(value)


def short_exponents(text: str) -> str:
    """`text` with 1e-5 and 1e6 in place of Python's 1.0e-05 and 1e+06."""
    return EXPONENT.sub(lambda match: f"e{match[1].strip('+')}{match[2]}", text)


def parse_numbers(text: str, what: str, allowed: range | tuple[int, ...]) -> list[int]:
    """Read "4,8" as numbers out of `allowed`; "32k" counts units of 1,024, as contexts do.

    Raises BadAmount for anything else.
    """
    try:
        numbers = [_number(part.strip().lower()) for part in text.split(",")]
    except ValueError:
        numbers = []
    if numbers and all(number in allowed for number in numbers):
        return numbers
    if isinstance(allowed, range):
        choice = f"from {allowed[0]:,} to {allowed[-1]:,}"
    else:
        choice = "out of " + ", ".join(map(str, allowed))
    raise BadAmount(f"{what} {text!r} should be numbers {choice}, with commas between them.")


def _number(text: str) -> int:
    return 1024 * int(text[:-1]) if text.endswith("k") else int(text)
