"""Our likelihoods against a plain evaluator that is written from the protocol's description, on the same masks.

    PYTHONPATH=. python tests/benchmarks/likelihood_cost.py --items 104          # the demo's models and tasks
    PYTHONPATH=. python tests/benchmarks/likelihood_cost.py --data folder        # and PIQA, on a random model

The plain evaluator, as public code: one sequence per forward, mc_num forwards per choice, logits at all positions, and
lm-eval's greedy flag with one more forward per target token. Prints forwards, tokens through the model, FLOPs (counted
by torch), seconds, and their ratios; exits with 1 where two likelihoods are more than 1e-4 apart. `--data` is a folder
with piqa_valid.jsonl (goal, sol1, sol2).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from grids import CellTask, find_tasks
from grids.protocol import LikelihoodSettings, Protocol
from workers.likelihood.masks import draw_masks
from workers.lm import DiffusionLM
from workers.models import LoadedModel, load_model
from workers.models.architectures import LladaConfig, LladaForDiffusion
from workers.tasks import BuiltTask

DEMO = Path(__file__).parents[2] / "grids" / "demo"
TOLERANCE = 1e-4
Pair = tuple[str, str]


@dataclasses.dataclass
class Cost:
    num_forwards: int = 0
    num_tokens: int = 0
    flops: int = 0
    seconds: float = 0.0


def attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """torch counts the attention kernels of GPUs only; this is the CPU's."""
    return int(sdpa_flop_count(query, key, value))


def counter_of_flops() -> FlopCounterMode:
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    counted = {kernel: attention_flops} if not torch.cuda.is_available() else {}
    return FlopCounterMode(display=False, custom_mapping=counted)


@contextmanager
def counted(loaded: LoadedModel) -> Iterator[Cost]:
    """Forwards, tokens and FLOPs of what runs inside; counting is slow, so nothing is timed here."""
    cost = Cost()

    def count(_: Any, inputs: tuple[Tensor], __: Tensor) -> None:
        cost.num_forwards += 1
        cost.num_tokens += inputs[0].numel()

    model: Any = loaded.model
    hook = model.get_input_embeddings().register_forward_hook(count)
    flops = counter_of_flops()
    try:
        with flops:
            yield cost
    finally:
        hook.remove()
        cost.flops = flops.get_total_flops()


class PlainEvaluator:
    """One sequence per forward, every draw its own forward, every position its logits."""

    def __init__(self, loaded: LoadedModel, settings: LikelihoodSettings, seed: int) -> None:
        self._loaded, self._settings, self._seed = loaded, settings, seed
        self._num_forwards_of_length: Counter[int] = Counter()
        self._seconds = 0.0

    def answer(self, context: list[int], target: list[int], key: str) -> float:
        started = time.perf_counter()
        start, losses = len(context), []
        row = torch.tensor([context + target], device=self._loaded.device)
        for mask in map(torch.from_numpy, draw_masks(len(target), self._settings, key, self._seed)):
            hidden = mask.to(row.device)
            masked = row.clone()
            masked[0, start:][hidden] = self._loaded.mask_token_id
            log_probs = self._forward(masked)[start:].log_softmax(-1)
            cross_entropy = -log_probs.gather(-1, row[0, start:, None])[hidden].double().sum()
            losses.append(float(cross_entropy) * len(target) / int(mask.sum()))
        self._is_greedy(row, start)
        self._seconds += time.perf_counter() - started
        return -sum(losses) / len(losses)

    def cost(self) -> Cost:
        """FLOPs are counted here, once per length: counting inside the run would cost its time."""
        lengths = self._num_forwards_of_length
        flops = 0
        for length, number in lengths.items():
            with counted(self._loaded) as one:
                self._loaded.logits(torch.zeros(1, length, dtype=torch.long))
            flops += number * one.flops
        return Cost(lengths.total(), sum(length * number for length, number in lengths.items()), flops, self._seconds)

    def _forward(self, tokens: Tensor) -> Tensor:
        self._num_forwards_of_length[tokens.shape[1]] += 1
        return self._loaded.logits(tokens)[0]

    def _is_greedy(self, row: Tensor, start: int) -> bool:
        tokens = row.clone()
        tokens[0, start:] = self._loaded.mask_token_id
        is_open = torch.ones(row.shape[1] - start, dtype=torch.bool, device=row.device)
        while is_open.any():
            confidence, best = self._forward(tokens)[start:].softmax(-1).max(-1)
            place = int(confidence.masked_fill(~is_open, -1).argmax())
            tokens[0, start + place], is_open[place] = best[place], False
        return torch.equal(tokens, row)


