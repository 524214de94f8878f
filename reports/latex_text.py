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
_LETTERS = frozenset(chr(code) for code in range(0xC0, 0x100)) - frozenset("\u00d7\u00f7\u00d0\u00de\u00f0\u00fe")


def escape_latex(text: str) -> str:
    """Text that LaTeX shows as it is; a character that pdfLaTeX has no glyph for is shown as its code point."""
    # Two hyphens in a row would print as a dash, two commas in T1 as a low quotation mark.
    escaped = "".join(_SPECIAL.get(character) or _glyph(character) for character in one_line(text))
    return escaped.replace("--", "-{}-").replace("--", "-{}-").replace(",,", ",{},")


def _glyph(character: str) -> str:
    if character < "\x7f" or character in _LETTERS:
        return character
    return f"[U+{ord(character):04X}]"
