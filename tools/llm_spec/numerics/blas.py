"""Give MLX's CPU backend a fast BLAS on Linux.

The Linux wheel of MLX links the reference BLAS, which multiplies matrices about fifty times slower
than OpenBLAS does. The dynamic loader resolves `cblas_sgemm` to the first library that offers it in
the global scope, so a BLAS loaded there *before* `mlx.core` is imported serves MLX instead. macOS
needs none of this: there MLX uses Metal and Accelerate.
"""

import ctypes
import ctypes.util
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

REFERENCE = "reference BLAS (slow; install the extra `blas`)"
SLEEPS = {"OMP_WAIT_POLICY": "passive", "OPENBLAS_THREAD_TIMEOUT": "16"}
"""A thread of the BLAS that has nothing to do sleeps, and one of NumPy's own BLAS does after 2**16
cycles, not 2**26. By default they spin, and on a busy machine they then hold the core that the
other threads need: a token of SmolLM2 takes 270 to 800 ms instead of 70. On idle cores sleeping
costs 8 ms of 44."""

WIDE = {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
"""What a processor says of itself that runs the kernels which OpenBLAS calls SkylakeX. A release
older than the processor takes it for a Haswell, whose kernels are half as wide: 64 tokens of
SmolLM2 then take 176 ms instead of 135."""


def preload(processes: int = 1) -> str:
    """Load the first usable BLAS and return what is in use, for people to read.

    The processors are shared out among so many `processes` that compute side by side: a product
    that is split now one way and now another is rounded anew. Each thread has a count of its own,
    and MLX multiplies in one that it starts later: so `OMP_NUM_THREADS` says it to all, and to what
    this process starts.

    Must run before the first import of `mlx.core`; after it, nothing can be changed any more. What
    the environment says of kernels, of how many threads there are, and how they wait, is kept.
    """
    if sys.platform != "linux":
        return "Accelerate" if sys.platform == "darwin" else "the platform's own"
    if "mlx.core" in sys.modules:
        return "unknown (mlx.core was imported first)"
    for name, value in SLEEPS.items():  # OpenMP reads it while it is loaded, and so the count
        os.environ.setdefault(name, value)
    if _features() >= WIDE:
        os.environ.setdefault("OPENBLAS_CORETYPE", "SkylakeX")
    if processes > 1:
        share = len(os.sched_getaffinity(0)) // processes
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, share)))
    for library in candidates():
        try:
            loaded = _load(library)
        except (OSError, AttributeError):
            continue  # it lacks a run-time library or is no CBLAS: the next may do
        return _describe(loaded, library)
    return REFERENCE


def candidates() -> Iterator[Path]:
    """Where an OpenBLAS may be, best first: cmeel-openblas, faiss-cpu's own, the system's."""
    for package, pattern in (
        ("cmeel", "../cmeel.prefix/lib/libopenblas.so"),
        ("faiss", "../faiss_cpu.libs/libopenblas*.so*"),
    ):
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            yield from sorted(Path(spec.origin).parent.glob(pattern))
    for name in ("openblas", "mkl_rt"):
        if found := ctypes.util.find_library(name):
            yield Path(found)


def environment() -> dict[str, str]:
    """What makes the linker preload the same BLAS in another program that imports MLX."""
    for library in candidates() if sys.platform == "linux" else ():
        if library.is_absolute():
            return {"LD_PRELOAD": ":".join(map(str, [*_run_times(library), library.resolve()]))}
    return {}


def _features() -> set[str]:
    """What the processor offers, in Linux's words; nothing where it says none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return set(next((line for line in lines if line.startswith("flags")), "").split())


def _run_times(library: Path) -> list[Path]:
    """Wheels carry the Fortran and OpenMP run times beside the BLAS, under hashed names. Loaded
    first, they are found by name when the BLAS asks for them."""
    names = ("libquadmath", "libgfortran", "libgomp") if library.is_absolute() else ()
    return [path.resolve() for name in names for path in library.parent.glob(f"{name}-*.so*")]


def _load(library: Path) -> ctypes.CDLL:
    for path in _run_times(library):
        ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
    loaded = ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    loaded.cblas_sgemm  # noqa: B018  raises AttributeError where the symbol is missing
    return loaded


def _describe(loaded: ctypes.CDLL, library: Path) -> str:
    try:
        loaded.openblas_get_config.restype = ctypes.c_char_p
        words = loaded.openblas_get_config().decode().split()
    except AttributeError:
        return library.name
    threads = loaded.openblas_get_num_threads()
    return f"{' '.join(words[:2])} ({threads} thread{'s' * (threads > 1)})"
