"""Studies of post-training quantization on diffusion language models: the names of `orchestrator`, under the program's.

The wheel installs this file as the module `qstudy`. Names are looked up when they are first used.
"""

from typing import TYPE_CHECKING

from orchestrator import __all__, __getattr__  # noqa: F401

if TYPE_CHECKING:
    from orchestrator import *  # noqa: F403