def compare(name: str, loaded: LoadedModel, requests: Sequence[Pair], settings: LikelihoodSettings) -> bool:
    """Print one line of ratios; whether the likelihoods agree."""
    lm = DiffusionLM(loaded, Protocol(likelihood=settings))
    started = time.perf_counter()
    ours = dict(lm.likelihoods(requests))
    seconds = time.perf_counter() - started
    with counted(loaded) as cost:
        list(lm.likelihoods(requests))
    cost.seconds = seconds

    evaluator = PlainEvaluator(loaded, settings, lm.seed)
    plain = [
        evaluator.answer([*question.context], [*question.target], question.key)
        for question in map(lm.question, requests)
    ]
    reference = evaluator.cost()
    difference = max(abs(ours[index] - plain[index]) for index in range(len(requests)))
    print(
        f"| {name} | {settings.mc_num} | {len(requests)} | {reference.num_forwards} / {cost.num_forwards} | "
        f"{reference.num_tokens} / {cost.num_tokens} | {reference.num_tokens / cost.num_tokens:.1f} | "
        f"{reference.flops / 1e9:.1f} / {cost.flops / 1e9:.1f} | {reference.flops / cost.flops:.1f} | "
        f"{reference.seconds:.1f} / {cost.seconds:.1f} | {reference.seconds / cost.seconds:.1f} | {difference:.0e} |",
        flush=True,
    )
    return difference <= TOLERANCE


def demo_requests(loaded: LoadedModel, task: str, num_items: int) -> list[Pair]:
    info = find_tasks([DEMO / "tasks"])[task]
    protocol = Protocol()
    cell_task = CellTask(info, 0, num_items, protocol, info.metric, info.filter, info.group)
    built = BuiltTask(
        cell_task, DiffusionLM(loaded, protocol), chat_template=loaded.tokenizer.chat_template is not None
    )
    return [(request.arguments[0], request.arguments[1]) for request in built.requests]


def piqa_requests(folder: Path, num_items: int) -> list[Pair]:
    lines = (folder / "piqa_valid.jsonl").read_text(encoding="utf-8").splitlines()[:num_items]
    items = [json.loads(line) for line in lines]
    return [(f"Question: {item['goal']}\nAnswer:", f" {item[choice]}") for item in items for choice in ("sol1", "sol2")]


def random_model(demo_model: LoadedModel) -> LoadedModel:
    """Five million random parameters under a demo model's tokenizer."""
    torch.manual_seed(0)
    config = LladaConfig(
        vocab_size=512,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=1024,
    )
    model = LladaForDiffusion(config)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            # Large enough that a token's logits depend on its neighbours.
            torch.nn.init.normal_(parameter, std=0.1)
    return dataclasses.replace(demo_model, model=model.eval(), max_length=1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=26, help="items of each of the demo's tasks")
    parser.add_argument("--models", nargs="+", default=["tiny-llada-base", "tiny-llada-instruct", "tiny-dream-base"])
    parser.add_argument("--data", type=Path, help="folder with piqa_valid.jsonl")
    parser.add_argument("--piqa-items", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {arguments.threads} threads; each pair is plain / ours\n")
    print("| task | mc_num | requests | forwards | tokens | ratio | GFLOP | ratio | seconds | ratio | difference |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    agreed = []
    for name in arguments.models:
        loaded = load_model(str(DEMO / "models" / name))
        for task in ("demo_facts", "demo_relations"):
            requests = demo_requests(loaded, task, arguments.items)
            for settings in (LikelihoodSettings(mc_num=16, strata=16), LikelihoodSettings(mc_num=128)):
                agreed.append(compare(f"{name} {task}", loaded, requests, settings))
    if arguments.data:
        loaded = random_model(load_model(str(DEMO / "models" / "tiny-llada-base")))
        requests = piqa_requests(arguments.data, arguments.piqa_items)
        agreed.append(compare("random 5M, piqa", loaded, requests, LikelihoodSettings(mc_num=128)))
    sys.exit(0 if all(agreed) else 1)


if __name__ == "__main__":
    main()
