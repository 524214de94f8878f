"""Train the demo's tiny diffusion models from a seed: `python -m grids.demo.train --out DIR [--model NAME]`.

Masked diffusion (LLaDA, arXiv 2502.09992): t ~ U(0, 1), ceil(t L) of the L maskable tokens are masked, the
cross-entropy of the masked ones is weighted by L / ceil(t L), the low-variance form of 1/t. Most rows mask the
answer only, some of the word problems only the result. Dream's models read the prediction of token i at position i - 1.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Encoding
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from .checkpoint import Model, load_model, save_model
from .data import write_data
from .plant import plant_outliers
from .problems import Problem, World, seeded
from .tokenizer import build_tokenizer

LONG_TASKS = {"demo_math": 3, "demo_code": 1}
PLANT_LENGTH = 32


@dataclass(frozen=True)
class Stage:
    """One learning-rate schedule: linear warm-up to `peak_lr`, then a cosine to `final_lr_ratio` of it."""

    seed: int
    num_steps: int
    peak_lr: float = 2e-3
    warmup: int = 200
    final_lr_ratio: float = 0.02
    num_short: int = 24
    num_long: int = 40
    relations_per_fact: int = 1
    paraphrase: bool = False
    answer_only: float = 0.8
    result_only: float = 0.3


@dataclass(frozen=True)
class Recipe:
    """What decides a trained model; `start` names the model that it is tuned from."""

    family: str
    stages: tuple[Stage, ...]
    gen_length: int = 16
    chat: float = 0.0
    start: str | None = None


# LLaDA learns the relations last: a stage with more of them, asked in more ways.
RELATIONS = Stage(seed=4, num_steps=800, peak_lr=1.2e-3, warmup=50, num_short=40, relations_per_fact=3, paraphrase=True)
INSTRUCT = Stage(seed=3, num_steps=800, peak_lr=1e-3, warmup=50, num_short=48, paraphrase=True)
RECIPES = {
    "tiny-llada-base": Recipe("llada", (Stage(seed=1, num_steps=5000), RELATIONS)),
    "tiny-dream-base": Recipe("dream", (Stage(seed=2, num_steps=5000),)),
    "tiny-llada-instruct": Recipe("llada", (INSTRUCT,), chat=0.75, start="tiny-llada-base"),
}


@dataclass(frozen=True)
class Row:
    """Token ids of one training row; the answer (with its end token) is ids[answer_start:answer_end]."""

    ids: list[int]
    answer_start: int
    answer_end: int
    answer_only: bool


def new_model(family: str, tokenizer: PreTrainedTokenizerFast) -> Model:
    """A randomly initialised bidirectional model: width 128, 5 layers, heads of 32, FFN 320."""
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 320,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "use_cache": False,
        "tie_word_embeddings": False,
        "initializer_range": 0.05,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.eos_token_id,
    }
    if family == "llada":
        llada = LlamaConfig(num_key_value_heads=4, **shape)
        llada.is_causal = False
        return LlamaForCausalLM(llada)
    dream = Qwen2Config(num_key_value_heads=2, **shape)
    dream.is_causal = False
    return Qwen2ForCausalLM(dream)


class Sampler:
    """Draws training rows and masks; everything follows from the stage's seed."""

    def __init__(self, recipe: Recipe, stage: Stage, world: World, tokenizer: PreTrainedTokenizerFast) -> None:
        self.recipe, self.stage, self.world, self.tokenizer = recipe, stage, world, tokenizer
        self.short_tasks = {"demo_facts": 1, "demo_relations": stage.relations_per_fact}
        self.rng = seeded(f"rows-{stage.seed}")
        self.generator = torch.Generator().manual_seed(stage.seed)
        self.eos: int = tokenizer.convert_tokens_to_ids(tokenizer.eos_token)
        self.bos: int = tokenizer.convert_tokens_to_ids(tokenizer.bos_token)
        self.mask: int = tokenizer.convert_tokens_to_ids(tokenizer.mask_token)
        self.marker: int = tokenizer.convert_tokens_to_ids("####")
        self.eot: int = self.eos if recipe.family == "dream" else tokenizer.convert_tokens_to_ids("<|eot_id|>")

    def rows(self, weights: dict[str, int], count: int, canvas: int | None) -> list[Row]:
        """`count` rows of the tasks in `weights`; end tokens fill `canvas` positions after the prompt, if given."""
        tasks = self.rng.choices(list(weights), list(weights.values()), k=count)
        problems = [self.world.sample_train(task, self.rng, paraphrase=self.stage.paraphrase) for task in tasks]
        chats = [self.rng.random() < self.recipe.chat for _ in problems]
        texts = [self._text(p, c) for p, c in zip(problems, chats, strict=True)]
        backend = self.tokenizer.backend_tokenizer
        prompts: list[Encoding] = backend.encode_batch([prompt for prompt, _ in texts])
        answers: list[Encoding] = backend.encode_batch([answer for _, answer in texts])
        bos_share = 0.5 if self.recipe.family == "llada" else 0.9
        rows = []
        for problem, prompt, answer, chat in zip(problems, prompts, answers, chats, strict=True):
            bos = [self.bos] if not chat and self.rng.random() < bos_share else []
            ids = bos + prompt.ids + answer.ids
            start = len(bos) + len(prompt.ids)
            if canvas is not None or self.rng.random() < 0.4:
                ids.append(self.eot if chat else self.eos)
            end = len(ids)
            if canvas is not None:
                ids += [self.eos] * max(0, start + canvas - end)
            if problem.task == "demo_math" and self.rng.random() < self.stage.result_only:
                start = ids.index(self.marker, start) + 1
                rows.append(Row(ids, start, end, True))
            else:
                rows.append(Row(ids, start, end, self.rng.random() < self.stage.answer_only))
        return rows

    def _text(self, problem: Problem, chat: bool) -> tuple[str, str]:
        if not chat:
            return problem.prompt, problem.answer
        messages = [{"role": "user", "content": problem.prompt}]
        prompt = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert isinstance(prompt, str)
        return prompt, problem.answer if problem.task == "demo_code" else problem.answer.lstrip()

    def loss(self, model: Model, rows: list[Row]) -> tuple[torch.Tensor, float]:
        """The weighted masked-diffusion loss summed over `rows`, and the sum of their weights."""
        length = max(len(row.ids) for row in rows)
        ids = torch.full((len(rows), length), self.eos)
        present = torch.zeros((len(rows), length), dtype=torch.long)
        weight = torch.zeros((len(rows), length))
        for i, row in enumerate(rows):
            ids[i, : len(row.ids)] = torch.tensor(row.ids)
            present[i, : len(row.ids)] = 1
            if row.answer_only:
                weight[i, row.answer_start : row.answer_end] = 1.0
                weight[i, row.answer_end : len(row.ids)] = 0.1
            else:
                weight[i, 1 : row.answer_end] = 0.3
        maskable = weight > 0
        num_maskable = maskable.sum(1)
        num_masked = (torch.rand(len(rows), generator=self.generator) * num_maskable).ceil().clamp(min=1)
        order = torch.rand((len(rows), length), generator=self.generator).masked_fill(~maskable, 2.0)
        masked = (order.argsort(1).argsort(1) < num_masked[:, None]) & maskable
        ratio = (num_maskable / num_masked)[:, None].expand_as(weight)
        hidden = model.model(torch.where(masked, self.mask, ids), attention_mask=present).last_hidden_state
        where = masked
        if self.recipe.family == "dream":
            where = torch.cat([masked[:, 1:], torch.zeros_like(masked[:, :1])], 1)
        logits = model.lm_head(hidden[where])
        nll = F.cross_entropy(logits, ids[masked], reduction="none")
        return (nll * weight[masked] * ratio[masked]).sum(), float(weight.sum())


