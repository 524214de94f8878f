"""`qstudy_dllm` as lm-eval knows it: from its command line, and from its model arguments alone."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import lm_eval
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model
from lm_eval.tasks import TaskManager
from safetensors.torch import save_file

import methods
from grids import GridError, Model, Variant, parse_scheme
from grids.protocol import Family, Protocol
from orchestrator.cli import EXIT_BAD_INPUT, main
from tests.models import original_layouts
from workers import CausalLM, DiffusionLM, QstudyLM, load_model
from workers.artifacts import ArtifactStore
from workers.models import model_digest

FAMILIES: tuple[Family, ...] = ("llada", "dream", "causal")
SETTINGS: dict[str, dict[str, Any]] = {
    "llada": {"mc_num": 4, "strata": 2, "gen_length": 8, "steps": 4, "block_length": 4},
    "dream": {"mc_num": 4, "strata": 2, "gen_length": 8, "steps": 4, "algorithm": "maskgit_plus"},
    "causal": {"gen_length": 8, "temperature": 0.9},
}
PROTOCOLS = {
    "llada": {
        "likelihood": {"mc_num": 4, "strata": 2},
        "generation": {"gen_length": 8, "steps": 4, "llada": {"block_length": 4}},
    },
    "dream": {
        "likelihood": {"mc_num": 4, "strata": 2},
        "generation": {"gen_length": 8, "steps": 4, "dream": {"algorithm": "maskgit_plus"}},
    },
    "causal": {"generation": {"gen_length": 8, "temperature": 0.9}},
}
CHOOSE = """
task: choose
dataset_path: json
dataset_kwargs: {data_files: {test: ITEMS}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{question}}"
doc_to_choice: ["yes", "no", "perhaps"]
doc_to_target: 0
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 1}
"""
WRITE = """
task: write
dataset_path: json
dataset_kwargs: {data_files: {test: ITEMS}}
output_type: generate_until
test_split: test
doc_to_text: "{{question}}"
doc_to_target: "yes"
generation_kwargs: {until: ["."]}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
metadata: {version: 1}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of each family, and two tasks."""
    folder = tmp_path_factory.mktemp("door")
    qwen = original_layouts.dream_config(model_type="qwen2", max_position_embeddings=128)
    del qwen["mask_token_id"]
    original_layouts.write_checkpoint(
        folder / "llada", original_layouts.llada_config(max_sequence_length=128), original_layouts.llada_tensors()
    )
    dream = original_layouts.dream_config(max_position_embeddings=128)
    original_layouts.write_checkpoint(folder / "dream", dream, original_layouts.qwen_tensors())
    original_layouts.write_checkpoint(folder / "causal", qwen, original_layouts.qwen_tensors())
    tasks = folder / "tasks"
    tasks.mkdir()
    items = [{"question": f"Is {number} {'even' * (number % 3)}?"} for number in range(4)]
    (tasks / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    for name, text in (("choose", CHOOSE), ("write", WRITE)):
        (tasks / f"{name}.yaml").write_text(text.replace("ITEMS", str(tasks / "items.jsonl")))
    return folder


@pytest.fixture(scope="module")
def artifacts(folder: Path) -> dict[str, Path]:
    """An artifact of each family, w4a8 by RTN in float32, with seed 5."""
    made = {}
    for family in FAMILIES:
        model = Model("m", "", None, model_digest(folder / family), family, "float32", False, (32, 48))
        made[family] = write_artifact(folder, family, model)
    return made


def write_artifact(folder: Path, family: Family, model: Model) -> Path:
    kind = methods.available_methods()["rtn"]
    rtn = kind(kind.Parameters())
    variant = Variant(model, "rtn", "rtn", 1, {}, parse_scheme("w4a8"), None, 5)
    loaded = load_model(str(folder / family))
    rtn.quantize(loaded.model, variant.scheme, None, seed=5)
    store = ArtifactStore(folder / "artifacts")
    store.save(variant, *methods.quantized_state(loaded.model), {})
    return store.path(variant.variant_id)


def door(folder: Path, family: str, **arguments: Any) -> QstudyLM:
    given = {"pretrained": str(folder / family), "dtype": "float32", "device": "cpu"} | SETTINGS[family]
    return QstudyLM(**(given | arguments))


def instance(request_type: Any, task: str | None, *arguments: Any) -> Instance:
    return Instance(request_type, {}, arguments, 0, metadata=(task, 0, 1))


REQUESTS = {
    "loglikelihood": [instance("loglikelihood", None, "Is it?", text) for text in (" yes", " no")],
    "generate_until": [instance("generate_until", None, text, {"until": ["e"]}) for text in ("Is it?", "Or not")],
}


def answers(lm: Any) -> list[Any]:
    return [answer for name, requests in REQUESTS.items() for answer in getattr(lm, name)(requests)]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("quantized", [False, True])
def test_the_door_gives_what_the_model_class_gives(
    family: Family, quantized: bool, folder: Path, artifacts: dict[str, Path]
) -> None:
    loaded = load_model(str(folder / family))
    if quantized:
        store = ArtifactStore(artifacts[family].parent)
        methods.restore_quantized(loaded.model, *store.load(artifacts[family].name))
    kind = CausalLM if family == "causal" else DiffusionLM
    expected = answers(kind(loaded, Protocol.model_validate(PROTOCOLS[family]), seed=5, batch_size=2))
    # The artifact brings its seed and dtype.
    arguments = {"artifact": str(artifacts[family]), "dtype": None} if quantized else {"seed": 5}
    assert answers(door(folder, family, batch_size=2, **arguments)) == expected
    assert answers(door(folder, family, batch_size=2)) != expected


@pytest.mark.parametrize("family", FAMILIES)
def test_simple_evaluate_knows_the_model_by_its_name(family: Family, folder: Path) -> None:
    settings = ",".join(f"{key}={value}" for key, value in SETTINGS[family].items())
    results = lm_eval.simple_evaluate(
        model="qstudy_dllm",
        model_args=f"pretrained={folder / family},dtype=float32,seed=5,{settings}",
        tasks=["choose", "write"],
        task_manager=TaskManager(include_path=str(folder / "tasks"), include_defaults=False),
        batch_size=2,
        bootstrap_iters=0,
    )
    assert results is not None
    lm = door(folder, family, seed=5)
    for task, request_type in (("choose", "loglikelihood"), ("write", "generate_until")):
        samples = results["samples"][task]
        requests = [instance(request_type, task, *args) for sample in samples for args in sample["arguments"]]
        logged = [response for sample in samples for (response,) in sample["resps"]]
        again = getattr(lm, request_type)(requests)
        if task == "write":
            assert logged == again
        else:
            assert [score for score, _ in logged] == pytest.approx([score for score, _ in again], abs=1e-4)
    assert results["config"]["model_family"] == family
    assert results["config"]["protocols"]["write"]["generation"]["gen_length"] == 8


def run_command(monkeypatch: pytest.MonkeyPatch, folder: Path, model_args: str) -> None:
    """`qstudy lm-eval` in this process, with the two tasks alone: reading lm-eval's 14 thousand takes seconds."""
    quick = functools.partial(TaskManager, include_defaults=False)
    monkeypatch.setattr("lm_eval.tasks.TaskManager", quick)
    command = f"qstudy lm-eval --model qstudy_dllm --tasks choose,write --include_path {folder / 'tasks'}"
    monkeypatch.setattr("sys.argv", [*command.split(), "--limit", "2", "--model_args", model_args])
    main()


