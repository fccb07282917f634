"""What this process starts ends with it, also where nothing of it can run any more.

SIGKILL, and a SIGTERM that nobody handles, end a process without a word to those that it started.
So a small process beside it holds them. All that it knows of its parent is a pipe, whose other end
the system closes when the parent ends, whatever ended it.
"""

import contextlib
import subprocess
import sys


class Leash:
    """Ends the processes that it holds when this process ends, until it is closed."""

    def __init__(self) -> None:
        # In a session of its own: Ctrl-C, and a kill of the whole group, pass it by.
        self._holder = subprocess.Popen(
            [sys.executable, "-P", __file__], start_new_session=True, stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def hold(self, pid: int) -> None:
        """Let the process of this id end with the one that has the leash."""
        assert self._holder.stdin is not None  # as asked for
        with contextlib.suppress(BrokenPipeError):  # somebody ended the holder
            self._holder.stdin.write(b"%d\n" % pid)
            self._holder.stdin.flush()

    def close(self) -> None:
        """Let them go: whoever started them has ended them."""
        self._holder.kill()
        self._holder.communicate()


def hold_until_the_end() -> None:
    """For the process beside it: read process ids until the pipe is closed, then kill those that
    still run. A process that got the number of one that has ended is left alone."""
    import psutil  # here: whoever has a leash need not load it

    held: list[psutil.Process] = []
    for line in sys.stdin:
        with contextlib.suppress(psutil.NoSuchProcess):
            held.append(psutil.Process(int(line)))
    for process in held:
        with contextlib.suppress(psutil.Error):
            process.kill()


if __name__ == "__main__":
    hold_until_the_end()
