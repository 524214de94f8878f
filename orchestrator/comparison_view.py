"""What `qstudy compare` prints: a table per pair, the items that were gained and lost, what a limit on drops says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.comparing import Comparisons, Verdict
from reports.flips import Answer, Flip, Flips
from reports.pairing import Pair, PairedScore
from reports.plain_text import one_line, text_lines
from reports.statistics import SIGNIFICANCE

_TITLES = ("Task", "A", "B", "B - A", "95 % interval", "p", "p (Holm)", "Detectable", "Gained", "Lost", "Items")
# What a narrow terminal goes without, in this order; --json has all of it.
_DISPENSABLE = (("Items",), ("p",), ("Detectable",), ("Gained", "Lost"), ("95 % interval",), ("p (Holm)",))
_MAX_CHOICES = 6
_ANY_WIDTH = 1000


def comparison_view(made: Comparisons, console: Console) -> Iterator[RenderableType]:
    """The pairs' tables, made to fit the console, and how to read them."""
    for pair in made.pairs:
        yield Text(f"A  {one_line(pair.a.label)}  ({pair.a.variant_id})", overflow="fold")
        yield Text(f"B  {one_line(pair.b.label)}  ({pair.b.variant_id})", overflow="fold")
        yield _fitting(pair, console)
        for score in pair.scores:
            if score.problem:
                yield Text(f"{one_line(score.task)}: not compared, {one_line(score.problem)}", style="yellow")
        if pair.unshared:
            yield Text(f"not compared, for only one side has them: {', '.join(pair.unshared)}", style="yellow")
    yield Text(
        "Paired item by item: exact McNemar test for 0/1 scores, permutation test else and for averages; "
        f"* significant at 5 % after Holm's correction for the {made.num_tests} tests shown. Detectable: the smallest "
        "difference that such a test finds with 80 % power. Gained, lost: items on which B scores more, or less.",
        style="dim",
    )


def _fitting(pair: Pair, console: Console) -> Table:
    left_out: list[str] = []
    options = console.options.update(max_width=_ANY_WIDTH)
    table = _table(pair, left_out)
    for titles in _DISPENSABLE:
        if console.measure(table, options=options).maximum <= console.width:
            break
        left_out += titles
        table = _table(pair, left_out)
    return table


def _table(pair: Pair, left_out: Sequence[str]) -> Table:
    caption = Text(f"without {', '.join(left_out)}, for want of width") if left_out else None
    table = Table(box=box.SIMPLE_HEAD, caption=caption, caption_justify="left")
    shown = [index for index, title in enumerate(_TITLES) if title not in left_out]
    for index in shown:
        table.add_column(_TITLES[index], justify="right" if index else "left", no_wrap=True)
    for place, score in enumerate(pair.scores):
        cells = _cells(score)
        is_last_task = place + 2 == len(pair.scores) and pair.scores[-1].cell_ids is None
        table.add_row(*(cells[index] for index in shown), end_section=is_last_task)
    return table


def _cells(score: PairedScore) -> list[Text]:
    found = score.comparison
    texts = [one_line(score.task), *(_number(value, score) for value in score.values)]
    if found is None or found.adjusted_p is None:
        return [Text(text) for text in (*texts, *["-"] * (len(_TITLES) - len(texts)))]
    is_significant = found.adjusted_p < SIGNIFICANCE
    low, high = found.interval or (None, None)
    texts += [
        _number(found.difference, score, "+") + ("*" if is_significant else " "),
        f"[{_number(low, score)}, {_number(high, score)}]" if found.interval else "-",
        p_text(found.p_value),
        p_text(found.adjusted_p),
        _number(found.minimum_detectable, score),
        str(found.num_higher),
        str(found.num_lower),
        str(found.num_items),
    ]
    style = "" if not is_significant or score.drop is None else "red" if score.drop > 0 else "green"
    return [Text(text, style=style if index == _TITLES.index("B - A") else "") for index, text in enumerate(texts)]


def _number(value: float | None, score: PairedScore, sign: str = "-") -> str:
    if value is None:
        return "-"
    text = f"{value:{sign}.1f}" if score.is_percentage else f"{value:{sign}.4g}"
    return text[1:] if text in ("-0.0", "+0.0", "-0", "+0") else text


def p_text(p_value: float) -> str:
    """A p-value with three decimals; a smaller one is only said to be so."""
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}"


def flips_view(made: Comparisons, *, limit: int, text_length: int) -> Iterator[RenderableType]:
    """The items gained and lost, task by task, with their texts cut to `text_length` characters."""
    for pair in made.pairs:
        for score in pair.scores:
            flips = made.flips(score, limit)
            if flips is None or not flips.shown:
                continue
            yield Text(f"\n{one_line(score.task)}, {one_line(pair.a.label)} -> {one_line(pair.b.label)}", style="bold")
            for flip in flips.shown:
                yield from _flip_view(flip, text_length)
            if hidden := _hidden(flips):
                yield Text(f"  {hidden}; --flips-limit shows more", style="dim")


def _hidden(flips: Flips) -> str:
    told = []
    for direction, total in (("gained", flips.num_gained), ("lost", flips.num_lost)):
        rest = total - sum(flip.direction == direction for flip in flips.shown)
        told += [f"{rest} more {direction}"] if rest else []
    return ", ".join(told)


def _flip_view(flip: Flip, length: int) -> Iterator[Text]:
    style = "green" if flip.direction == "gained" else "red"
    before, after = flip.scores
    yield Text(f"  {flip.direction}: item {flip.doc_id}, score {before:g} -> {after:g}", style=style)
    # The question is at the end of a prompt, behind its examples.
    yield _part("prompt", text_lines(flip.prompt or "(not recorded)", length, keep="last"))
    yield _part("target", text_lines("(not recorded)" if flip.target is None else flip.target, length))
    for name, answer in zip("AB", flip.answers, strict=True):
        yield _part(name, _answer_lines(answer, length))


def _answer_lines(answer: Answer, length: int) -> list[str]:
    if answer.choices:
        shown = [f"{choice.logprob:10.3f}  {' '.join(text_lines(choice.text, length))}" for choice in answer.choices]
        rest = len(shown) - _MAX_CHOICES
        return shown[:_MAX_CHOICES] + ([f"({rest} more choices)"] if rest > 0 else [])
    return ["(not recorded)"] if answer.text is None else text_lines(answer.text, length)


def _part(name: str, lines: Sequence[str]) -> Text:
    first, *others = lines
    return Text("\n".join([f"    {name:<6}  {first}", *(f"            {line}" for line in others)]))


def verdict_lines(verdict: Verdict) -> tuple[list[str], list[str]]:
    """What a limit on drops says: results, and what to know beside them."""
    limit = f"{verdict.max_drop:g} points"
    results = [f"significant drop beyond {limit}: {text}" for text in verdict.drops]
    if not verdict.drops:
        results.append(f"no significant drop beyond {limit}")
    beside = [f"cannot be judged: {text}" for text in verdict.unjudged]
    if verdict.blind:
        beside.append(
            f"a true drop of {limit} may well stay unseen; detectable with these items, in points: "
            f"{'; '.join(verdict.blind)}"
        )
    return results, beside
