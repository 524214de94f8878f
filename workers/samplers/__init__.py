"""Samplers: how each family of diffusion models writes an answer of a fixed number of tokens.

LLaDA fills blocks from left to right, Dream commits over the whole answer. Token ids in, token ids out: text, stop
strings and chat templates never come here.
"""

from workers.samplers.answers import generate
from workers.samplers.writing import Prompt, Savings

__all__ = ["Prompt", "Savings", "generate"]
