"""Our evaluation against a plain one, written from the protocol's description.

    python tests/benchmarks/evaluation.py                 # the demo's models and tasks
    python tests/benchmarks/evaluation.py --data FOLDER   # and real prompts, on random models of 5 million parameters
    python tests/benchmarks/evaluation.py --items 8       # a shorter run

FOLDER holds gsm8k_test.jsonl, humaneval.jsonl and piqa_valid.jsonl. The plain evaluator, as public code, runs one
request at a time, every step, every position; mc_num forwards for each choice, and lm-eval's greedy flag with one more
for each target token. Both run in one process on one thread, in float32; operations are those of the matrix products,
counted. Exits with 1 where the two do not agree.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

import grids
from grids import CellTask, find_tasks
from grids.protocol import GenerationSettings, LikelihoodSettings, Protocol
from workers import DiffusionLM, LoadedModel, load_model
from workers.likelihood import Question
from workers.likelihood.masks import draw_masks
from workers.models.architectures import DreamConfig, DreamForDiffusion, LladaConfig, LladaForDiffusion
from workers.models.work import WorkCounter
from workers.tasks import BuiltTask

DEMO = Path(grids.__file__).parent / "demo"
DEMO_MODELS = ("tiny-llada-base", "tiny-llada-instruct", "tiny-dream-base")
Result = TypeVar("Result")
Request = tuple[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Case:
    """Requests of one task for one model, under one protocol."""

    model: str
    task: str
    setting: str
    protocol: Protocol
    requests: Sequence[Any]

    @property
    def kind(self) -> str:
        return "generation" if isinstance(self.requests[0][1], Mapping) else "likelihood"


@dataclass(frozen=True)
class Cost:
    """What an evaluator took."""

    work: WorkCounter
    seconds: float


def measured(loaded: LoadedModel, work: Callable[[], Result]) -> tuple[Result, Cost]:
    before, start = vars(loaded.counter).copy(), time.perf_counter()
    result = work()
    seconds, spent = time.perf_counter() - start, WorkCounter()
    for name, count in vars(loaded.counter).items():
        setattr(spent, name, count - before[name])
    return result, Cost(spent, seconds)


# Generation.


def compare_generation(loaded: LoadedModel, case: Case) -> tuple[bool, Cost, Cost]:
    lm = DiffusionLM(loaded, case.protocol)
    settings = case.protocol.generation
    plain, plain_cost = measured(loaded, lambda: [plain_answer(loaded, each, settings) for each in case.requests])
    ours, cost = measured(loaded, lambda: dict(lm.generations(case.requests)))
    return [ours[index] for index in range(len(plain))] == plain, plain_cost, cost


def plain_answer(loaded: LoadedModel, request: Request, settings: GenerationSettings) -> str:
    """The text of one answer at temperature 0."""
    assert settings.temperature == 0
    context, gen_kwargs = request
    has_bos = context.startswith(str(loaded.tokenizer.bos_token))
    prompt = loaded.tokenizer(context, add_special_tokens=not has_bos)["input_ids"]
    if loaded.family == "dream" and prompt[0] != loaded.bos_token_id:
        prompt = [loaded.bos_token_id, *prompt]
    write = plain_llada if loaded.family == "llada" else plain_dream
    tokens = write(loaded, prompt, settings)[0, len(prompt) :].tolist()
    stops = gen_kwargs["until"]
    ends = loaded.end_token_ids | {loaded.eos_token_id} if settings.eos_ends_answer else set()
    ends |= {id for name, id in loaded.tokenizer.get_added_vocab().items() if name in stops}
    length = min([tokens.index(end) for end in ends if end in tokens], default=len(tokens))
    text = loaded.tokenizer.decode(tokens[:length], skip_special_tokens=True)
    for stop in stops:
        text = text.split(stop)[0]
    return str(text)


def masked_canvas(loaded: LoadedModel, prompt: list[int], gen_length: int) -> Tensor:
    return torch.tensor([prompt + [loaded.mask_token_id or 0] * gen_length])


def possible_logits(loaded: LoadedModel, canvas: Tensor) -> Tensor:
    logits = loaded.logits(canvas)
    logits[..., loaded.mask_token_id or 0] = -torch.inf
    return logits


def commit(canvas: Tensor, tokens: Tensor, confidence: Tensor, count: int) -> None:
    chosen = confidence.sort(dim=-1, descending=True, stable=True).indices[0, :count]
    canvas[0, chosen] = tokens[0, chosen]


def plain_llada(loaded: LoadedModel, prompt: list[int], settings: GenerationSettings) -> Tensor:
    """Low-confidence remasking, block by block (arXiv 2502.09992)."""
    canvas = masked_canvas(loaded, prompt, settings.gen_length)
    length = settings.llada.block_length
    num_steps = settings.steps * length // settings.gen_length
    for begin in range(len(prompt), canvas.shape[1], length):
        for step in range(num_steps):
            logits = possible_logits(loaded, canvas)
            sure, tokens = logits.softmax(-1).max(-1)
            sure[canvas != loaded.mask_token_id] = -torch.inf
            sure[:, begin + length :] = -torch.inf
            commit(canvas, tokens, sure, length // num_steps + (step < length % num_steps))
    return canvas


def plain_dream(loaded: LoadedModel, prompt: list[int], settings: GenerationSettings) -> Tensor:
    """The least uncertain positions first, by entropy (arXiv 2508.15487)."""
    assert settings.dream.algorithm == "entropy"
    canvas = masked_canvas(loaded, prompt, settings.gen_length)
    times = torch.linspace(1, 1e-3, settings.steps + 1)
    for step in range(settings.steps):
        probs = possible_logits(loaded, canvas).softmax(-1)
        is_masked = canvas == loaded.mask_token_id
        sure = -torch.special.entr(probs).sum(-1)
        sure[~is_masked] = -torch.inf
        num_masked, share = int(is_masked.sum()), float(1 - times[step + 1] / times[step])
        commit(canvas, probs.argmax(-1), sure, num_masked if step == settings.steps - 1 else int(num_masked * share))
    return canvas


# What is compared.


# Likelihood.

TOLERANCE = 1e-4


def compare(loaded: LoadedModel, case: Case) -> tuple[bool, Cost, Cost]:
    """Whether both evaluators agree, and what they took."""
    return (compare_generation if case.kind == "generation" else compare_likelihood)(loaded, case)


def compare_likelihood(loaded: LoadedModel, case: Case) -> tuple[bool, Cost, Cost]:
    lm, settings = DiffusionLM(loaded, case.protocol), case.protocol.likelihood
    questions = [lm.question(request) for request in case.requests]
    plain, plain_cost = measured(loaded, lambda: [plain_likelihood(loaded, each, settings) for each in questions])
    ours, cost = measured(loaded, lambda: dict(lm.likelihoods(case.requests)))
    largest = max(abs(ours[index] - value) for index, value in enumerate(plain))
    return largest <= TOLERANCE, plain_cost, cost


def plain_likelihood(loaded: LoadedModel, question: Question, settings: LikelihoodSettings) -> float:
    """The estimate, with a forward for every draw; and whether the target is what greedy decoding gives."""
    start, length = len(question.context), len(question.target)
    row, losses = torch.tensor([[*question.context, *question.target]]), []
    for mask in map(torch.from_numpy, draw_masks(length, settings, question.key, 0)):
        canvas = row.clone()
        canvas[0, start:][mask] = loaded.mask_token_id
        log_probs = loaded.logits(canvas)[0, start:].log_softmax(-1)
        cross_entropy = -log_probs.gather(-1, row[0, start:, None])[mask].double().sum()
        losses.append(float(cross_entropy) * length / int(mask.sum()))
    plain_greedy_flag(loaded, row, start)
    return -sum(losses) / len(losses)


def plain_greedy_flag(loaded: LoadedModel, row: Tensor, start: int) -> bool:
    canvas = row.clone()
    canvas[0, start:] = loaded.mask_token_id
    is_open = torch.ones(row.shape[1] - start, dtype=torch.bool)
    while is_open.any():
        confidence, best = loaded.logits(canvas)[0, start:].softmax(-1).max(-1)
        place = int(confidence.masked_fill(~is_open, -1).argmax())
        canvas[0, start + place], is_open[place] = best[place], False
    return torch.equal(canvas, row)


# What is compared.


def generation(gen_length: int, steps: int, block_length: int) -> Protocol:
    return Protocol.model_validate(
        {"generation": {"gen_length": gen_length, "steps": steps, "llada": {"block_length": block_length}}}
    )


def likelihood(mc_num: int, strata: int) -> Protocol:
    return Protocol.model_validate({"likelihood": {"mc_num": mc_num, "strata": strata}})


LIKELIHOODS = {"demo": likelihood(16, 16), "study": likelihood(128, 1)}


def generations_of(family: str, scale: int) -> dict[str, Protocol]:
    """The demo's settings, and the study's at a small scale.

    The study's LLaDA writes 8 blocks (256 tokens of GSM8K, 32 a block), a token a step; its Dream runs 4 steps a token
    (128 tokens, 512 steps).
    """
    study = (
        generation(32 * scale, 32 * scale, 4 * scale) if family == "llada" else generation(16 * scale, 64 * scale, 1)
    )
    return {"demo": generation(16, 16, 16), "study": study}


def demo_cases(loaded: LoadedModel, name: str, num_items: int) -> list[Case]:
    cases = []
    for task, info in find_tasks([DEMO / "tasks"]).items():
        settings = generations_of(loaded.family, 1) if info.is_generation else LIKELIHOODS
        for setting, protocol in settings.items():
            cell_task = CellTask(info, 0, num_items, protocol, info.metric, info.filter, info.group)
            has_template = loaded.tokenizer.chat_template is not None
            built = BuiltTask(cell_task, DiffusionLM(loaded, protocol), chat_template=has_template)
            cases.append(Case(name, task, setting, protocol, [request.arguments for request in built.requests]))
    return cases


def random_model(family: str) -> LoadedModel:
    """A model of 5 million parameters with random weights and the demo's tokenizer."""
    like = load_model(str(DEMO / "models" / f"tiny-{family}-base"))
    sizes: dict[str, Any] = {
        "vocab_size": 512,
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 2048,
        "initializer_range": 0.1,
    }
    torch.manual_seed(0)
    model: Any = (
        LladaForDiffusion(LladaConfig(**sizes)) if family == "llada" else DreamForDiffusion(DreamConfig(**sizes))
    )
    return LoadedModel(
        model=model.eval(),
        tokenizer=like.tokenizer,
        family=like.family,
        mask_token_id=like.mask_token_id,
        pad_token_id=like.pad_token_id,
        eos_token_id=like.eos_token_id,
        bos_token_id=like.bos_token_id,
        max_length=2048,
        end_token_ids=like.end_token_ids,
    )


