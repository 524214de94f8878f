"""Run generated Python programs where they can do no harm.

A program runs in bubblewrap where that works, else behind Landlock, else in user namespaces of its own; which one is
found out once, by running a program that tries to get out. Whatever the layer, a seccomp filter allows one process with
one thread and no network, and the kernel limits its time, memory and files. Behind Landlock a program can still ask
whether a path exists, and how large and old it is; in the other two layers there is nothing to ask about.
Nothing here knows about tasks or models.
"""

from workers.sandbox.choosing import SandboxError, passes, run, sandbox_name
from workers.sandbox.execution import Limits, Verdict

__all__ = ["Limits", "SandboxError", "Verdict", "passes", "run", "sandbox_name"]
