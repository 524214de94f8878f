"""LLaDA's and Dream's samplers, one prompt at a time, in plain Python and float64, from their description.

They share no code with the program: a step is a loop over positions, an ordering is `sorted`. `logits(ids)` gives a
list of rows, row i for token i. `uniforms(purpose, step, shape)` gives the random numbers of a request as nested lists.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any

Logits = Callable[[list[int]], list[list[float]]]
Uniforms = Callable[..., Any]


def llada(
    logits: Logits,
    uniforms: Uniforms,
    prompt: list[int],
    *,
    mask: int,
    gen_length: int,
    steps: int,
    block_length: int,
    remasking: str = "low_confidence",
    temperature: float = 0.0,
    cfg_scale: float = 0.0,
    never: Collection[int] = (),
    last: Collection[int] = (),
) -> list[int]:
    """`never`: tokens that are not written.  `last`: tokens whose places have no confidence."""
    canvas = prompt + [mask] * gen_length
    num_blocks = gen_length // block_length
    steps_per_block = steps // num_blocks
    for block in range(num_blocks):
        places = range(len(prompt) + block * block_length, len(prompt) + (block + 1) * block_length)
        known: set[int] = set()
        for step in range(steps_per_block):
            count = block_length // steps_per_block + (1 if step < block_length % steps_per_block else 0)
            draw = block * steps_per_block + step
            rows = logits(canvas)
            if cfg_scale:
                blind = logits([mask] * len(prompt) + canvas[len(prompt) :])
                rows = [
                    [(1 + cfg_scale) * value - cfg_scale * other for value, other in zip(row, others, strict=True)]
                    for row, others in zip(rows, blind, strict=True)
                ]
            noise = uniforms("tokens", draw, (block_length, len(rows[0]))) if temperature else None
            order = uniforms("positions", draw, (block_length,)) if remasking == "random" else None
            found = {}
            for place in places:
                row = [-math.inf if token in {mask, *never} else value for token, value in enumerate(rows[place])]
                scores = row
                if noise is not None:
                    # Gumbel-max: exp(logit) / (-ln u)^T is largest at a token drawn from softmax(logit / T).
                    draws = noise[place - places[0]]
                    scores = [v - temperature * math.log(-math.log(u)) for v, u in zip(row, draws, strict=True)]
                token = scores.index(max(scores))
                kept = [-math.inf if token in last else value for token, value in enumerate(row)]
                sure = softmax(kept)[token] if order is None else order[place - places[0]]
                found[place] = (token, sure)
            open_places = [place for place in places if place not in known]
            for place in sorted(open_places, key=lambda place: -found[place][1])[:count]:
                canvas[place] = found[place][0]
                known.add(place)
    return canvas[len(prompt) :]


def dream(
    logits: Logits,
    uniforms: Uniforms,
    prompt: list[int],
    *,
    mask: int,
    gen_length: int,
    steps: int,
    algorithm: str,
    temperature: float = 0.0,
    top_p: float | None = None,
    top_k: int | None = None,
    alg_temp: float | None = None,
) -> list[int]:
    canvas = prompt + [mask] * gen_length
    start = len(prompt)
    unknown = set(range(gen_length))
    times = [1 + (1e-3 - 1) * i / steps for i in range(steps + 1)]
    for step in range(steps):
        share = 1 - times[step + 1] / times[step]
        is_last = step == steps - 1
        rows = logits(canvas)
        tokens, sure = {}, {}
        draws = uniforms("tokens", step, (gen_length, 1)) if temperature else None
        for place in sorted(unknown):
            row = [-math.inf if token == mask else value for token, value in enumerate(rows[start + place])]
            probs = keep(row, temperature, top_p, top_k)
            if draws is None:
                tokens[place] = probs.index(max(probs))
            else:
                tokens[place] = invert(probs, draws[place][0])
            best = sorted(probs, reverse=True)
            sure[place] = {
                "origin": 0.0,
                "maskgit_plus": probs[tokens[place]],
                "topk_margin": best[0] - best[1],
                "entropy": sum(p * math.log(p) for p in probs if p > 0),
            }[algorithm]
        if algorithm == "origin":
            draws_of_places = uniforms("positions", step, (gen_length,))
            commit = [place for place in sorted(unknown) if is_last or draws_of_places[place] < share]
        else:
            if alg_temp:
                noise = uniforms("positions", step, (gen_length,))
                sure = {place: sure[place] / alg_temp - math.log(-math.log(noise[place])) for place in unknown}
            count = len(unknown) if is_last else int(len(unknown) * share)
            commit = sorted(sorted(unknown), key=lambda place: -sure[place])[:count]
        for place in commit:
            canvas[start + place] = tokens[place]
            unknown.discard(place)
    return canvas[start:]


def softmax(row: list[float]) -> list[float]:
    top = max(row)
    weights = [math.exp(value - top) for value in row]
    return [weight / sum(weights) for weight in weights]


def keep(row: list[float], temperature: float, top_p: float | None, top_k: int | None) -> list[float]:
    """Probabilities after temperature, the smallest set of tokens that reaches top_p, and the top_k of the rest."""
    if temperature:
        row = [value / temperature for value in row]
    if top_p is not None:
        probs, reached, kept = softmax(row), 0.0, set()
        for token in sorted(range(len(row)), key=lambda token: -row[token]):
            if reached > top_p:
                break
            kept.add(token)
            reached += probs[token]
        row = [value if token in kept else -math.inf for token, value in enumerate(row)]
    if top_k is not None:
        smallest = sorted(row, reverse=True)[:top_k][-1]
        row = [value if value >= smallest else -math.inf for value in row]
    return softmax(row)


def invert(probs: list[float], draw: float) -> int:
    """The first token at which the distribution function exceeds the draw."""
    reached = 0.0
    for token, probability in enumerate(probs):
        reached += probability
        if reached > draw:
            return token
    return max(token for token, probability in enumerate(probs) if probability > 0)
