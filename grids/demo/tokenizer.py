"""The demo's tokenizers: a byte-level BPE of 512 tokens, digits one by one, special tokens as the originals'."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from .problems import TASKS, World, seeded

VOCAB_SIZE = 512
MAX_LENGTH = 256
LLADA_TOKENS = (
    "<|startoftext|>",
    "<|endoftext|>",
    "<|mdm_mask|>",
    "<|eot_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
)
DREAM_TOKENS = ("<|beginoftext|>", "<|endoftext|>", "<|mask|>", "<|im_start|>", "<|im_end|>")
LLADA_CHAT = (
    "{% for message in messages %}"
    "{{ ('<|startoftext|>' if loop.first else '') + '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
DREAM_CHAT = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] | trim + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def _corpus(world: World, num_texts: int) -> list[str]:
    rng = seeded(f"{world.seed}-tokenizer")
    problems = (world.sample_train(rng.choice(TASKS), rng) for _ in range(num_texts))
    return [problem.prompt + problem.answer for problem in problems] + ["user assistant system"] * 50


def build_tokenizer(family: str, world: World, *, chat: bool = False) -> PreTrainedTokenizerFast:
    """The tokenizer of `family` ("llada" or "dream"), trained on the train split; no text is out of its vocabulary."""
    special = list(LLADA_TOKENS if family == "llada" else DREAM_TOKENS)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(world, 12_000), trainer)
    bos, eos, mask = special[:3]
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=bos,
        eos_token=eos,
        pad_token=eos,
        mask_token=mask,
        additional_special_tokens=special[3:],
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    if chat:
        fast.chat_template = LLADA_CHAT if family == "llada" else DREAM_CHAT
    return fast
