"""What is set before JAX starts: one thread on a CPU, memory that stays with the process, programs that stay on disk.

The last two have an environment variable that turns them off: MNET_JAX_KEEP_MEMORY=0, MNET_JAX_COMPILATION_CACHE=0.
"""

import contextlib
import ctypes
import hashlib
import importlib.util
import logging
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

from mnet_jax.errors import UserError

KEEP_MEMORY, COMPILATION_CACHE = "MNET_JAX_KEEP_MEMORY", "MNET_JAX_COMPILATION_CACHE"

MALLOPT = {
    -1: -1,  # M_TRIM_THRESHOLD: free memory at the top of the heap is never given back
    -2: 64 << 20,  # M_TOP_PAD: bytes that the heap grows by beyond what is asked for
    -4: 0,  # M_MMAP_MAX: large blocks come from the heap, too
    -8: 1,  # M_ARENA_MAX: one heap for all threads
}
"""Parameter -> value, as <malloc.h> numbers them."""


def start() -> None:
    """Sets up this process; to be called once, before the first use of a JAX device."""
    if on_cpu():
        use_one_thread()
        if wanted(KEEP_MEMORY):
            keep_memory()
    if wanted(COMPILATION_CACHE):
        keep_programs()


def wanted(variable: str) -> bool:
    """Whether the user has not turned this off."""
    return os.environ.get(variable, "1") != "0"


def on_cpu() -> bool:
    """Whether JAX will compute on a CPU, without starting it: it is told to, or has nothing else installed."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    accelerators = any(importlib.util.find_spec(name) for name in ("jax_plugins", "libtpu"))
    return platforms == "cpu" if platforms else not accelerators


def use_one_thread() -> None:
    """Makes XLA compute with one thread; a machine's other cores are for other runs, by processes.

    A sum is cut by the number of threads, so that with more of them the same run would have other bits in this process
    than in a worker, which is pinned to a core.
    """
    os.environ.setdefault("NPROC", "1")  # XLA sizes its pool by it


def threads() -> int:
    """How many threads XLA computes with on the host: those of `use_one_thread`, else one for each core."""
    if (told := os.environ.get("NPROC", "")).isdecimal():
        return int(told)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


ACCELERATORS = {"cuda": "/dev/nvidiactl", "tpu": "/dev/accel0"}
"""Extra of this package -> a file that is there where its accelerator is."""


def accelerator_hint() -> str:
    """Which extra to install, where an accelerator is there and the package that JAX needs for it is not; else ""."""
    if os.environ.get("JAX_PLATFORMS") or not on_cpu():
        return ""
    found = [extra for extra, path in ACCELERATORS.items() if Path(path).exists()]
    return f"(an accelerator is there; to use it: pip install 'mnet_jax[{found[0]}]')" if found else ""


def keep_memory() -> bool:
    """Makes glibc keep freed memory for the next allocation; False, and no change, with any other C library.

    XLA allocates the temporary memory of a program anew at every call. By default glibc maps and unmaps blocks of that
    size, so the kernel has to zero every page of it again: half of the time of a training step. The price is that the
    process stays as large as it ever was.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    accepted = [library.mallopt(parameter, value) for parameter, value in MALLOPT.items()]
    return all(accepted)


def keep_programs() -> None:
    """Makes JAX store compiled programs, and load them in the next process, if the user has not chosen a folder.

    The folder can be deleted at any time. Several processes may share it: an entry that is damaged, or only half
    written, is compiled again, with a warning.
    """
    import jax

    if getattr(jax.config, "jax_compilation_cache_dir", None):
        return
    with contextlib.suppress(OSError, RuntimeError):  # a home that is read-only, or none
        folder = programs_folder()
        folder.mkdir(parents=True, exist_ok=True)
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def programs_folder() -> Path:
    """Where programs are stored: one folder for each kind of CPU and number of threads.

    XLA compiles for a CPU's instructions, and cuts loops by the number of threads, which is not in JAX's key: a pinned
    worker would load what rounds differently, and of two machines with one home one might load what it cannot run.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cpu = {platform.machine(), platform.processor()}
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu |= {line for line in lines if line.startswith(("model name", "flags", "CPU part", "Features"))}
    digest = hashlib.sha256(repr((sorted(cpu), threads())).encode()).hexdigest()[:8]
    return cache / "mnet_jax" / "jax" / digest


def start_logging() -> None:
    """Log lines are the messages alone; of libraries, only what goes wrong."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    for noisy in ("jax", "fontTools"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    for noisy in ("absl", "orbax"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)  # what Orbax reports as an error it also raises


@contextlib.contextmanager
def exit_status() -> Iterator[None]:
    """A user's mistake, a full disk or too little memory ends the process with one line; a bug keeps its traceback."""
    try:
        yield
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
    except MemoryError as error:
        sys.exit(
            f"error: out of memory{f' ({error})' if str(error) else ''}; allowed: smaller images, batches or networks"
        )
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on")