def real_cases(loaded: LoadedModel, name: str, folder: Path, num_items: int) -> list[Case]:
    def items(file: str) -> list[dict[str, Any]]:
        lines = (folder / file).read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines[:num_items]]

    gsm8k = {"until": ["Question:", "</s>", "<|im_end|>"]}
    humaneval = {"until": ["\nclass", "\ndef", "\n#", "\nif", "\nprint"]}
    questions = [(f"Question: {item['question']}\nAnswer:", gsm8k) for item in items("gsm8k_test.jsonl")]
    programs = [(item["prompt"], humaneval) for item in items("humaneval.jsonl")]
    choices = [
        (f"Question: {item['goal']}\nAnswer:", f" {item[choice]}")
        for item in items("piqa_valid.jsonl")
        for choice in ("sol1", "sol2")
    ]
    protocol = generations_of(loaded.family, 2)["study"]
    return [
        Case(name, "gsm8k", "study", protocol, questions),
        Case(name, "humaneval", "study", protocol, programs),
        Case(name, "piqa", "study", LIKELIHOODS["study"], choices),
    ]


# The table.

HEADER = (
    f"{'model':20} {'task':10} {'setting':7} {'items':>5} {'evaluator':9} {'forwards':>9} {'tokens':>11} {'GFLOP':>9} "
    f"{'seconds':>8}"
)


