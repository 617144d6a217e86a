"""MANSCDP, the XML of GB/T 28181 (annex A): read, and written.

Law: pure. A document with a DTD is refused before anything in it is expanded, so there are no entities but XML's five; depth,
elements and bytes are bounded. The bytes are GB 18030 or UTF-8: makers declare the one and send the other, so what is valid UTF-8 with Chinese
characters is read as that, else the declaration counts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from xml.parsers import expat
from xml.sax.saxutils import escape

from tulou.access.coap import Unreadable

DEPTH, ELEMENTS, TEXT = 12, 20_000, 4000
ROOTS = frozenset({"Notify", "Response", "Query", "Control"})
_DECLARED = re.compile(rb"^\s*<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([A-Za-z0-9._-]{1,20})[\"'][^>]{0,100}\?>")
_DECLARATION = re.compile(r"^\s*<\?xml[^>]{0,300}\?>")
CODE = re.compile(r"[0-9]{20}", re.ASCII)
"""A code of a device, channel or platform (annex D)."""


@dataclass(slots=True)
class Element:
    """An element: its name, attributes, text without space around it, and the elements within."""

    name: str
    attributes: dict[str, str] = field(default_factory=dict)
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def find(self, *path: str) -> Element | None:
        """The first element at a path."""
        here: Element | None = self
        for name in path:
            here = next((child for child in here.children if child.name == name), None) if here is not None else None
        return here

    def get(self, *path: str) -> str:
        """The text at a path; empty if there is none."""
        found = self.find(*path)
        return found.text if found is not None else ""

    def all(self, *path: str) -> list[Element]:
        """The elements at a path, of the first of each name before the last."""
        *before, last = path
        parent = self.find(*before)
        return [child for child in parent.children if child.name == last] if parent is not None else []

    def plain(self) -> object:
        """As people read it: text, or names with their values; a name that comes twice has a list."""
        if not self.children:
            return self.text
        found: dict[str, object] = {}
        for child in self.children:
            value = child.plain()
            if child.name in found:
                before = found[child.name]
                found[child.name] = [*before, value] if isinstance(before, list) else [before, value]
            else:
                found[child.name] = value
        return found


def text_of(body: bytes) -> str:
    """The document as text. Raises `Unreadable`."""
    declared = _DECLARED.match(body)
    said = declared[1].decode().lower() if declared else ""
    try:
        found = body.decode("utf-8-sig")
        if said in ("", "utf-8", "utf8") or body.isascii() or any(char >= "⺀" for char in found):
            return found
    except UnicodeDecodeError:
        pass
    try:
        return body.decode("gb18030")
    except UnicodeDecodeError as error:
        raise Unreadable("encoding", "既非 GB 18030 也非 UTF-8", "neither GB 18030 nor UTF-8", "body", error.start) from None


def parse(body: bytes) -> Element:
    """The document's root. Raises `Unreadable`."""
    text = _DECLARATION.sub("", text_of(body), count=1)
    top = Element("")
    stack = [top]
    texts: list[list[str]] = [[]]
    count = 0

    def begin(name: str, attributes: dict[str, str]) -> None:
        nonlocal count
        count += 1
        if count > ELEMENTS or len(stack) > DEPTH:
            raise Unreadable("size", f"元素多于 {ELEMENTS} 个或深于 {DEPTH} 层", f"more than {ELEMENTS} elements, or deeper than {DEPTH}", name[:40])
        made = Element(name, attributes)
        stack[-1].children.append(made)
        stack.append(made)
        texts.append([])

    def end(_name: str) -> None:
        stack.pop().text = "".join(texts.pop()).strip()[:TEXT]

    def refuse(*_: object) -> None:
        raise Unreadable("dtd", "不接受 DTD 与实体声明", "a DTD is not accepted, nor are declarations of entities", "DOCTYPE")

    parser = expat.ParserCreate("utf-8")
    parser.StartElementHandler, parser.EndElementHandler = begin, end
    parser.CharacterDataHandler = lambda data: texts[-1].append(data)
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = parser.ExternalEntityRefHandler = refuse  # type: ignore[assignment]
    try:
        parser.Parse(text.encode("utf-8", "surrogatepass"), True)
    except expat.ExpatError as error:
        raise Unreadable("xml", "不是格式正确的 XML", f"not well-formed XML: {error}", "body") from None
    except UnicodeEncodeError:
        raise Unreadable("encoding", "含不成对的代理字符", "has lone surrogates", "body") from None
    root = top.children[0]
    if root.name not in ROOTS:
        raise Unreadable("root", "根元素须为 Notify、Response、Query 或 Control", "the root is Notify, Response, Query or Control", "root", root.name[:40])
    return root


def document(root: str, command: str, number: int, device: str, inside: Sequence[tuple[str, str | Sequence[tuple[str, str]]]] = ()) -> bytes:
    """A document of ours: `inside` are elements after the first three, with texts or elements."""
    def one(name: str, value: str | Sequence[tuple[str, str]]) -> str:
        content = escape(value) if isinstance(value, str) else "".join(one(*inner) for inner in value)
        return f"<{name}>{content}</{name}>\r\n"

    body = one("CmdType", command) + one("SN", str(number)) + one("DeviceID", device) + "".join(one(*each) for each in inside)
    return f'<?xml version="1.0" encoding="GB2312"?>\r\n<{root}>\r\n{body}</{root}>\r\n'.encode("gb18030")
