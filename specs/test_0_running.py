"""Experiment 0: a run on a model says which claim is running, and for how long.

Each run is pytest in a process of its own, on a suite of two specs: one takes seconds, one none.
"""

import os
import re

import pytest

from fixtures.doubles.suite_run import plant, small_suite, start_pytest

SLOW_AND_FAST = """
import pytest, time

@pytest.mark.parametrize("mended", ["tiny-llama"])
@pytest.mark.claim(id="9.1")
def test_that_takes_seconds(mended):
    print("what a spec prints")
    time.sleep(3)

@pytest.mark.parametrize("mended", ["tiny-llama"])
@pytest.mark.claim(id="9.2")
def test_that_takes_none(mended):
    pass
"""

TOLD = "running for 2 s: 9.1 on tiny-llama: 9.1 holds"
IN_A_LOG = {  # the options of a run, and whether it names what is running
    (): True,
    ("-v",): True,
    ("-s",): True,
    ("-q",): False,
    ("-n", "1"): False,
}
LIVE = re.compile(r"\r\n\x1b\[2K\x1b\[2m(.*?)\x1b\[0m\x1b\[A\x1b\[(\d+)G")
"""A line below the cursor: its text, and the column that the cursor goes back to."""
COLOUR = re.compile(r"\x1b\[[\d;]*m")


def at_two(line):
    """The line as it is on an idle machine: on a busy one the thread comes a second late."""
    return re.sub(r"\b[23] s", "2 s", line.strip())


def wait_a_minute(monkeypatch, tmp_path):
    plant(monkeypatch, tmp_path, """
def pytest_sessionstart():
    from fixtures.plugins import running
    running.AFTER = 60
""")  # fmt: skip


@pytest.mark.slow
@pytest.mark.claim(id="0.153", falsifier=wait_a_minute)
def test_a_run_on_a_model_names_the_claim_that_is_running(exhibit, tmp_path):
    """The lines of each run's output that name a running claim: none of the fast one."""
    suite = small_suite(tmp_path / "suite", SLOW_AND_FAST, ["9.1", "9.2"])
    told, codes = {}, []
    for options in IN_A_LOG:
        run = start_pytest("specs", "--model", "tiny-llama", *options, root=suite)
        output, _ = run.communicate()
        told[options] = [at_two(line) for line in output.splitlines() if "running for" in line]
        codes.append(run.returncode)
    rows = [[" ".join(options), "\n".join(lines)] for options, lines in told.items()]
    exhibit.table(rows, columns=["options", "told"], title="which claim is running")

    wanted = {options: [TOLD] * speaks for options, speaks in IN_A_LOG.items()}
    says = exhibit.measured("lines that name a running claim", told, should_be=wanted)

    assert codes == [0] * len(codes), f"exit codes = {codes}, but each should be 0"
    assert told == wanted, says


A_QUARTER = """
import pytest, time

@pytest.mark.parametrize("mended", ["tiny-llama"])
@pytest.mark.claim(id="9.1")
def test_that_takes_seconds(mended, progress):
    progress(0.25)
    time.sleep(3)
"""


def tell_the_seconds_so_far(monkeypatch, tmp_path):
    plant(monkeypatch, tmp_path, """
def pytest_sessionstart():
    from fixtures.plugins.running import Running
    Running.estimate = lambda self, seconds: f", 25% done, about {seconds:.0f} s left"
""")  # fmt: skip


@pytest.mark.slow
@pytest.mark.claim(id="0.220", falsifier=tell_the_seconds_so_far)
def test_a_spec_that_tells_its_share_is_named_with_the_seconds_that_are_left(exhibit, tmp_path):
    """A spec that has done a quarter after 2 s is told to take three times as long from there."""
    suite, file = small_suite(tmp_path / "suite", A_QUARTER, ["9.1"]), tmp_path / "share"
    run = start_pytest("specs", "--model", "tiny-llama", "--progress", str(file), root=suite)
    output, _ = run.communicate()
    exhibit.text(output, title="the output of a run")
    told = [
        tuple(map(int, figures))
        for figures in re.findall(r"running for (\d+) s, (\d+)% done, about (\d+) s left", output)
    ]

    says = exhibit.measured(
        "seconds so far, per cent done, seconds left",
        told,
        should_be="2, 25, 6; a second more if late",
    )

    assert file.read_text() == "0.2500", f"{file.read_text()} in the file, but should be 0.2500"
    assert len(told) == 1, says
    seconds, share, left = told[0]
    assert (share, left - 3 * seconds in (-1, 0, 1)) == (25, True), says


def leave_the_line(monkeypatch, tmp_path):
    plant(monkeypatch, tmp_path, """
def pytest_sessionstart():
    from fixtures.plugins.running import Running
    def pause(self):
        self.line, self.shown = None, False
    Running.pause = pause
""")  # fmt: skip


def on_a_terminal(suite, *options):
    """The exit code of a run on a pseudo-terminal, and all that it wrote there."""
    screen, terminal = os.openpty()
    run = start_pytest("specs", "--model", "tiny-llama", *options, root=suite, stdout=terminal)
    os.close(terminal)
    written = b""
    try:
        while part := os.read(screen, 4096):
            written += part
    except OSError:  # Linux ends a pseudo-terminal with an error, macOS with nothing
        pass
    os.close(screen)
    run.communicate()
    return run.returncode, written.decode()


@pytest.mark.slow
@pytest.mark.claim(id="0.154", falsifier=leave_the_line)
def test_the_line_of_the_running_claim_leaves_the_terminal_as_it_was(
    exhibit, monkeypatch, tmp_path
):
    """What a run writes on a terminal without the line, and with it where the line is cut out."""
    for name in ("NO_COLOR", "PY_COLORS", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    suite = small_suite(tmp_path / "suite", SLOW_AND_FAST, ["9.1", "9.2"])
    seen = {}
    for options in [(), ("-v",)]:
        code, written = on_a_terminal(suite, *options)
        lines = [(at.start(), *at.groups()) for at in LIVE.finditer(written)]
        without = on_a_terminal(suite, *options, "-p", "no:fixtures.plugins.running")
        seen[options] = {
            "told": [at_two(text) for _, text, _ in lines],
            "columns off": [column for start, _, column in lines
                            if int(column) != column_at(written[:start])],
            "without the line": (code, results_in(written)) == (without[0], results_in(without[1])),
        }  # fmt: skip
    rows = [[" ".join(options), *each.values()] for options, each in seen.items()]
    exhibit.table(rows, columns=["options", *seen[()]], title="runs on a terminal")
    told = {options: each["told"][:1] for options, each in seen.items()}

    left = {
        options: (each["told"][-1], each["columns off"], each["without the line"])
        for options, each in seen.items()
    }
    says = exhibit.measured(
        "last line, columns that the cursor does not go back to, the same without it",
        left,
        should_be=dict.fromkeys(seen, ("", [], True)),
    )

    assert all(lines == [TOLD] for lines in told.values()), f"no line is told: {told}"
    assert left == dict.fromkeys(seen, ("", [], True)), says


def column_at(written):
    """The column after what was written, from 1, with colours and lines below left out."""
    line = COLOUR.sub("", LIVE.sub("", written)).rpartition("\n")[2].rpartition("\r")[2]
    return len(line) + 1


def results_in(written):
    """What a terminal shows of the specs; before and after it stand times, which differ."""
    return LIVE.sub("", written).rpartition("collected 2 items")[2].partition(" ledger ")[0]
