"""`tulou pack`: packs of this machine. They are files of the home, so that these commands need no running house; the house takes what is
installed at its next start."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import orjson

from tulou.kernel.errors import NotFound, TulouError
from tulou.kernel.settings import API

if TYPE_CHECKING:
    from tulou.kernel.packs import Pack, Packs, Problem

FOLDER = click.argument("pack", metavar="PACK")


@click.group("pack")
def pack_commands() -> None:
    """包：领域的声明。Packs: new, check, test, sign, install, remove, list, show, grade, schema."""


@pack_commands.command("new")
@click.argument("name")
@click.option("--within", type=click.Path(file_okay=False, path_type=Path), default=Path(), help="上级文件夹 / folder to make it in")
@click.pass_obj
def new_command(obj: Any, name: str, within: Path) -> None:
    """新建一个可用的小包。Write a small good pack, with a test, to begin with."""
    from tulou.kernel.packs.scaffold import write

    with _said(obj):
        folder = write(name, within)
        if obj.json:
            obj.output({"folder": str(folder)})
        else:
            click.echo(obj.text(f"已写入 {folder}，请编辑 {folder}/pack.yaml", f"wrote {folder}; edit {folder}/pack.yaml"))


@pack_commands.command("check")
@FOLDER
@click.pass_obj
def check_command(obj: Any, pack: str) -> None:
    """检查包：列出每一处错误（文件:行:列: 位置: 规则）。Check a pack; every error with file, line, column, place and rule."""
    with _said(obj):
        _, found, problems = _opened(obj, pack)
        if obj.json:
            obj.output({"ok": not problems, "problems": [_document(problem) for problem in problems]})
        elif found is not None and not problems:
            click.echo(obj.text(f"{found.name} {found.version} 没有错误", f"{found.name} {found.version} has no errors"))
        if problems:
            _print(obj, problems, Path(pack))
            sys.exit(1)


@pack_commands.command("test")
@FOLDER
@click.option("--bench", is_flag=True, help="连同 bench/ 的测量 / with the measurements in bench/")
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def test_command(obj: Any, pack: str, bench: bool, words: tuple[str, ...]) -> None:
    """试验包的示例、运行包的测试，并记录。Try the examples of a pack, run its tests, and record what it proved."""
    from tulou.kernel.packs.proving import grade, prove

    with _said(obj):
        packs, found, problems = _opened(obj, pack)
        if found is None or problems:
            _print(obj, problems, Path(pack))
            sys.exit(1)
        proof, broken = prove(found, packs, bench=bench, words=list(words))
        _print(obj, broken, found.folder)
        reached = grade(found)
        if obj.json:
            obj.output({**proof.model_dump(), "problems": [_document(problem) for problem in broken], "grade": reached.name})
        else:
            obj.output({**proof.model_dump(exclude={"outside", "figures"}), "outside": len(proof.outside), "grade": reached.name})
            if proof.figures:
                obj.output([figure.model_dump() for figure in proof.figures], ("name", "value", "unit"))
        if proof.failed or broken:
            sys.exit(1)


@pack_commands.command("grade")
@FOLDER
@click.pass_obj
def grade_command(obj: Any, pack: str) -> None:
    """等级由所证明者算出，并说明下一级尚缺什么。The grade that a pack has proved, and what is missing for the next."""
    from tulou.kernel.packs.proving import grade

    with _said(obj):
        _, found, problems = _opened(obj, pack)
        if found is None or problems:
            _print(obj, problems, Path(pack))
            sys.exit(1)
        reached = grade(found)
        if obj.json:
            obj.output({"grade": reached.name, "next": reached.next, "missing": [{"zh": zh, "en": en} for zh, en in reached.missing]})
            return
        click.echo(f"{found.name} {found.version}: {reached.name}")
        for zh, en in reached.missing:
            click.echo(f"  {reached.next}: {obj.text(zh, en)}")


@pack_commands.command("sign")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--key", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Ed25519 私钥（PEM）/ private key (PEM)")
@click.pass_obj
def sign_command(obj: Any, folder: Path, key: Path) -> None:
    """签名：清单 SHA256SUMS 与其签名。Sign every file of a pack; prints the public key, as the setting pack_keys takes it."""
    from tulou.kernel.packs.signing import sign

    with _said(obj):
        public = sign(folder, key)
        if obj.json:
            obj.output({"key": public})
        else:
            click.echo(public)


@pack_commands.command("install")
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.option("--force", is_flag=True, help="即使降级、文件不同、已存数据失去含义 / even if older, changed, or orphaning what is stored")
@click.pass_obj
def install_command(obj: Any, source: Path, force: bool) -> None:
    """安装或升级：文件夹、zip 或 wheel。Install a pack, or upgrade it, from a folder, a zip file or a wheel."""
    from tulou.kernel.packs import Unreadable
    from tulou.kernel.packs.installing import install, installed
    from tulou.kernel.plugins import plugins, read_packs

    with _said(obj):
        before = {one.name: one for one in installed(obj.settings.home)}
        base = read_packs(plugins(), obj.settings, installed=False)
        try:
            made, effects = install(obj.settings, source, base, _Stored(obj), force=force)
        except Unreadable as error:
            _print(obj, error.problems, source)
            sys.exit(1)
        again = before.get(made.name) == made
        if obj.json:
            obj.output({**made._asdict(), "installed": not again, "effects": [{"zh": one.zh, "en": one.en} for one in effects]})
            return
        done = obj.text("已是所装版本", "is installed already") if again else obj.text("已安装", "installed")
        click.echo(f"{made.name} {made.version} {done}" + ("" if made.signer else obj.text("（没有签名）", " (not signed)")))
        for one in effects:
            click.echo(f"  {obj.text(one.zh, one.en)}")
        if not again:
            _restart(obj)


@pack_commands.command("remove")
@click.argument("name")
@click.option("--force", is_flag=True, help="即使别的包需要它（它们将不能装入）/ even if others require it, which are left out then")
@click.pass_obj
def remove_command(obj: Any, name: str, force: bool) -> None:
    """移除。Remove an installed pack; entities of its types stay as data, and no pack declares their types."""
    from tulou.kernel.packs.installing import remove
    from tulou.kernel.plugins import plugins, read_packs

    with _said(obj):
        gone, types, left = remove(obj.settings, name, read_packs(plugins(), obj.settings, installed=False), _Stored(obj), force=force)
        if obj.json:
            obj.output({"name": gone.name, "version": gone.version, "types": types, "entities": left})
            return
        click.echo(f"{gone.name} {gone.version} " + obj.text("已移除", "removed"))
        for kind, number in left.items():
            click.echo(obj.text(f"  {number} 个 {kind} 实体留作数据，类型不再声明", f"  {number} entities of {kind} stay as data; nobody declares the type"))
        _restart(obj)


@pack_commands.command("list")
@click.pass_obj
def list_command(obj: Any) -> None:
    """本机的包：等级、来源、签名，未装入者说明原因。The packs of this machine: grade, source, signature, and why one is left out."""
    from tulou.kernel.packs.register import rows, signers
    from tulou.kernel.plugins import plugins, read_packs

    with _said(obj):
        found = rows(read_packs(plugins(), obj.settings), obj.settings.home, signers(obj.settings.home))
        if obj.running() is not None:
            runs = {(one["name"], one["version"]) for one in obj.call("GET", f"{API}/packs")["items"] if one["state"] == "works"}
            for one in found:
                if one["state"] == "works" and (one["name"], one["version"]) not in runs:
                    one["state"] = "restart"
        if obj.json:
            obj.output(found)
            return
        for one in found:
            one["label"] = one["label"]["zh" if obj.language == "zh" else "en"]
            if one["source"] == "installed" and one["state"] != "left_out":
                one["signed"] = one["signer"] or obj.text("没有签名", "not signed")
        obj.output(found, ("name", "version", "label", "grade", "state", "source", "signed"))
        for one in found:
            for problem in one["problems"]:
                click.echo(f"{one['name']}: {problem['file']}:{problem['line']}:{problem['column']}: " + ": ".join(
                    filter(None, [problem["place"], obj.text(problem["zh"], problem["en"])])))


@pack_commands.command("show")
@click.argument("name")
@click.pass_obj
def show_command(obj: Any, name: str) -> None:
    """土楼中的一个包。A pack of the house in full."""
    obj.output(obj.call("GET", f"{API}/packs/{name}"))


@pack_commands.command("schema")
@click.option("--write", type=click.Path(dir_okay=False, path_type=Path), help="写入文件 / write it to this file")
@click.pass_obj
def schema_command(obj: Any, write: Path | None) -> None:
    """pack.yaml 的 JSON Schema，供编辑器使用。The JSON Schema of pack.yaml, for editors."""
    from tulou.kernel.packs.schema import schema
    from tulou.kernel.plugins import plugins, read_packs

    text = orjson.dumps(schema(read_packs(plugins()).known), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    if write is None:
        click.echo(text, nl=False)
    else:
        write.write_bytes(text)


class _Stored:
    """The number of entities of a type in this home, asked of the house when it matters."""

    def __init__(self, obj: Any) -> None:
        self.obj = obj

    def __call__(self, pack: str) -> dict[str, int]:
        settings = self.obj.settings
        if self.obj.running() is None and not settings.database_url and not (settings.home / "tulou.db").exists():
            return {}
        answer = self.obj.request("GET", f"{API}/packs/{pack}")
        if answer.status_code >= 400:
            return {}
        return {one["type"]: one["entities"] for one in orjson.loads(answer.content).get("models", ()) if one["entities"]}


@contextmanager
def _said(obj: Any) -> Iterator[None]:
    try:
        yield
    except TulouError as error:
        if obj.json:
            click.echo(orjson.dumps(error.problem(), option=orjson.OPT_INDENT_2), err=True)
            sys.exit(1)
        obj.stop(error.zh, error.en)


def _opened(obj: Any, word: str) -> tuple[Packs, Pack | None, list[Problem]]:
    """The house's packs with the one in the folder `word`, or of this name."""
    from tulou.kernel.packs.collection import FILE
    from tulou.kernel.packs.installing import with_pack
    from tulou.kernel.plugins import plugins, read_packs

    if (Path(word) / FILE).is_file():
        return with_pack(obj.settings, read_packs(plugins(), obj.settings, installed=False), Path(word))
    packs = read_packs(plugins(), obj.settings)
    if word in packs.packs:
        return packs, packs.packs[word], []
    for out in packs.left_out:
        if out.name == word:
            return packs, None, out.problems
    raise NotFound(f"没有文件夹或包 {word}", f"there is neither a folder nor a pack {word}", field="pack", value=word)


def _document(problem: Problem) -> dict[str, Any]:
    from tulou.kernel.packs.register import problem_document

    return problem_document(problem)


def _print(obj: Any, problems: list[Problem], folder: Path) -> None:
    if not obj.json:
        for problem in problems:
            click.echo(problem.text(obj.language, str(folder).rstrip("/")), err=True)


def _restart(obj: Any) -> None:
    if obj.running() is not None:
        click.echo(obj.text("运行中的土楼在下次启动时生效", "the running house takes this at its next start: restart it"))
