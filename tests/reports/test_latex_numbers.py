"""A macro for each number of a table: what its key is made of."""

from __future__ import annotations

import re
from typing import Any

from reports import build_study_table, read_table_spec
from reports.latex_numbers import latex_numbers, table_numbers

TWINS = (("a_b", 0.5, "0123456700000000"), ("a-b", 0.25, "89abcdef00000000"))


def test_two_numbers_that_would_share_a_key_both_get_an_id_behind_it(cell_row: Any) -> None:
    rows = [cell_row(scheme="fp16", task=task, value=value, cell_id=id_) for task, value, id_ in TWINS]
    numbers = [number for number in table_numbers([build_study_table(rows)]) if number.quantity == "value"]
    found = {number.key: number.text for number in numbers if len(number.cell_ids) == 1}
    assert found == {"tiny/fp16/a-b-01234567": "50.0", "tiny/fp16/a-b-89abcdef": "25.0"}


def test_seeds_have_keys_of_their_own_and_the_usual_one_keeps_its_key(cell_row: Any) -> None:
    def keys(*seeds: int) -> set[str]:
        rows = [
            cell_row(scheme=scheme, variant_id=f"{scheme}-{seed}", seeds=f"[{seed}]", value=0.5 + seed / 10)
            for scheme in ("fp16", "w4a4")
            for seed in seeds
        ]
        return {number.key for number in table_numbers([build_study_table(rows)])}

    assert keys(0) == {"tiny/fp16/facts", "tiny/w4a4/rtn/facts"}
    assert keys(0, 1) > keys(0)
    new = {"tiny/fp16/seed-1/facts", "tiny/fp16/mean-of-seeds/facts", "tiny/fp16/noise-floor/facts"}
    assert keys(0, 1) - keys(0) == new | {"tiny/w4a4/rtn-seed-1/facts", "tiny/w4a4/rtn-mean-of-seeds/facts"}


def test_a_table_of_ones_own_has_its_name_in_front(cell_row: Any) -> None:
    rows = [cell_row(scheme=scheme, value=value) for scheme, value in (("fp16", 0.5), ("w4a16", 0.25))]
    specs = [read_table_spec(name) for name in ("main", "weight-only")]
    numbers = table_numbers([build_study_table(rows, spec=spec) for spec in specs])
    texts = {number.key: number.text for number in numbers if number.quantity == "value"}
    assert texts["tiny/w4a16/rtn/facts"] == texts["weight-only/tiny/w4a16/rtn/facts"] == "25.0"


def test_names_of_any_kind_make_keys_that_tex_takes(cell_row: Any) -> None:
    nasty = 'a_%&#{}\\$~^|`<>"é\n\U0001f600 b'
    rows = [cell_row(scheme=scheme, task=nasty, method=nasty, model=f"x/{nasty}") for scheme in ("fp16", "w4a4")]
    text = latex_numbers(nasty, [build_study_table(rows)])
    found = [match for line in text.splitlines() if (match := re.match(r"\\qsset\{\w+\}\{([^{}]*)\}", line))]
    assert found
    assert all(re.fullmatch(r"[A-Za-z0-9./+-]+", match[1]) for match in found)
    head = text.split("\\ifdefined")[0]
    assert all(line.startswith("%") for line in head.splitlines())
