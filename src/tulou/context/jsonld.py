"""JSON-LD @contexts for NGSI-LD: terms to IRIs and back, with the core @context always last.

Law: nothing is fetched. A context is one that ships in `contexts/`, one that the house generates, or one that was
stored through an operation; any other address is `LdContextNotAvailable`.

Names are stored in the *stored form*: compacted by the core context alone. A name of the default vocabulary is its
short term, a core term is itself, anything else is its full IRI. So an answer under the core context is the stored
document unchanged, and two contexts that mean the same IRI meet in the same stored name.

Sources: ETSI GS CIM 009 v1.9.1 clauses 4.4, 5.5.5, 5.5.7 and Annex B; JSON-LD 1.1 sections 4.1 and 5.2.
"""

from __future__ import annotations

import contextlib
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from importlib.resources import files
from typing import Any

import orjson

from tulou.context.errors import BadRequestData, LdContextNotAvailable, bad
from tulou.kernel.packs import Model

CORE_URL = "https://uri.etsi.org/ngsi-ld/v1/ngsi-ld-core-context-v1.9.jsonld"
DEFAULT_VOCAB = "https://uri.etsi.org/ngsi-ld/default-context/"
LINK_REL = "http://www.w3.org/ns/json-ld#context"

_CORE_URLS = re.compile(r"https?://uri\.etsi\.org/ngsi-ld/v1/ngsi-ld-core-context(-v1\.[1-9](\.[1-9])?)?\.jsonld")
_TERM = re.compile(r"[^\W\d_][\w-]*")
_IRI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[^\s\x00-\x20\"<>\\^`{|}]+")

_GEN_DELIMS = frozenset(":/?#[]@")
"""A term may be a prefix when its IRI ends in one of these (JSON-LD 1.1, 9.15.1)."""

_UNSEEN = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs"})
_BLANK = frozenset("\u115f\u1160\u3164\uffa0\u2800\u034f" + "".join(map(chr, range(0xFE00, 0xFE10)))
                   + "".join(map(chr, range(0xE0100, 0xE01F0))))
"""Letters and marks that are drawn as nothing: two ids that look the same must be the same."""

RESERVED = frozenset({
    "id", "type", "scope", "name", "location", "observationSpace", "operationSpace", "createdAt", "modifiedAt", "deletedAt", "expiresAt",
})
"""What a property cannot be called: entities have it, or something else is meant by it."""

MAX_TERMS = 20_000
MAX_DEPTH = 8
MAX_MEMO = 20_000
MAX_COMPILED = 2_000


def is_iri(text: object) -> bool:
    """Whether `text` is an absolute URI or IRI (RFC 3986, RFC 3987), by its characters."""
    if not isinstance(text, str) or len(text) > 2048 or _IRI.fullmatch(text) is None:
        return False
    return text.isascii() or not any(unicodedata.category(c) in _UNSEEN or c in _BLANK for c in text)


class Context:
    """A compiled context. `stored` and `shown` translate names; both remember what they have seen."""

    __slots__ = ("_expanded", "_inverse", "_prefixes", "identity", "seen", "shown_already", "terms")

    def __init__(self, terms: Mapping[str, str]) -> None:
        self.become(terms)

    def become(self, terms: Mapping[str, str]) -> None:
        """Have these terms from now on, for everyone who holds this object."""
        self.terms = dict(terms)
        self._inverse: dict[str, str] = {}
        for term, iri in self.terms.items():
            known = self._inverse.get(iri)
            if known is None or (len(term), term) < (len(known), known):
                self._inverse[iri] = term
        self._prefixes = [
            (iri, term) for term, iri in self.terms.items() if iri[-1:] in _GEN_DELIMS and iri != DEFAULT_VOCAB
        ]
        self._expanded: dict[str, str] = {}
        self.seen: dict[str, str] = {}
        """Names that `stored` has checked, with their stored form: a look-up saves the call."""
        self.shown_already: dict[str, str] = {}
        self.identity = False
        """Whether `shown` changes nothing: the core context, or one whose terms are all its own."""

    def expand(self, name: str) -> str:
        """The IRI of a term, compact IRI or IRI."""
        iri = self.terms.get(name)
        if iri is not None:
            return iri
        prefix, colon, rest = name.partition(":")
        if not colon:
            return DEFAULT_VOCAB + name
        if not rest.startswith("//"):
            base = self.terms.get(prefix)
            if base is not None:
                return base + rest
        return name

    def compact(self, iri: str) -> str:
        """The term of an IRI; the IRI itself when this context has none (clause 5.5.7)."""
        term = self._inverse.get(iri)
        if term is not None:
            return term
        if iri.startswith(DEFAULT_VOCAB):
            short = iri[len(DEFAULT_VOCAB) :]
            if short and ":" not in short and short not in self.terms and short[0] != "@":
                return short
        return iri

    def _compact_iri(self, iri: str) -> str:
        """The shortest compact IRI (`prefix:suffix`) that expands to `iri`, else `iri` (JSON-LD 1.1 API, 6.2.2)."""
        found = [
            f"{term}:{iri[len(base):]}" for base, term in self._prefixes
            if iri.startswith(base) and len(iri) > len(base) and not iri.startswith("//", len(base))
        ]
        return min((name for name in found if name not in self.terms), key=lambda n: (len(n), n), default=iri)

    def stored(self, name: str) -> str:
        """The stored form of a name that a client used. Raises `BadRequestData` if it cannot be one."""
        found = self.seen.get(name)
        if found is None:
            check_name(name)
            found = CORE.compact(self.expand(name))
            if len(self.seen) >= MAX_MEMO:
                self.seen.clear()
            self.seen[name] = found
        return found

    def shown(self, stored: str) -> str:
        """The name that a client of this context sees for a stored name."""
        found = self.shown_already.get(stored)
        if found is None:
            found = self.compact(CORE.expand(stored))
            if ":" in found and self is not CORE:
                found = self._compact_iri(found)
            if len(self.shown_already) >= MAX_MEMO:
                self.shown_already.clear()
            self.shown_already[stored] = found
        return found


