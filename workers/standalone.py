"""Any model of a study, quantized ones too, from lm-eval's own command line.

lm-eval 0.4 looks for models in its own table and has no entry points for more, so its `lm_eval` command cannot know of
others. `qstudy lm-eval` is that command with one more name in the table:

    qstudy lm-eval --model qstudy_dllm --model_args pretrained=PATH,preset=paper --tasks piqa --batch_size 16
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from lm_eval.__main__ import cli_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.registry import register_model
from lm_eval.utils import simple_parse_args_string
from pydantic import ValidationError
from safetensors import SafetensorError

import methods
from grids import GridError
from grids.errors import unknown_name
from grids.protocol import Family, Protocol, Settings
from grids.schema import Dtype
from workers.artifacts import ArtifactStore
from workers.causal import CausalLM
from workers.lm import DiffusionLM
from workers.models import LoadedModel, inspect_model, load_model, model_digest
from workers.presets import read_presets

MODEL_NAME = "qstudy_dllm"
_ARGUMENTS = ("pretrained", "artifact", "revision", "dtype", "device", "preset", "seed", "batch_size", "greedy")
_DEFAULT_DTYPE = "bfloat16"


def run_lm_eval(arguments: Sequence[str]) -> None:
    """lm-eval's command line with `--model qstudy_dllm`. Raises GridError for model arguments that cannot be used."""
    sys.argv = ["lm-eval", *arguments]
    cli_evaluate()


