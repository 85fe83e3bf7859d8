"""The process that sets one document: reads a Paper as JSON from stdin, writes the PDF to stdout.

    python -m billing.documents.typeset CREATED_UNIX_S

Typst compiles in this process, from the template beside this file and the fonts of two wheels alone. PDF/A-2u
is what archives keep, and has Typst refuse a character that no font has: each of those is replaced.
"""

import resource
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, cast

import typst
from pylopdf_fonts_zh_tw import sans_path

MAX_MEMORY_BYTES: Final = 2 * 1024**3
MISSING: Final = "〓"
"""The printers' mark for a character that there is no type for (geta)."""
_TEMPLATE: Final = Path(__file__).with_name("document.typ")
_STANDARD: Final = "a-2u"
_FONTS: Final = '"Noto Sans TC", "Libertinus Serif", "DejaVu Sans Mono"'
_PROBE: Final = f"#set text(font: ({_FONTS}))\n#sys.inputs.data".encode()
_NO_GLYPH: Final = "could not be displayed"


class Setter:
    """Typst with the documents' fonts."""

    def __init__(self) -> None:
        fonts = typst.Fonts(include_system_fonts=False, font_paths=[str(sans_path().parent)])
        self._typst = typst.Compiler(root=_TEMPLATE.parent, font_paths=fonts)
        self._template = _TEMPLATE.read_bytes()

    def set(self, paper_json: str, created_unix_s: int) -> bytes:
        """The PDF of a document; the same bytes for the same arguments."""
        try:
            return self._compile(self._template, paper_json, created_unix_s)
        except typst.TypstError as error:
            if _NO_GLYPH not in error.message:
                raise
            return self._compile(self._template, self.readable(paper_json), created_unix_s)

    def readable(self, text: str) -> str:
        """The text, each character that no font has replaced by one: its traditional form, or a mark."""
        missing = list(self._missing(sorted({one for one in text if not one.isascii()})))
        if not missing:
            return text
        forms = dict(zip(missing, _traditional(missing), strict=True))
        unprintable = set(self._missing(sorted(set(forms.values()))))
        return text.translate(
            {ord(one): MISSING if form in unprintable else form for one, form in forms.items()}
        )

    def _missing(self, characters: list[str]) -> Iterator[str]:
        """Those that no font has: halves of halves, as most have none."""
        if not characters or self._has(characters):
            return
        if len(characters) == 1:
            yield characters[0]
            return
        middle = len(characters) // 2
        yield from self._missing(characters[:middle])
        yield from self._missing(characters[middle:])

    def _has(self, characters: Iterable[str]) -> bool:
        try:
            self._compile(_PROBE, " ".join(characters), 0)
        except typst.TypstError as error:
            if _NO_GLYPH not in error.message:
                raise
            return False
        return True

    def _compile(self, template: bytes, data: str, created_unix_s: int) -> bytes:
        made = self._typst.compile(
            template,
            format="pdf",
            sys_inputs={"data": data},
            pdf_standards=_STANDARD,
            timestamp=created_unix_s,
        )
        assert isinstance(made, bytes)
        return made


def _traditional(characters: Iterable[str]) -> list[str]:
    from opencc import OpenCC

    convert = cast("Callable[[str], str]", OpenCC("s2t").convert)
    return convert("\n".join(characters)).split("\n")


def main() -> None:
    """Set what stdin says; any defect is a traceback and status 1."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    paper_json = sys.stdin.buffer.read().decode()
    sys.stdout.buffer.write(Setter().set(paper_json, int(sys.argv[1])))


if __name__ == "__main__":
    main()