def check_name(name: object) -> None:
    """Raise `BadRequestData` unless `name` is a term or an IRI (clause 4.6.2)."""
    if isinstance(name, str) and len(name) <= 1024 and (_TERM.fullmatch(name) or _IRI.fullmatch(name)):
        return
    raise bad(
        f"名称 {str(name)[:100]!r} 不合规则：应为字母开头的字母、数字、下划线，或一个 IRI",
        f"name {str(name)[:100]!r} is neither a term (letter, then letters, digits, _) nor an IRI",
        field="name", value=name, rule="CIM 009, 4.6.2",
    )


def _definitions(context: Mapping[str, Any]) -> dict[str, str]:
    """Term -> IRI of one inline context, its prefixes resolved."""
    done: dict[str, str] = {}
    raw: dict[str, str] = {}
    for term, definition in context.items():
        if term.startswith("@"):
            if term == "@import":
                raise bad("@context 不可使用 @import", "@import is not supported in a @context", field="@context")
            continue
        if isinstance(definition, dict):
            if "@context" in definition:
                raise bad(
                    f"@context 中的术语 {term} 带有局部 @context", f"term {term} has a scoped context",
                    field=f"@context.{term}", rule="CIM 009, 5.5.7: no scoped contexts",
                )
            definition = definition.get("@id", term if ":" in term else None)
            if definition is None:
                continue
        if definition is None:
            continue
        if not isinstance(definition, str):
            raise bad(
                f"@context 中的术语 {term} 应为文本或对象", f"term {term} must be a string or an object",
                field=f"@context.{term}", value=definition, rule="JSON-LD 1.1, 9.15.1",
            )
        raw[term] = definition

    def resolve(term: str, trail: tuple[str, ...]) -> str:
        if term in done:
            return done[term]
        if term in trail:
            raise bad(f"@context 中的术语 {term} 循环定义", f"term {term} is defined by itself", field=f"@context.{term}")
        value = raw[term]
        prefix, colon, rest = value.partition(":")
        if value.startswith("@"):
            iri = value
        elif not colon:
            iri = resolve(value, (*trail, term)) if value in raw and value != term else DEFAULT_VOCAB + value
        elif rest.startswith("//") or prefix == term or (prefix not in raw and prefix not in CORE_TERMS):
            iri = value
        else:
            iri = (resolve(prefix, (*trail, term)) if prefix in raw else CORE_TERMS[prefix]) + rest
        done[term] = iri
        return iri

    for term in raw:
        resolve(term, ())
    return {term: iri for term, iri in done.items() if not iri.startswith("@")}


def load_document(name: str) -> dict[str, Any]:
    """A context that ships with the program, by file name."""
    document: dict[str, Any] = orjson.loads(files("tulou.context").joinpath("contexts", name).read_bytes())
    return document


CORE_DOCUMENT = load_document("ngsi-ld-core-context.jsonld")
CORE_TERMS: dict[str, str] = {}
CORE_TERMS.update(_definitions(CORE_DOCUMENT["@context"]))
CORE = Context(CORE_TERMS)
CORE.identity = True