@register_model(MODEL_NAME)
class QstudyLM(LM):
    """LLaDA, Dream or a causal model, in full precision or quantized, evaluated as a study does.

    Model arguments of `qstudy lm-eval --model qstudy_dllm`:

    pretrained: a model's folder or hub id; or an artifact's folder, where that was made from a model of the hub.
    artifact: the folder of a quantized variant (STUDY/artifacts/ID), made from `pretrained`.
    revision: of a hub id; in quotes where it is made of digits.
    dtype: float32, bfloat16 or float16; by default the artifact's, else bfloat16.
    device: by default cuda where there is one, else cpu.
    preset: paper (the default) or qdlm. Its settings for one task hold for the tasks of that name and of its group
        (mmlu: mmlu_anatomy); how many shots are given is lm-eval's `--num_fewshot`.
    seed: of masks and noise; by default the artifact's, else 0.
    batch_size: sequences that share a forward, or auto. The same as lm-eval's option, whose default is 1.
    greedy: true asks for lm-eval's greedy flag of diffusion models, which costs a forward per token.

    All other arguments are settings of the protocol that the model's family reads, for every task: mc_num=32,
    gen_length=128, steps=64, block_length=32, ... Raises GridError that names the argument.
    """

    def __init__(
        self,
        *,
        pretrained: str | None = None,
        artifact: str | None = None,
        revision: str | None = None,
        dtype: str | None = None,
        device: str = "auto",
        preset: str = "paper",
        seed: int | None = None,
        batch_size: int | str = "auto",
        greedy: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__()
        presets = read_presets()
        if preset not in presets:
            raise _refusal("preset", unknown_name("preset", str(preset), presets))
        if not isinstance(greedy, bool):
            raise _refusal("greedy", f"{greedy!r} is not true or false")
        self._preset = presets[preset]
        self._source = _find_source(pretrained, artifact, revision, dtype, seed)
        with _refused("pretrained"):
            self._family = inspect_model(self._source.path, revision=self._source.revision).family
        self._changes = _protocol_changes(settings, self._family)
        self._options: dict[str, Any] = {"seed": self._source.seed} | _batch_option(batch_size)
        if self._family != "causal":
            self._options["greedy"] = greedy
        self._protocols: dict[str, Protocol] = {}
        # Before minutes are spent on loading: are the settings of any use?
        protocol = self._protocol_of("")
        self._loaded = self._source.load(_find_device(device))
        self._lms: dict[Protocol, DiffusionLM | CausalLM] = {}
        self._any_lm = self._lm(protocol)

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None) -> QstudyLM:
        """From lm-eval's model arguments and options; where both say the same, the model argument counts."""
        options = {key: value for key, value in (additional_config or {}).items() if value is not None}
        if not torch.cuda.is_available() and str(options.get("device")).startswith("cuda"):
            # What lm-eval says where nobody said anything.
            del options["device"]
        return cls(**(options | arg_dict))

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> QstudyLM:
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        return self._answers("loglikelihood", requests)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        return self._answers("loglikelihood_rolling", requests)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        return self._answers("generate_until", requests)

    @property
    def tokenizer(self) -> Any:
        return self._loaded.tokenizer

    @property
    def tokenizer_name(self) -> str:
        return self._any_lm.tokenizer_name

    @property
    def max_length(self) -> int:
        return self._loaded.max_length

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return self._any_lm.apply_chat_template(chat_history, add_generation_prompt)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        template: str | None = self._any_lm.chat_template(chat_template)
        return template

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval writes into its results: which model this was, and how each task was scored."""
        return {
            "model_family": self._family,
            "model_dtype": self._source.dtype,
            "model_revision": self._source.revision,
            "model_artifact": self._source.identity,
            "protocols": {task: protocol.model_dump(mode="json") for task, protocol in self._protocols.items() if task},
        }

    def _answers(self, request_type: str, requests: Sequence[Instance]) -> list[Any]:
        """Answers in the order of the requests, each by its own task's protocol."""
        by_protocol: dict[Protocol, list[int]] = {}
        for index, request in enumerate(requests):
            by_protocol.setdefault(self._protocol_of(request.task_name or ""), []).append(index)
        if request_type == "generate_until" and self._family == "llada":
            with _refused("gen_length"):
                for protocol in by_protocol:
                    protocol.generation.check_blocks()
        answers: list[Any] = [None] * len(requests)
        for protocol, indices in by_protocol.items():
            method = getattr(self._lm(protocol), request_type)
            for index, answer in zip(indices, method([requests[index] for index in indices]), strict=True):
                answers[index] = answer
        return answers

    def _protocol_of(self, task: str) -> Protocol:
        """The protocol of a task by lm-eval's name; the empty name stands for any that the preset does not know."""
        if task not in self._protocols:
            layers = self._preset.task_layers(self._name_in_preset(task), self._family)
            try:
                self._protocols[task] = Protocol.from_layers([*layers, self._changes])
            except ValidationError as error:
                problem = error.errors()[0]
                message = f"{problem['msg'].removeprefix('Value error, ')} (given: {problem['input']!r})"
                raise _refusal(str(problem["loc"][-1]), message) from error
        return self._protocols[task]

    def _name_in_preset(self, task: str) -> str:
        names = {*self._preset.tasks, *self._preset.family_protocol.get(self._family, {}).get("tasks", {})}
        return next((name for name in names if task == name or task.startswith(f"{name}_")), task)

    def _lm(self, protocol: Protocol) -> DiffusionLM | CausalLM:
        if protocol not in self._lms:
            kind = CausalLM if self._family == "causal" else DiffusionLM
            self._lms[protocol] = kind(self._loaded, protocol, **self._options)
        return self._lms[protocol]


@dataclass(frozen=True)
class _Source:
    """Where a model's weights come from. `identity` is that of a quantized variant, None in full precision."""

    path: str
    revision: str | None
    dtype: str
    seed: int
    artifact: Path | None = None
    identity: Mapping[str, Any] | None = None

    def load(self, device: str) -> LoadedModel:
        with _refused("pretrained"):
            dtype = getattr(torch, self.dtype)
            loaded = load_model(self.path, revision=self.revision, dtype=dtype, device=device)
        if self.artifact is not None:
            with _refused("artifact"):
                tensors, layout = ArtifactStore(self.artifact.parent).load(self.artifact.name)
                methods.restore_quantized(loaded.model, tensors, layout)
        return loaded