def print_row(names: str, evaluator: str, cost: Cost) -> None:
    work = cost.work
    print(
        f"{names:45} {evaluator:9} {work.num_forwards:9,} {work.num_token_forwards:11,} {work.num_flops / 1e9:9,.1f} "
        f"{cost.seconds:8.1f}"
    )


def print_ratio(names: str, plain: Cost, ours: Cost, verdict: str) -> None:
    print(
        f"{names:45} {'ratio':9} {plain.work.num_forwards / ours.work.num_forwards:9.1f} "
        f"{plain.work.num_token_forwards / ours.work.num_token_forwards:11.2f} "
        f"{plain.work.num_flops / ours.work.num_flops:9.2f} {plain.seconds / ours.seconds:8.1f}  {verdict}",
        flush=True,
    )


def total(costs: Sequence[Cost]) -> Cost:
    work = WorkCounter()
    for cost in costs:
        for name, count in vars(cost.work).items():
            setattr(work, name, getattr(work, name) + count)
    return Cost(work, sum(cost.seconds for cost in costs))


class Table:
    """Prints each comparison as it is made, and sums of the demo's."""

    def __init__(self) -> None:
        self.all_agree = True
        self._costs: list[tuple[Case, Cost, Cost]] = []
        print(HEADER)

    def add(self, case: Case, agree: bool, plain: Cost, ours: Cost) -> None:
        names = f"{case.model:20} {case.task:10} {case.setting:7} {len(case.requests):5}"
        print_row(names, "plain", plain)
        print_row(names, "ours", ours)
        print_ratio(names, plain, ours, "equal" if agree else "NOT EQUAL")
        self.all_agree &= agree
        self._costs.append((case, plain, ours))

    def print_sums(self) -> None:
        for setting in ("demo", "study"):
            for kinds in (("generation",), ("likelihood",), ("generation", "likelihood")):
                chosen = [
                    (plain, ours) for case, plain, ours in self._costs if case.setting == setting and case.kind in kinds
                ]
                plain, ours = (total(costs) for costs in zip(*chosen, strict=True))
                print_ratio(
                    f"{'all demo models':20} {kinds[0] if len(kinds) == 1 else 'all':10} {setting:7}", plain, ours, ""
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=40, help="items of each of the demo's tasks")
    parser.add_argument("--data", type=Path, help="folder of the real data sets")
    parser.add_argument("--real-items", type=int, default=3, help="items of each real data set")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    table = Table()
    for name in DEMO_MODELS:
        loaded = load_model(str(DEMO / "models" / name))
        for case in demo_cases(loaded, name, arguments.items):
            table.add(case, *compare(loaded, case))
    table.print_sums()
    for family in ("llada", "dream") if arguments.data else ():
        loaded = random_model(family)
        for case in real_cases(loaded, f"random {family}", arguments.data, arguments.real_items):
            table.add(case, *compare(loaded, case))
    raise SystemExit(0 if table.all_agree else 1)


if __name__ == "__main__":
    main()
