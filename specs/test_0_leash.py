"""Experiment 0: servers, and the processes that try a model directory, end with what started them.

The parent is a process of its own. A fault is planted there as its first line.
"""

import os
import signal
import subprocess
import sys

import psutil
import pytest

from fixtures.doubles.suite_run import ROOT

FEW = 10.0  # seconds until they are gone, on a busy machine
STARTED = 2  # a server, and a process that speaks JSON

HEALTHY = """
import http.server, sys
class Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
where = ("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1]))
http.server.HTTPServer(where, Healthy).serve_forever()
"""
PARENT = f"""
import signal, sys, time
from pathlib import Path
from llm_spec.processes.child import Child
from llm_spec.serving import Server

signal.signal(signal.SIGINT, signal.default_int_handler)  # else ignored in a background job
server = Server(Path(), (sys.executable, "-c", {HEALTHY!r}))
deaf = Child("http.server", "0", "--bind", "127.0.0.1")  # it never reads what it is told
print(server.pid, deaf._process.pid, flush=True)
time.sleep(60)
"""
FIRST_LINE: list[str] = []


def do_not_hold_them(monkeypatch):
    line = "from llm_spec.processes import leash; leash.Leash.hold = lambda self, pid: None"
    monkeypatch.setattr(sys.modules[__name__], "FIRST_LINE", [line])


@pytest.mark.slow
@pytest.mark.claim(id="0.229", falsifier=do_not_hold_them)
def test_what_a_run_starts_ends_with_it(exhibit):
    """The parent gets a signal while both run. After SIGKILL it cannot end them itself."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tools")}
    program, rows = "\n".join([*FIRST_LINE, PARENT]), []
    for way in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        with subprocess.Popen(
            [sys.executable, "-c", program], env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        ) as parent:  # fmt: skip
            assert parent.stdout is not None
            started = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
            assert len(started) == STARTED, f"{len(started)} processes, but should be {STARTED}"
            parent.send_signal(way)
        _, left = psutil.wait_procs(started, timeout=FEW)
        for process in left:
            process.kill()
        rows.append([way.name, len(left)])
        if left:
            break
    exhibit.table(rows, columns=["signal", "processes left"], title=f"{FEW:g} s after the signal")
    most = max(left for _, left in rows)
    says = exhibit.measured("most processes left", most, should_be=0)

    assert most == 0, says
