"""Experiment 0: what `llm-spec` imports before a subcommand runs, and what it refuses to start.

On Linux a fast BLAS serves MLX only if it is loaded before MLX. `look` and `measure` once computed
with the slow one, because `guard`, which they do not need, had imported MLX.
"""

import json
import os
import subprocess
import sys

import pytest

from fixtures.doubles.refusals import is_one_sentence
from llm_spec.cli.command_line import main
from llm_spec.numerics.units import BadAmount
from llm_spec.performance import bandwidth
from llm_spec.report import destination

WRONG_USAGE = 2
COMPUTE = ("look", "measure")
START = "from llm_spec.cli.command_line import main"
ASK = """
import sys
try:
    main([sys.argv[1], "--help"])
except SystemExit:
    print("imported:", *sorted({name.partition(".")[0] for name in sys.modules}))
"""


def import_all_of_them(monkeypatch):
    monkeypatch.setitem(globals(), "START", f"from llm_spec.cli import guard\n{START}")


@pytest.mark.claim(id="0.155", falsifier=import_all_of_them)
def test_a_subcommand_that_computes_starts_before_mlx_is_imported(exhibit):
    """What a process of its own has imported once the subcommand knows its arguments."""
    imported = {}
    for name in COMPUTE:
        command = [sys.executable, "-c", START + ASK, name]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        imported[name] = run.stdout.rpartition("imported:")[2].split()
    rows = [[name, len(modules), "mlx" in modules] for name, modules in imported.items()]
    exhibit.table(rows, columns=["subcommand", "packages", "MLX"], title="imported at the start")
    early = [name for name, modules in imported.items() if "mlx" in modules]

    says = exhibit.measured("subcommands that start after MLX", early, should_be=[])

    assert all("llm_spec" in modules for modules in imported.values()), (
        f"modules that a subcommand imports = {imported}"
    )
    assert not early, says


def let_it_through(monkeypatch):
    monkeypatch.setitem(
        globals(), "START", f"import errno; errno.EPIPE = errno.ENOSPC = 0; {START}"
    )


@pytest.mark.claim(id="0.245", falsifier=let_it_through)
def test_an_output_that_cannot_be_written_ends_in_no_traceback(exhibit, tmp_path):
    """`guard` prints into a pipe whose reader has ended, as `head` does, and on a full disk. Exit
    code 1 would tell that a benchmark is slower."""
    shares = [1.0] * 5
    one = {"name": "one", "extra_info": {"shares": shares, "device_class": "here"}}
    now, known = tmp_path / "now.json", tmp_path / "known.json"
    now.write_text(json.dumps({"benchmarks": [one]}))
    known.write_text(json.dumps({"here": {"one": shares}}))
    reader, broken = os.pipe()
    os.close(reader)
    outputs = {"a broken pipe": broken}
    if os.path.exists("/dev/full"):  # on Linux
        outputs["a full disk"] = os.open("/dev/full", os.O_WRONLY)
    found = {}
    for name, output in outputs.items():
        command = [sys.executable, "-c", f"{START}; raise SystemExit(main())", "guard", now, known]
        run = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, text=True)
        os.close(output)
        found[name] = run.returncode, run.stderr.strip()[-200:]
    exhibit.table([[name, *end] for name, end in found.items()],
                  columns=["output", "exit code", "said"], title="llm-spec guard")  # fmt: skip
    full = "The output cannot be written: No space left on device."
    wanted = {"a broken pipe": (141, ""), "a full disk": (WRONG_USAGE, full)}
    wanted = {name: wanted[name] for name in found}

    says = exhibit.measured("exit codes and sentences", found, should_be=wanted)

    assert found == wanted, says


def forget_what_is_dropped(monkeypatch):
    forgets = "import sys; from llm_spec.cli import command_line; "
    forgets += "command_line._dropped = sys.__unraisablehook__"
    monkeypatch.setitem(globals(), "START", f"{forgets}; {START}")


DROPS = """
import os, signal, time
from llm_spec.cli import fit

class Slow:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)

def run(args):
    Slow()
    time.sleep(2)
    return 0

fit.run = run
raise SystemExit(main(["fit"]))
"""


@pytest.mark.claim(id="0.246", falsifier=forget_what_is_dropped)
def test_an_interrupt_that_a_finaliser_drops_ends_the_command(exhibit):
    """A finaliser is interrupted; `fit` would then take two seconds more."""
    command = [sys.executable, "-c", f"{START}{DROPS}"]
    run = subprocess.run(command, capture_output=True, text=True)
    found = run.returncode, run.stderr.strip()[-200:]
    exhibit.table([found], columns=["exit code", "said"], title="Ctrl-C in a finaliser")

    says = exhibit.measured("exit code and sentence", found, should_be=(130, "Interrupted."))

    assert found == (130, "Interrupted."), says


REFUSED = {
    "an unknown model": ["qwen3-8c"],
    "no width": ["--bits", "7"],
    "no context": ["--context", "0"],
    "no round": ["--rounds", "0"],
    "rounds without an end": ["--rounds", "1000000"],
    "more tokens than memory": ["--generate", "99999999999999"],
    "an output with too long a name": ["-o", f"{'m' * 300}.json"],
    "an output without a folder": ["-o", "no folder/measured.json"],
    "an output that is no JSON": ["-o", "measured.html"],
    "an output that is a folder": ["-o", "folder.json"],
    "a batch without ranks": ["--batch", "2"],
    "a backend without ranks": ["--backend", "mpi"],
}


def write_anywhere(monkeypatch):
    monkeypatch.setattr(destination, "check_destination", lambda *_: None)


@pytest.mark.claim(id="0.231", falsifier=write_anywhere)
def test_measure_refuses_what_it_could_not_obey(monkeypatch, exhibit, tmp_path, capsys):
    """Nothing is measured here: the device's bandwidth, which comes first, has a stand-in."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.json").mkdir()

    def measured():
        raise BadAmount("It measures")

    monkeypatch.setattr(bandwidth, "measure_device", measured)
    rows = []
    for mistake, options in REFUSED.items():
        code = main(["measure", *options])
        rows.append([mistake, code, capsys.readouterr().err.strip()])
    exhibit.table(rows, columns=["mistake", "exit code", "said"], title="refusals")
    wrong = [row for row in rows if row[1] != WRONG_USAGE or not is_one_sentence(row[2])]
    right = main(["measure", "-o", "measured.json"]), capsys.readouterr().err.strip()

    says = exhibit.measured("mistakes that end otherwise", wrong, should_be=[])

    assert right == (WRONG_USAGE, "It measures"), f"right options end in {right}"
    assert not wrong, says