def test_the_command_line_prints_lm_evals_table(
    folder: Path, artifacts: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = f"pretrained={folder / 'llada'},artifact={artifacts['llada']},mc_num=2,gen_length=8,steps=4"
    with pytest.raises(SystemExit, match="0"):
        run_command(monkeypatch, folder, f"{arguments},block_length=4")
    table = capsys.readouterr().out
    assert "|choose|      1|none  |     0|acc        |" in table
    assert "|write |      1|none  |     0|exact_match|" in table


def test_the_command_line_refuses_bad_model_arguments_in_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        run_command(monkeypatch, folder, f"pretrained={folder / 'llada'},gen_len=8")
    assert exit_.value.code == EXIT_BAD_INPUT
    assert (
        "error: model_args.gen_len: unknown model argument of a llada model 'gen_len'; did you mean 'gen_length'"
        in (capsys.readouterr().err.replace("\n", " "))
    )


def test_other_models_of_lm_eval_are_still_known() -> None:
    assert get_model("qstudy_dllm") is QstudyLM
    assert get_model("dummy").__name__ == "DummyLM"


@pytest.mark.parametrize(
    ("family", "arguments", "message"),
    [
        ("llada", {"algorithm": "origin"}, "model_args.algorithm: unknown model argument of a llada model"),
        ("dream", {"block_length": 4}, "model_args.block_length: unknown model argument of a dream model"),
        ("causal", {"mc_num": 4}, r"model_args.mc_num: .*known: .*gen_length, greedy, .*temperature\)"),
        ("llada", {"trust_remote_code": True}, "model_args.trust_remote_code: unknown model argument"),
        ("llada", {"gen_length": 0}, r"model_args.gen_length: .*greater than or equal to 1 \(given: 0\)"),
        ("llada", {"mc_num": 5}, "model_args.likelihood: mc_num 5 is not a multiple of strata 2"),
        ("llada", {"remasking": "last"}, r"model_args.remasking: .*'low_confidence' or 'random' \(given: 'last'\)"),
        ("llada", {"preset": "papr"}, "model_args.preset: unknown preset 'papr'; did you mean 'paper'"),
        ("llada", {"dtype": "int8"}, r"model_args.dtype: unknown dtype 'int8' \(known: bfloat16, float16, float32\)"),
        ("llada", {"device": "gpu"}, "model_args.device: there is no 'gpu' here"),
        ("llada", {"batch_size": 0}, "model_args.batch_size: 0 is not auto or a number of at least 1"),
        ("llada", {"batch_size": "many"}, "model_args.batch_size: 'many' is not auto"),
        ("llada", {"seed": 1.5}, "model_args.seed: 1.5 is not a whole number"),
        ("llada", {"greedy": "yes"}, "model_args.greedy: 'yes' is not true or false"),
        ("llada", {"revision": 123}, "model_args.revision: 123 is not text: put it in quotes"),
        ("llada", {"revision": "main"}, "model_args.pretrained: .*is a local folder, which has no revision"),
        ("llada", {"pretrained": None}, "model_args.pretrained: say which model"),
        ("llada", {"pretrained": "/nowhere"}, "model_args.pretrained: no such model folder: /nowhere"),
        ("llada", {"artifact": "/nowhere"}, "model_args.artifact: .*/nowhere/variant.json"),
    ],
)
def test_a_bad_argument_is_named(family: str, arguments: dict[str, Any], message: str, folder: Path) -> None:
    with pytest.raises(GridError, match=message):
        door(folder, family, **arguments)


def test_an_artifact_is_restored_only_into_the_model_it_was_made_from(folder: Path, artifacts: dict[str, Path]) -> None:
    with pytest.raises(
        GridError, match=r"model_args.artifact: .* was made from the model [0-9a-f]{64}, and .*causal is"
    ):
        door(folder, "causal", artifact=str(artifacts["llada"]))
    with pytest.raises(GridError, match=r"model_args.dtype: .* was made from float32 weights, which bfloat16 is not"):
        door(folder, "llada", artifact=str(artifacts["llada"]), dtype="bfloat16")
    with pytest.raises(
        GridError, match=r"model_args.pretrained: .* was made from a local model \(digest [0-9a-f]{64}\)"
    ):
        door(folder, "llada", pretrained=str(artifacts["llada"]))


def test_an_artifact_of_a_hub_model_finds_it_by_itself(
    folder: Path, artifacts: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def download(repo_id: str, revision: str | None, *patterns: Any, **options: Any) -> Path:
        asked.append((repo_id, revision))
        return folder / "llada"

    monkeypatch.setattr("workers.models.checkpoint._download", download)
    hub = Model("m", "maker/model", "abc", "maker/model@abc", "llada", "float32", False, (32, 48))
    artifact = write_artifact(folder, "llada", hub)
    expected = answers(door(folder, "llada", artifact=str(artifacts["llada"]), dtype=None))
    assert answers(door(folder, "llada", pretrained=str(artifact), dtype=None)) == expected
    assert set(asked) == {("maker/model", "abc")}
    with pytest.raises(GridError, match="was made from the model maker/model@abc, and maker/model is maker/model@main"):
        door(folder, "llada", pretrained="maker/model", revision="main", artifact=str(artifact))


def test_broken_artifacts_are_named(folder: Path, artifacts: dict[str, Path], tmp_path: Path) -> None:
    source = artifacts["llada"]
    for name, content in (("empty", None), ("foreign", {"x": torch.zeros(1)})):
        copy = tmp_path / name
        copy.mkdir()
        (copy / "variant.json").write_bytes((source / "variant.json").read_bytes())
        if content:
            save_file(content, copy / "quantized.safetensors")
        with pytest.raises(
            GridError, match=r"model_args.artifact: .*(quantized.safetensors|the state lacks the tensor)"
        ):
            door(folder, "llada", artifact=str(copy), dtype=None)


def scored_by(lm: QstudyLM, request_type: str, *tasks: str) -> dict[str, Any]:
    arguments = ("Q", {"until": []}) if request_type == "generate_until" else ("Q", " a")
    getattr(lm, request_type)([instance(request_type, task, *arguments) for task in tasks])
    protocols: dict[str, Any] = lm.get_model_info()["protocols"]
    return protocols


def test_a_preset_gives_each_task_its_own_settings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DiffusionLM, "generate_until", lambda self, requests: [""] * len(requests))
    lm = QstudyLM(pretrained=str(folder / "llada"))
    tasks = ("gsm8k", "minerva_math_algebra", "humaneval", "humanevals")
    made = {task: p["generation"] for task, p in scored_by(lm, "generate_until", *tasks).items()}
    lengths = {task: (made[task]["gen_length"], made[task]["llada"]["block_length"]) for task in tasks}
    assert lengths == {
        "gsm8k": (256, 32),
        "minerva_math_algebra": (256, 64),
        "humaneval": (512, 32),
        "humanevals": (256, 32),
    }
    draws = {task: p["likelihood"]["mc_num"] for task, p in scored_by(lm, "loglikelihood", "mmlu_law", "piqa").items()}
    assert draws == dict.fromkeys(tasks, 128) | {"mmlu_law": 1, "piqa": 128}


def test_a_given_setting_holds_for_all_tasks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DiffusionLM, "generate_until", lambda self, requests: [""] * len(requests))
    made = scored_by(door(folder, "llada"), "generate_until", "gsm8k", "humaneval", "minerva_math")
    assert {p["generation"]["gen_length"] for p in made.values()} == {8}
    assert {p["generation"]["llada"]["block_length"] for p in made.values()} == {4}