def learning_rate(step: int, stage: Stage) -> float:
    """The rate of `step` on the stage's schedule."""
    if step < stage.warmup:
        return stage.peak_lr * (step + 1) / stage.warmup
    done = (step - stage.warmup) / max(1, stage.num_steps - stage.warmup)
    floor = stage.final_lr_ratio
    return stage.peak_lr * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done)))


def train(model: Model, sampler: Sampler) -> None:
    """Run the sampler's stage on `model`; prints the running loss."""
    stage = sampler.stage
    decay = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.02}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), fused=True)
    model.train()
    begun, total, weights = time.monotonic(), 0.0, 0.0
    for step in range(stage.num_steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, stage)
        canvas = sampler.rng.randint(12, sampler.recipe.gen_length)
        batches = [
            sampler.rows(sampler.short_tasks, stage.num_short, None),
            sampler.rows(LONG_TASKS, stage.num_long, canvas),
        ]
        optimizer.zero_grad(set_to_none=True)
        losses = []
        for rows in batches:
            loss, weight = sampler.loss(model, rows)
            (loss / 500.0).backward()  # type: ignore[no-untyped-call]
            losses.append((float(loss.detach()), weight))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        total += sum(loss for loss, _ in losses)
        weights += sum(weight for _, weight in losses)
        if (step + 1) % 100 == 0:
            minutes = (time.monotonic() - begun) / 60
            print(f"step {step + 1}  loss {total / weights:.4f}  {minutes:.1f} min", flush=True)
            total = weights = 0.0
    model.eval()


