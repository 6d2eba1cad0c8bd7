"""Kill the server at a named step, as a power cut would: `KILL_AT=module:function:before|after[:call]`. For tests only.

Python imports this by itself when the folder is on PYTHONPATH. Only the process that serves is concerned; it is the
program as it is, ended between two of its steps.
"""

import functools
import importlib
import inspect
import itertools
import os
import signal
import sys


def end() -> None:
    """Die here and now."""
    os.kill(os.getpid(), signal.SIGKILL)


def arm(place: str) -> None:
    """Wrap the function that is named, so that calling it ends the process before or after it has run."""
    module_name, path, when, *at = place.split(":")
    calls = itertools.count(1)
    wanted = int(at[0]) if at else 1
    owner = importlib.import_module(module_name)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    function = getattr(owner, name)

    @functools.wraps(function)
    def plain(*arguments, **named):
        is_it = next(calls) >= wanted
        if is_it and when == "before":
            end()
        answer = function(*arguments, **named)
        if is_it:
            end()
        return answer

    @functools.wraps(function)
    async def awaited(*arguments, **named):
        is_it = next(calls) >= wanted
        if is_it and when == "before":
            end()
        answer = await function(*arguments, **named)
        if is_it:
            end()
        return answer

    setattr(owner, name, awaited if inspect.iscoroutinefunction(function) else plain)


if os.environ.get("KILL_AT") and "serve" in sys.orig_argv:
    arm(os.environ["KILL_AT"])