def test_a_length_that_a_tasks_blocks_do_not_divide_is_refused_before_anything_is_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DiffusionLM, "generate_until", None)
    lm = QstudyLM(pretrained=str(folder / "llada"), gen_length=96, steps=96)
    with pytest.raises(GridError, match=r"model_args.gen_length: gen_length 96 is not a multiple of block_length 64"):
        scored_by(lm, "generate_until", "gsm8k", "minerva_math_algebra")


def test_requests_of_several_tasks_come_back_in_their_order(folder: Path) -> None:
    lm = QstudyLM(pretrained=str(folder / "llada"), dtype="float32", device="cpu")
    requests = [
        instance("loglikelihood", task, "Is it?", text)
        for text in (" yes", " no")
        for task in ("mmlu_law", "piqa", "mmlu_art")
    ]
    together = [score for score, _ in lm.loglikelihood(requests)]
    assert together == pytest.approx([lm.loglikelihood([request])[0][0] for request in requests], abs=1e-4)
    # One draw and 128 draws: not the same number.
    assert together[0] == pytest.approx(together[2], abs=1e-4)
    assert abs(together[0] - together[1]) > 0.1


@pytest.mark.parametrize(("given", "expected"), [({}, 3), ({"batch_size": 7}, 7), ({"batch_size": "auto"}, 16)])
def test_a_model_argument_counts_more_than_lm_evals_option(
    given: dict[str, Any], expected: int, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = QstudyLM.create_from_arg_obj(
        {"pretrained": str(folder / "causal"), "dtype": "float32"} | given,
        # lm-eval's own defaults: numbers as text, and a GPU whether there is one or not.
        {"batch_size": "3", "max_batch_size": None, "device": "cuda:0"},
    )
    sizes: list[int] = []
    monkeypatch.setattr(CausalLM, "generate_until", lambda self, requests: sizes.append(self.batch_size) or ["", ""])
    lm.generate_until(REQUESTS["generate_until"])
    assert sizes == [expected]


def test_the_greedy_flag_is_computed_where_it_is_asked_for(tmp_path: Path) -> None:
    tensors = original_layouts.llada_tensors()
    vocabulary = original_layouts.byte_vocabulary()
    # Opposite rows for x and y, zeros for the rest: the best token is always one of the two.
    head = tensors["model.transformer.ff_out.weight"]
    row = head[0].copy()
    head[:] = 0
    head[vocabulary["x"]], head[vocabulary["y"]] = row, -row
    original_layouts.write_checkpoint(tmp_path / "llada", original_layouts.llada_config(), tensors)
    requests = [instance("loglikelihood", None, "Q", letter) for letter in "xyz"]
    asked, silent = (door(tmp_path, "llada", greedy=greedy).loglikelihood(requests) for greedy in (True, False))
    assert [flag for _, flag in asked] in ([True, False, False], [False, True, False])
    assert [flag for _, flag in silent] == [False] * 3


def test_the_tokenizer_reaches_lm_eval(folder: Path) -> None:
    lm = door(folder, "llada")
    assert lm.max_length == 128
    assert lm.tokenizer_name == str(folder / "llada").replace("/", "__")
    lm.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }};{% endfor %}"
    assert lm.apply_chat_template([{"role": "user", "content": "Hi"}]) == "Hi;"
    assert lm.chat_template(True) == lm.tokenizer.chat_template