class Contexts:
    """The contexts that this house knows, by address, and their compiled forms."""

    def __init__(self, *, origins: Iterable[str] = ()) -> None:
        self._documents: dict[str, Any] = {}
        self._compiled: dict[Any, Context] = {}
        self.version = 0
        """Grows whenever a document comes, changes or goes: what was compiled with an older one may be out of date."""
        self.uses: dict[str, int] = {}
        """How often clients named each stored address since the counts were last taken."""
        self.origins = tuple(o.rstrip("/") for o in origins if o)

    def put(self, url: str, document: Any) -> None:
        """Store the context `document` (an object with `@context`) at `url`, replacing what was there."""
        if self._documents.get(url) != document:
            self._documents[url] = document
            self._compiled.clear()
            self.version += 1

    def remove(self, url: str) -> None:
        """Forget the context at `url`."""
        self._documents.pop(url, None)
        self.uses.pop(url, None)
        self._compiled.clear()
        self.version += 1

    def __contains__(self, url: str) -> bool:
        return self._local(url) in self._documents or _CORE_URLS.fullmatch(url) is not None

    def get(self, spec: Any = None) -> Context:
        """The compiled context of a `@context` value: address, object, array of those, or None for the core alone.

        Raises `LdContextNotAvailable` for an address that is not stored here, `BadRequestData` for a malformed one.
        """
        if spec is None or spec == CORE_URL:
            return CORE
        key: Any = spec if isinstance(spec, str) else orjson.dumps(spec, option=orjson.OPT_SORT_KEYS)
        found = self._compiled.get(key)
        if found is None:
            terms: dict[str, str] = {}
            self._collect(spec, terms, 0)
            found = compile_terms(terms)
            if len(self._compiled) >= MAX_COMPILED:
                self._compiled.clear()
            self._compiled[key] = found
        return found

    def use(self, spec: Any) -> Context:
        """As `get`, for a context that a client named: its use is counted (5.13.3.5)."""
        found = self.get(spec)
        for address in spec if isinstance(spec, list) else (spec,):
            if isinstance(address, str) and self._local(address) in self._documents:
                local = self._local(address)
                self.uses[local] = self.uses.get(local, 0) + 1
        return found

    def check(self, spec: Any) -> None:
        """Raise `BadRequestData` for what cannot be a context. Addresses in it need not be stored (yet)."""
        if isinstance(spec, list):
            for item in spec:
                self.check(item)
        elif isinstance(spec, str) and not _CORE_URLS.fullmatch(spec) and self._local(spec) not in self._documents:
            if not is_iri(spec) and not spec.startswith("/"):
                raise bad("@context 应为 URI", "@context must be a URI", field="@context", value=spec, rule="URI")
        else:
            with contextlib.suppress(LdContextNotAvailable):
                self._collect(spec, {}, 0)

    def is_core(self, url: str) -> bool:
        """Whether this is an address of the core context, of whatever version."""
        return _CORE_URLS.fullmatch(url) is not None

    def _local(self, url: str) -> str:
        for origin in self.origins:
            if url.startswith(origin + "/"):
                return url[len(origin) :]
        return url

    def _collect(self, spec: Any, terms: dict[str, str], depth: int) -> None:
        if depth > MAX_DEPTH:
            raise bad("@context 嵌套过深", "contexts are nested too deeply", field="@context", rule=f"<= {MAX_DEPTH}")
        if spec is None:
            terms.clear()
        elif isinstance(spec, str):
            if _CORE_URLS.fullmatch(spec):
                return
            document = self._documents.get(self._local(spec))
            if document is None:
                if not is_iri(spec) and not spec.startswith("/"):
                    raise bad("@context 应为 URI", "@context must be a URI", field="@context", value=spec, rule="URI")
                raise LdContextNotAvailable(
                    f"@context {spec[:200]} 未存于本系统；请先用 POST /ngsi-ld/v1/jsonldContexts 存入",
                    f"@context {spec[:200]} is not stored here; store it with POST /ngsi-ld/v1/jsonldContexts",
                    field="@context", value=spec, rule="no @context is fetched from the network",
                )
            self._collect(document.get("@context", {}), terms, depth + 1)
        elif isinstance(spec, dict):
            if not terms and not depth and len(spec) == 1 and "@context" in spec:
                spec = spec["@context"]
                self._collect(spec, terms, depth + 1)
                return
            terms.update(_definitions(spec))
        elif isinstance(spec, list):
            if len(spec) > 100:
                raise bad("@context 数组过长", "too many contexts", field="@context", rule="<= 100")
            for item in spec:
                self._collect(item, terms, depth + 1)
        else:
            raise BadRequestData(
                "@context 应为 URI、对象或数组", "@context must be a URI, an object or an array",
                field="@context", value=spec, rule="JSON-LD 1.1",
            )
        if len(terms) > MAX_TERMS:
            raise bad("@context 的术语过多", "too many terms in @context", field="@context", rule=f"<= {MAX_TERMS}")


