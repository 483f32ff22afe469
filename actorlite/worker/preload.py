"""Importing what workers will need, once, and refusing what does not survive a fork."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TypeAlias, cast

from actorlite.host import WorkerSpec
from actorlite.wire.zygote import ZygoteConfig

Entry: TypeAlias = Callable[[WorkerSpec], object]
"""What a worker runs on its main thread; the process ends when it returns."""

ERROR_CHARACTERS = 8000


class PreloadError(Exception):
    """`module` cannot be imported, or must not be in a process that forks."""

    def __init__(self, module: str, text: str) -> None:
        super().__init__(text)
        self.module = module


def preload(config: ZygoteConfig) -> tuple[Entry, float]:
    """Import the entry and all modules to preload; returns the entry and the seconds it took.

    Raises `PreloadError`, naming the first module that fails, starts threads or initialises CUDA.
    """
    began = time.monotonic()
    module, _, function = config.entry.partition(":")
    for name in (module, *config.preload):
        _import(name)
        if not config.allow_preload_threads:
            _check(name)
    try:
        entry = cast(Entry, getattr(sys.modules[module], function))
    except AttributeError as error:
        raise PreloadError(module, f"the worker entry {config.entry!r} does not exist") from error
    return entry, time.monotonic() - began


def adopt_path(sys_path: Sequence[str], cwd: str) -> None:
    """Look for modules where the driver does, then where this process did; work in the driver's directory."""
    if sys.path[: len(sys_path)] != list(sys_path):
        sys.path[:] = [*sys_path, *(entry for entry in sys.path if entry not in sys_path)]
    if cwd:
        os.chdir(cwd)


def _import(name: str) -> None:
    try:
        import_module(name)
    except (Exception, SystemExit) as error:
        lines = "".join(traceback.format_exception(error))[-ERROR_CHARACTERS:]
        raise PreloadError(name, f"cannot import {name!r} in the zygote: {error!r}\n{lines}") from error


def _check(name: str) -> None:
    threads = len(os.listdir("/proc/self/task")) - 1
    if threads:
        raise PreloadError(
            name,
            f"importing {name!r} left {threads} threads running, and a fork copies locks but not threads. "
            f"Numerical libraries start none with OMP_NUM_THREADS=1 and OPENBLAS_NUM_THREADS=1 in the environment; "
            f"otherwise take {name!r} out of preload, or pass allow_preload_threads=True if it survives a fork",
        )
    if _cuda_initialised():
        raise PreloadError(
            name,
            f"importing {name!r} initialised CUDA, which does not work in forked processes. Take {name!r} out of "
            f"preload, keep calls like torch.cuda.is_available() out of its import, or pass "
            f"allow_preload_threads=True if no worker uses CUDA",
        )


def _cuda_initialised() -> bool:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return True
    # Also what torch does not count: asking for the number of devices already ties the driver to this process.
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}").startswith("/dev/nvidia"):
                return True
        except FileNotFoundError:
            continue
    return False
