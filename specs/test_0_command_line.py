"""Experiment 0: what `llm-spec` imports before a subcommand runs.

On Linux a fast BLAS serves MLX only if it is loaded before MLX. `look` and `measure` once computed
with the slow one, because `guard`, which they do not need, had imported MLX.
"""

import subprocess
import sys

import pytest

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