def compile_terms(terms: Mapping[str, str]) -> Context:
    """A context of user terms, under the core terms."""
    context = Context({**terms, **CORE_TERMS})
    context.identity = all(CORE.compact(iri) == term for term, iri in context.terms.items() if term not in CORE_TERMS)
    return context


def terms_of(models: Mapping[str, Model]) -> dict[str, str]:
    """The names of models with their IRIs: types, properties, relationships. One without an IRI of its own is a name of the
    default vocabulary. Raises `BadRequestData` when two models give one name two IRIs: a flat context cannot hold both."""
    terms: dict[str, str] = {}
    for name, model in models.items():
        for term, (iri, where) in _named(name, model).items():
            iri = iri or DEFAULT_VOCAB + term
            if terms.setdefault(term, iri) != iri:
                raise two_iris(term, where, iri, terms[term])
    return terms


def two_iris(term: str, where: str, iri: str, known: str) -> BadRequestData:
    """The error for a name that has another IRI; `where` is the place that gives it `iri`."""
    return bad(
        f"{where}：名称 {term} 已另有 IRI {known}", f"{where}: {term} already has the IRI {known}", field=where, value=iri,
        rule="one name, one IRI",
    )


def _named(name: str, model: Model) -> dict[str, tuple[str, str]]:
    """Term -> (its IRI, or empty; the place that says so), but for terms of the core context."""
    found = {name: (model.iri, name)}
    for key, prop in model.properties.items():
        found.setdefault(key, (prop.iri, f"{name}.{key}"))
    for key in model.relationships:
        found.setdefault(key, ("", f"{name}.{key}"))
    return {term: of for term, of in found.items() if term not in CORE_TERMS}


def fitted(name: str, model: Model, terms: Mapping[str, str]) -> Model:
    """The model with the IRIs that its names have in `terms`."""
    def known(term: str, own: str) -> str:
        iri = terms.get(term)
        return own if iri is None else "" if iri == DEFAULT_VOCAB + term else iri

    properties = {key: prop.model_copy(update={"iri": known(key, prop.iri)}) for key, prop in model.properties.items()}
    return model.model_copy(update={"iri": known(name, model.iri), "properties": properties})


def fresh_iris(name: str, model: Model, terms: Mapping[str, str]) -> list[str]:
    """Where the model gives a name an IRI that it has not in `terms`. Raises `BadRequestData` for a name that an entity has
    itself, for what is no IRI, and for a name that has another one there."""
    for key in (*model.properties, *model.relationships):
        if key in RESERVED:
            raise bad(
                f"名称 {key} 是实体自己的成员", f"{key} is a member that every entity has", field=f"{name}.{key}", value=key,
                rule="not " + " | ".join(sorted(RESERVED)),
            )
    fresh = []
    for term, (iri, where) in _named(name, model).items():
        if not iri:
            continue
        if not is_iri(iri):
            raise bad(f"{where}：{iri[:100]} 不是 IRI", f"{where}: {iri[:100]} is no IRI", field=where, value=iri, rule="RFC 3987")
        if terms.get(term, iri) != iri:
            raise two_iris(term, where, iri, terms[term])
        if term not in terms:
            fresh.append(where)
    return fresh


def house_document(models: Mapping[str, Model], declared: Collection[str] = ()) -> dict[str, Any]:
    """The context of the house's models, served at `/ngsi-ld/contexts/tulou.jsonld`. Of the types `declared` by organisations
    only names with an IRI of their own are in it: the others mean the same without, and are not everybody's to read.

    Raises `BadRequestData` as `terms_of`.
    """
    terms = terms_of(models)
    shown = terms_of({name: model for name, model in models.items() if name not in declared})
    kept = {term: iri for term, iri in terms.items() if term in shown or iri != DEFAULT_VOCAB + term}
    return {"@context": [dict(sorted(kept.items())), CORE_URL]}


def link_context(header: str | None) -> str | None:
    """The address in a `Link` header with the JSON-LD context relation, None if there is none.

    Raises `BadRequestData` for more than one (clause 6.3.5).
    """
    if not header:
        return None
    found = [
        match.group(1)
        for match in re.finditer(r"<([^<>]*)>([^<]*)", header)
        if re.search(r'rel\s*=\s*"?' + re.escape(LINK_REL), match.group(2))
    ]
    if len(found) > 1:
        raise bad("Link 头只能给出一个 @context", "more than one @context in Link", field="Link", value=header)
    return found[0] if found else None