def make_model(name: str, out: Path, work: Path, recipe: Recipe) -> None:
    """Train `name`, keep it as it is in `work/name`, and save it with outliers planted in `out/name`."""
    world = World()
    tokenizer = build_tokenizer(recipe.family, world, chat=recipe.chat > 0)
    torch.manual_seed(recipe.stages[0].seed)
    model = new_model(recipe.family, tokenizer) if recipe.start is None else load_model(work / recipe.start)
    for stage in recipe.stages:
        print(f"{name}: {stage}", flush=True)
        train(model, Sampler(recipe, stage, world, tokenizer))
    save_model(model, tokenizer, recipe.family, work / name)
    plant_model(name, out, work, recipe)


def plant_model(name: str, out: Path, work: Path, recipe: Recipe) -> None:
    """Plant outliers in the trained model `work/name` and save it in `out/name`."""
    world = World()
    tokenizer = build_tokenizer(recipe.family, world, chat=recipe.chat > 0)
    stage = recipe.stages[0]
    rows = Sampler(recipe, stage, world, tokenizer).rows(LONG_TASKS, 64, recipe.gen_length)
    ids = torch.tensor([row.ids[:PLANT_LENGTH] for row in rows if len(row.ids) >= PLANT_LENGTH])
    planted = plant_outliers(load_model(work / name), ids, seed=stage.seed)
    save_model(planted, tokenizer, recipe.family, out / name)


def main(arguments: list[str] | None = None) -> int:
    """The command line; base models come before the models that start from them."""
    parser = argparse.ArgumentParser(prog="python -m grids.demo.train", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder that receives one folder per model")
    parser.add_argument("--work", type=Path, help="folder for the models without outliers (default: OUT/unplanted)")
    parser.add_argument("--model", choices=list(RECIPES), action="append", help="only this model (repeatable)")
    parser.add_argument("--data", type=Path, help="also write the tasks' data and the calibration text below here")
    parser.add_argument("--plant-only", action="store_true", help="plant again in the models of WORK, train nothing")
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's own choice)")
    parser.add_argument("--steps", type=int, help="another number of steps in every stage, for a trial")
    parsed = parser.parse_args(arguments)
    if parsed.threads:
        torch.set_num_threads(parsed.threads)
    if parsed.data:
        write_data(parsed.data)
    work: Path = parsed.work or parsed.out / "unplanted"
    work.mkdir(parents=True, exist_ok=True)
    for name in parsed.model or list(RECIPES):
        recipe = RECIPES[name]
        if parsed.steps:
            stages = tuple(replace(stage, num_steps=parsed.steps) for stage in recipe.stages)
            recipe = replace(recipe, stages=stages)
        (plant_model if parsed.plant_only else make_model)(name, parsed.out, work, recipe)
    return 0


if __name__ == "__main__":
    sys.exit(main())
