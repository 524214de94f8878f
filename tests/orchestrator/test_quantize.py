"""`qstudy quantize`: one variant without a study, through the command itself."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

import methods
from grids import parse_scheme
from grids.identity import content_id
from orchestrator.catalog import DEMO_FOLDER
from orchestrator.cli import main
from workers.artifacts import ArtifactStore

Command = Callable[..., tuple[int, str, str]]
GPTQ = ("--method", "gptq", "--calibration", DEMO_FOLDER / "calibration.txt", "--num-samples", "2", "--length", "32")


@pytest.fixture
def quantize(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Run `qstudy quantize` into `tmp_path/out`; its exit code, standard output and standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["qstudy", "quantize", *map(str, arguments), "-o", str(tmp_path / "out")])
        with pytest.raises(SystemExit) as exit_:
            main()
        told = capsys.readouterr()
        return int(exit_.value.code or 0), told.out, told.err

    return run


def test_a_variant_is_written_as_a_study_would_hold_it_and_its_audit_printed(quantize: Command, tmp_path: Path) -> None:
    code, out, _ = quantize("tiny-llada-base", *GPTQ, "--scheme", "w4a16g128", "--set", "symmetric=true", "--json")
    assert code == 0
    made: dict[str, Any] = json.loads(out)
    assert content_id(made["config"]) == made["variant_id"]
    assert made["config"]["method"]["name"] == "gptq"
    assert made["config"]["method"]["parameters"]["symmetric"] is True
    assert made["config"]["calibration"] | {"digest": ""} == {
        "digest": "", "length": 32, "mask": "none", "num_samples": 2, "seed": 0
    }  # fmt: skip
    # 4 bits, and a 16-bit scale for each group of 128; a symmetric grid has no zero points.
    assert made["effective_bits"] == pytest.approx(4 + 16 / 128)
    assert made["num_linears"] == len(made["audit"]["linears"]) == 35
    tensors, _ = ArtifactStore(tmp_path / "out").load(made["variant_id"])
    assert tensors
    assert Path(made["artifact"]) == tmp_path / "out" / made["variant_id"]


def test_people_get_the_audit_in_lines_and_a_second_call_makes_nothing_anew(quantize: Command, tmp_path: Path) -> None:
    arguments = ("tiny-llada-base", "--method", "rtn", "--scheme", "w3a16g128")
    code, out, _ = quantize(*arguments)
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "tiny-llada-base rtn w3a16g128"
    assert lines[1] == "linears quantized: 35; left out: none"
    errors = [float(line.rpartition(" ")[2]) for line in lines if line.startswith("relative output error of ")]
    assert len(errors) == 5
    assert errors == sorted(errors, reverse=True)
    (file,) = (tmp_path / "out").glob("*/quantized.safetensors")
    before = file.stat().st_mtime_ns
    assert quantize(*arguments)[1] == out
    assert file.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("nowhere", "--method", "rtn", "--scheme", "w4a4"), "MODEL: no such model folder"),
        (("tiny-llada-base", "--method", "gtpq", "--scheme", "w4a4"), "--method: unknown method 'gtpq'"),
        (("tiny-llada-base", "--method", "rtn", "--scheme", "w1a4"), "--scheme: impossible scheme 'w1a4'"),
        (("tiny-llada-base", "--method", "rtn", "--scheme", "fp16"), "--scheme: full precision"),
        (("tiny-llada-base", "--method", "awq", "--scheme", "w4a4"), "--calibration: method 'awq' needs calibration"),
        (("tiny-llada-base", *GPTQ, "--scheme", "w4a16g100"), "--scheme: a group of 100 does not divide"),
        (("tiny-llada-base", *GPTQ, "--scheme", "w4a4", "--set", "damp=1"), "--set: unknown parameter 'damp'"),
        (("tiny-llada-base", *GPTQ, "--scheme", "w4a4", "--set", "damp_percent=7"), "--set damp_percent: Input should"),
        (("tiny-llada-base", *GPTQ, "--scheme", "w4a4", "--set", "damp"), "--set: cannot read 'damp'"),
        (("tiny-llada-base", "--method", "rtn", "--scheme", "w4a4", "--dtype", "int8"), "--dtype: Input should be"),
        (("tiny-llada-base", "--method", "rtn", "--scheme", "w4a4", "--preset", "x"), "--preset: unknown preset 'x'"),
    ],
)
def test_bad_input_names_the_option_and_writes_nothing(
    arguments: tuple[object, ...], complaint: str, quantize: Command, tmp_path: Path
) -> None:
    code, out, err = quantize(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {complaint}")
    assert not (tmp_path / "out").exists()


def test_a_variant_that_fails_its_audit_is_not_written(
    quantize: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def audit(*_: object, **__: object) -> NoReturn:
        raise methods.AuditError(parse_scheme("w4a16g128"), ["model.layers.0.mlp.up_proj is not quantized"])

    monkeypatch.setattr(methods, "audit", audit)
    code, out, err = quantize("tiny-llada-base", "--method", "rtn", "--scheme", "w4a16g128")
    assert (code, out) == (1, "")
    assert "audit: AuditError: the model is not w4a16g128" in err
    assert not list(tmp_path.rglob("*.safetensors"))