def _find_source(
    pretrained: str | None, artifact: str | None, revision: str | None, dtype: str | None, seed: int | None
) -> _Source:
    """What the model arguments mean, without reading weights but for their digest."""
    for name, text in (("pretrained", pretrained), ("artifact", artifact), ("revision", revision)):
        if text is not None and not isinstance(text, str):
            raise _refusal(name, f"{text!r} is not text: put it in quotes, {name}=\"'...'\"")
    if dtype is not None and dtype not in get_args(Dtype):
        raise _refusal("dtype", unknown_name("dtype", str(dtype), get_args(Dtype)))
    if seed is not None and not isinstance(seed, int):
        raise _refusal("seed", f"{seed!r} is not a whole number")
    if artifact is None and pretrained is not None and ArtifactStore.is_artifact(Path(pretrained)):
        pretrained, artifact = None, pretrained
    if artifact is None:
        if pretrained is None:
            raise _refusal("pretrained", "say which model: a folder or a hub id")
        return _Source(pretrained, revision, dtype or _DEFAULT_DTYPE, seed or 0)

    folder = Path(artifact).resolve()
    with _refused("artifact"):
        identity = ArtifactStore(folder.parent).identity(folder.name)
    made_from, made_in = identity["model"]["digest"], identity["model"]["dtype"]
    if pretrained is None:
        pretrained, _, revision = made_from.partition("@")
        if not revision:
            raise _refusal(
                "pretrained", f"{folder} was made from a local model (digest {made_from}): say where that model is"
            )
    local = Path(pretrained).expanduser()
    with _refused("pretrained"):
        found = model_digest(local) if local.is_dir() else f"{pretrained}@{revision}"
    if found != made_from:
        raise _refusal("artifact", f"{folder} was made from the model {made_from}, and {pretrained} is {found}")
    if dtype not in (None, made_in):
        raise _refusal("dtype", f"{folder} was made from {made_in} weights, which {dtype} is not")
    return _Source(pretrained, revision, made_in, identity["seed"] if seed is None else seed, folder, identity)


def _protocol_changes(settings: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """Settings by their own names as a layer of a protocol. Raises GridError for one that the family does not read."""
    known = dict(_setting_paths(Protocol, family))
    if family == "causal":
        known = {name: known[name] for name in Protocol().identity(family, "generate_until")}
    changes: dict[str, Any] = {}
    for name, value in settings.items():
        if name not in known:
            raise _refusal(name, unknown_name(f"model argument of a {family} model", name, [*_ARGUMENTS, *known]))
        place = changes
        for group in known[name]:
            place = place.setdefault(group, {})
        place[name] = value
    return changes


def _setting_paths(group: type[Settings], family: Family) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each setting's name and the groups that it is in; of the samplers, only the family's."""
    for name, field in group.model_fields.items():
        if not (isinstance(field.annotation, type) and issubclass(field.annotation, Settings)):
            yield name, ()
        elif name == family or name not in get_args(Family):
            for inner, path in _setting_paths(field.annotation, family):
                yield inner, (name, *path)


def _find_device(device: str) -> str:
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind = str(device).partition(":")[0]
    if kind not in ("cpu", "cuda") or (kind == "cuda" and not torch.cuda.is_available()):
        raise _refusal("device", f"there is no {device!r} here; auto takes a GPU where there is one")
    return device


def _batch_option(batch_size: int | str) -> dict[str, int]:
    if batch_size == "auto":
        return {}
    if not str(batch_size).isdecimal() or int(batch_size) < 1:
        raise _refusal("batch_size", f"{batch_size!r} is not auto or a number of at least 1")
    return {"batch_size": int(batch_size)}


def _refusal(name: str, message: str) -> GridError:
    return GridError(message, key=f"model_args.{name}")


@contextmanager
def _refused(name: str) -> Iterator[None]:
    """What a file is to blame for, said as a mistake of the argument that named it."""
    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        raise _refusal(name, str(error)) from error
