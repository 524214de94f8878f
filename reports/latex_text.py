"""Text from outside made fit for LaTeX."""

from __future__ import annotations

from reports.plain_text import one_line

# Only what every text font has, in the old encoding (OT1) and in T1, without packages or fonts beyond the base.
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"$\$$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\`{}",
    "±": r"$\pm$",
    "†": r"$\dagger$",
    "‡": r"$\ddagger$",
    "\ufffd": "?",
}
# In running text a longer word may be broken, after any so many characters.
_LONG_WORD, _PIECE = 24, 8
_LETTERS = frozenset(chr(code) for code in range(0xC0, 0x100)) - frozenset("\u00d7\u00f7\u00d0\u00de\u00f0\u00fe")


def escape_latex(text: str) -> str:
    """Text that LaTeX shows as it is; a character that pdfLaTeX has no glyph for is shown as its code point."""
    # Two hyphens in a row would print as a dash, two commas in T1 as a low quotation mark.
    escaped = "".join(_SPECIAL.get(character) or _glyph(character) for character in one_line(text))
    return escaped.replace("--", "-{}-").replace("--", "-{}-").replace(",,", ",{},")


def breakable_latex(text: str) -> str:
    """The same for running text: a line may end within a word that no line could hold, and between code points."""
    return " ".join(map(_breakable, one_line(text).split(" ")))


def _breakable(word: str) -> str:
    size = _PIECE if len(word) > _LONG_WORD else _LONG_WORD
    pieces = [escape_latex(word[start : start + size]) for start in range(0, len(word), size)]
    return r"\allowbreak{}".join(pieces).replace("][U+", r"]\allowbreak{}[U+")


def _glyph(character: str) -> str:
    if character < "\x7f" or character in _LETTERS:
        return character
    return f"[U+{ord(character):04X}]"
