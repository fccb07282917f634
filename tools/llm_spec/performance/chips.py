"""Published memory bandwidths, and which chip this machine has. Unknown stays unknown."""

import os
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from llm_spec.numerics.units import show_bytes

TABLE = Path(__file__).with_name("chips.toml")

# What macOS lets the GPU keep resident (recommendedMaxWorkingSetSize), by RAM. Read off logs that
# print it: 16 and 32 GiB give 10.67 and 21.33 GiB, two thirds; 36, 64, 96 and 128 GiB give 27, 48,
# 72 and 96 GiB, three quarters. macOS 26 has been seen to allow more (11.84 of 16, 107.5 of 128
# GiB), and `sysctl iogpu.wired_limit_mb` overrides it; a running machine's own answer comes first.
SMALL_RAM = 32 << 30


@dataclass(frozen=True)
class Chip:
    """A chip and its published memory bandwidth in bytes per second.

    `cpu_cores` tells variants of one name apart where it can; `note` says what else does.
    """

    name: str
    bandwidth: float
    cpu_cores: int | None = None
    note: str = ""


class UnknownChip(LookupError):
    """No chip of the table has this name. The text is one sentence."""


@cache
def table() -> tuple[Chip, ...]:
    """All chips whose bandwidth is known, in the order of the file."""
    entries = tomllib.loads(TABLE.read_text(encoding="utf-8")).values()
    return tuple(
        Chip(e["name"], e["gbps"] * 1e9, e.get("cpu_cores"), e.get("note", "")) for e in entries
    )


def named(name: str) -> list[Chip]:
    """The variants of the chip that a person calls `name`: "M3 Pro", "apple m3 pro", "m3-pro".

    Slowest first. Raises UnknownChip for a name that the table does not have.
    """
    wanted = _plain(name)
    found = [chip for chip in table() if wanted in (_plain(chip.name), _plain(_short(chip.name)))]
    if not found:
        known = ", ".join(dict.fromkeys(_short(chip.name) for chip in table()))
        raise UnknownChip(f"{name!r} is not in the table of chips, which has {known}.")
    return sorted(found, key=lambda chip: chip.bandwidth)


def _short(name: str) -> str:
    return name.partition(" ")[2]


def _plain(name: str) -> str:
    return "".join(name.lower().replace("-", " ").split())


def one_of(variants: list[Chip], cpu_cores: int | None = None) -> Chip:
    """The one chip that is meant. Raises UnknownChip where a name covers two bandwidths and the
    number of CPU cores does not tell them apart."""
    fitting = [chip for chip in variants if chip.cpu_cores in (None, cpu_cores)] or variants
    if len(fitting) == 1:
        return fitting[0]
    choices = " or ".join(f"{show_bytes(chip.bandwidth)}/s ({chip.note})" for chip in fitting)
    raise UnknownChip(f"{_short(fitting[0].name)} has {choices}: say which with --bandwidth.")


def here() -> Chip | None:
    """The chip of MLX's default device, or None where the table cannot tell."""
    from llm_spec.numerics import device  # here: it imports MLX, which a planned machine has not

    info = device.info()
    try:
        return one_of(named(str(info.get("device_name", ""))), os.cpu_count())
    except UnknownChip:
        return None


def metal_limit(ram: int) -> int:
    """Bytes that macOS lets the GPU of a Mac with `ram` bytes keep resident, by default."""
    return ram * 2 // 3 if ram <= SMALL_RAM else ram * 3 // 4
