"""Which sandbox is used, and what happens where none works."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from workers.sandbox import SandboxError, choosing, passes, run, sandbox_name
from workers.sandbox.choosing import layer_fault
from workers.sandbox.layers import LAYERS

ROOT = Path(__file__).parents[2]


def test_walls_that_do_not_hold_are_noticed() -> None:
    # No layer has this name, so nothing but the filter of system calls is put up.
    assert layer_fault("none") == "exit status 1: AssertionError: a program can read the user's files"


@pytest.fixture
def unchosen() -> Iterator[None]:
    choosing._choose.cache_clear()
    yield
    choosing._choose.cache_clear()


@pytest.mark.usefixtures("unchosen")
def test_the_first_layer_that_works_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    probed = []

    def fake(layer: str) -> str | None:
        probed.append(layer)
        return "not here" if layer == "bubblewrap" else None

    monkeypatch.setattr(choosing, "layer_fault", fake)
    assert [sandbox_name(), sandbox_name()] == ["landlock", "landlock"]
    assert probed == ["bubblewrap", "landlock"]


@pytest.mark.usefixtures("unchosen")
def test_without_a_layer_no_program_runs_and_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "layer_fault", lambda layer: f"no {layer} here")
    monkeypatch.setattr(choosing, "run_in", lambda *_: pytest.fail("a program was run"))
    for start in (run, passes):
        with pytest.raises(SandboxError, match=r"install bubblewrap .* Landlock .* user namespaces") as caught:
            start("")
        assert all(f"{layer}: no {layer} here" in str(caught.value) for layer in LAYERS)


def test_bubblewrap_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert layer_fault("bubblewrap") == "bwrap is not installed"


def test_the_sandbox_needs_no_heavy_import() -> None:
    program = "import sys, workers.sandbox\nassert not {'torch', 'lm_eval', 'ray', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
