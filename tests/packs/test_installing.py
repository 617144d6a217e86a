"""Packs are installed whole or not at all; what was tampered with, or reaches beyond its folder, is refused."""

from __future__ import annotations

import base64
import os
import shutil
import stat
import subprocess
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.packs.conftest import HOUSE, Make
from tulou.kernel.errors import Conflict, Invalid
from tulou.kernel.packs import Packs, Unreadable, signing
from tulou.kernel.packs.installing import Effect, Installed, folder_of, install, installed, remove, take_installed
from tulou.kernel.settings import Settings


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def put(home: Path, source: Path, *, force: bool = False, stored: Mapping[str, int] | None = None, **settings: Any) -> tuple[Installed, list[Effect]]:
    return install(Settings(home=home, **settings), source, HOUSE, lambda _name: stored or {}, force=force)


def started(home: Path) -> Packs:
    packs = HOUSE.copy()
    take_installed(packs, home)
    return packs


def changed(folder: Path, **keys: Any) -> Path:
    """The pack with these keys instead."""
    file = folder / "pack.yaml"
    said = yaml.safe_load(file.read_text("utf-8")) | keys
    file.write_text(yaml.safe_dump(said, allow_unicode=True, sort_keys=False), "utf-8")
    return folder


def packed(folder: Path, target: Path, within: str = "") -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, f"{within}{path.relative_to(folder)}")
    return target


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return new_key(tmp_path / "key.pem")


def new_key(path: Path) -> Path:
    path.write_bytes(Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return path


# --- in and out


def test_a_pack_comes_goes_up_and_goes(home: Path, make: Make) -> None:
    folder = make("field")
    made, effects = put(home, folder)
    assert (made.name, made.version, made.signer, effects) == ("field", "0.1", "", [])
    assert put(home, folder) == (made, [])
    packs = started(home)
    assert (packs.packs["field"].folder, packs.left_out) == (home / "packs/field/0.1", [])
    put(home, changed(folder, version="0.10"))
    assert [one.version for one in installed(home)] == ["0.10"]
    assert [path.name for path in (home / "packs/field").iterdir()] == ["0.10"]
    with pytest.raises(Conflict, match=r"0\.10, which is newer"):
        put(home, changed(folder, version="0.9"))
    put(home, folder, force=True)
    assert list(started(home).packs["field"].models) == ["FieldDevice"]
    gone, types, left = remove(Settings(home=home), "field", HOUSE, lambda name: {"FieldDevice": len(name)})
    assert (gone.version, types, left) == ("0.9", ["FieldDevice"], {"FieldDevice": 5})
    assert (installed(home), list((home / "packs").glob("[!.]*"))) == ([], [home / "packs/installed.json"])
    assert started(home).packs.keys() == HOUSE.packs.keys()


def test_what_is_not_installed_is_not_removed(home: Path) -> None:
    for name, said in (("base", "comes with the house"), ("none", "is not installed")):
        with pytest.raises(Invalid, match=said):
            remove(Settings(home=home), name, HOUSE, lambda _name: {})


def test_a_broken_pack_is_not_installed_and_leaves_nothing(home: Path, make: Make) -> None:
    with pytest.raises(Unreadable) as caught:
        put(home, make("field", models={"A": {}}, bogus=1))
    assert {one.place for one in caught.value.problems} >= {"models.A.label", "bogus"}
    with pytest.raises(Unreadable) as caught:
        put(home, make("base", models=None, examples=None))
    assert [one.place for one in caught.value.problems] == ["name"]
    assert list((home / "packs").iterdir()) == [home / "packs/.lock"]


def test_others_that_need_it_are_not_broken(home: Path, make: Make) -> None:
    field, other = make("field"), make("other", models=None, examples=None, requires={"field": "<0.2"})
    with pytest.raises(Unreadable):
        put(home, other)
    put(home, field)
    put(home, other)
    with pytest.raises(Conflict, match="other would be left out"):
        put(home, changed(field, version="0.2"))
    with pytest.raises(Conflict, match="other packs require field: other"):
        remove(Settings(home=home), "field", HOUSE, lambda _name: {})
    remove(Settings(home=home), "field", HOUSE, lambda _name: {}, force=True)
    assert [(one.name, one.problems[0].place) for one in started(home).left_out] == [("other", "requires.field")]


@pytest.mark.parametrize(("change", "orphans"), [
    (lambda m: m["FieldDevice"]["properties"]["temperature"].update(kind="string", alarm=None, min=None, max=None), True),
    (lambda m: m["FieldDevice"]["properties"]["temperature"].update(unit="FAH"), True),
    (lambda m: m["FieldDevice"]["properties"].pop("temperature"), True),
    (lambda m: m.pop("FieldDevice"), True),
    (lambda m: m["FieldDevice"].update(retention_days=30), True),
    (lambda m: m["FieldDevice"].update(retention_days=3000), False),
    (lambda m: m["FieldDevice"]["properties"].update(depth={"label": {"zh": "深度", "en": "Depth"}}), False),
])
def test_an_upgrade_says_what_it_does_to_what_is_stored(home: Path, make: Make, change: Callable[[Any], object], orphans: bool) -> None:
    folder = make("field", examples=[])
    put(home, folder)
    models = yaml.safe_load((folder / "pack.yaml").read_text("utf-8"))["models"]
    change(models)
    changed(folder, version="0.2", models=models)
    if orphans:
        with pytest.raises(Conflict) as caught:
            put(home, folder, stored={"FieldDevice": 1})
        assert "FieldDevice" in caught.value.en
    else:
        put(home, folder, stored={"FieldDevice": 1})
        return
    assert [one.version for one in installed(home)] == ["0.1"]
    _, effects = put(home, folder, force=True, stored={"FieldDevice": 1})
    assert [effect.orphans for effect in effects] == [True]


def test_the_same_version_has_the_same_files(home: Path, make: Make) -> None:
    folder = make("field")
    put(home, folder)
    (folder / "README.md").write_text("changed", "utf-8")
    with pytest.raises(Conflict, match="higher version"):
        put(home, folder)


def test_what_was_changed_after_it_was_installed_is_left_out(home: Path, make: Make) -> None:
    folder = make("field")
    made, _ = put(home, folder)
    (folder_of(home, made) / "README.md").write_text("changed", "utf-8")
    (out,) = started(home).left_out
    assert (out.name, out.problems[0].rule) == ("field", "digest")
    put(home, folder)
    assert started(home).left_out == []
    (home / "packs/installed.json").write_text("{", "utf-8")
    (out,) = started(home).left_out
    assert out.problems[0].file == "installed.json"


def crashes(home: Path, source: Path, number: int) -> bool:
    """Whether a process that installs the pack, and ends before its rename, sync or opening of a folder of this number, did end so."""
    child = os.fork()
    if child == 0:
        left = [number]

        def counted(call: Callable[..., Any]) -> Callable[..., Any]:
            def counting(*args: Any, **more: Any) -> Any:
                left[0] -= 1
                if left[0] < 0:
                    os._exit(9)
                return call(*args, **more)

            return counting

        try:
            Path.rename, os.fsync, os.open = counted(Path.rename), counted(os.fsync), counted(os.open)  # type: ignore[method-assign]
            put(home, source)
        except BaseException:
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9)
    return code == 9


def test_a_crash_leaves_the_old_or_the_new(home: Path, make: Make, tmp_path: Path) -> None:
    folder = make("field")
    put(home, folder)
    changed(folder, version="0.2")
    seen = []
    for number in range(100):
        copy = tmp_path / f"home{number}"
        shutil.copytree(home, copy)
        crashed = crashes(copy, folder, number)
        packs = started(copy)
        assert packs.left_out == []
        seen.append(packs.packs["field"].version)
        put(copy, folder)
        assert started(copy).packs["field"].version == "0.2"
        if not crashed:
            break
    assert len(seen) > 5
    assert (seen[0], seen[-1]) == ("0.1", "0.2")


# --- archives


def test_a_zip_and_a_wheel(home: Path, make: Make, tmp_path: Path) -> None:
    folder = make("field")
    put(home, packed(folder, tmp_path / "field.zip"))
    wheel = packed(folder, tmp_path / "field-0.1-py3-none-any.whl", "tulou_field/")
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("tulou_field-0.1.dist-info/METADATA", "Name: tulou-field\n")
        archive.writestr("tulou_field/__pycache__/x.pyc", "")
    assert put(home, wheel)[0] == installed(home)[0]
    assert not list((home / "packs").rglob("*.pyc"))
    assert not list((home / "packs").rglob("METADATA"))


@pytest.mark.parametrize(("name", "rule"), [
    ("../evil", "inside the pack"), ("/etc/evil", "inside the pack"), ("a/../../evil", "inside the pack"), ("a\\..\\evil", "inside the pack"),
    ("C:evil", "inside the pack"), ("./evil", "inside the pack"), ("a\nb", "printable, <= 200"), ("README.MD", "unique name"),
    ("deeper/pack.yaml", ""), ("x" * 201, "printable, <= 200"),
])
def test_names_that_leave_the_folder_are_refused(home: Path, make: Make, tmp_path: Path, name: str, rule: str) -> None:
    archive = packed(make("field"), tmp_path / "field.zip")
    with zipfile.ZipFile(archive, "a") as more:
        info = zipfile.ZipInfo("x")
        info.filename = name
        more.writestr(info, "evil")
    if not rule:  # one more pack below is a file like any other
        put(home, archive)
        return
    with pytest.raises(Invalid) as caught:
        put(home, archive)
    assert caught.value.rule == rule
    assert not list(tmp_path.rglob("evil*"))
    assert installed(home) == []


def test_links_and_what_is_too_large_are_refused(home: Path, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make("field")
    archive = packed(folder, tmp_path / "field.zip")
    with zipfile.ZipFile(archive, "a") as more:
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        more.writestr(link, "/etc/passwd")
    with pytest.raises(Invalid, match="links"):
        put(home, archive)
    (folder / "link").symlink_to("/etc/passwd")
    with pytest.raises(Invalid, match="links"):
        put(home, folder)
    (folder / "link").unlink()
    (folder / "inside").symlink_to(folder / "tests")
    with pytest.raises(Invalid, match="links"):
        put(home, folder)
    (folder / "inside").unlink()
    os.mkfifo(folder / "pipe")
    with pytest.raises(Invalid, match="special"):
        put(home, folder)
    (folder / "pipe").unlink()
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as more:
        more.write(folder / "pack.yaml", "pack.yaml")
        with more.open("zeros", "w") as file:
            for _ in range(40):
                file.write(bytes(1 << 20))
    with pytest.raises(Invalid) as caught:
        put(home, bomb)
    assert caught.value.rule == f"<= {signing.FILE_BYTES}"
    monkeypatch.setattr(signing, "FILES", 3)
    with pytest.raises(Invalid, match="more than 3 files"):
        put(home, folder)
    with pytest.raises(Invalid, match="zip"):
        put(home, folder / "README.md")
    assert installed(home) == []


# --- signatures


def test_a_signature_is_of_every_file(home: Path, make: Make, key: Path, tmp_path: Path) -> None:
    folder = make("field")
    public = signing.sign(folder, key)
    made, _ = put(home, folder, pack_keys=public, pack_unsigned=False)
    assert made.signer == public

    def spoilt(change: Callable[[Path], object]) -> Invalid:
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy)
        change(copy)
        with pytest.raises(Invalid) as caught:
            put(home, copy, force=True)
        return caught.value

    def resigned(copy: Path) -> None:
        (copy / "README.md").write_text("more")
        (copy / signing.MANIFEST).write_bytes(signing.manifest(copy))

    readme, none = "README.md", "new.md"
    assert spoilt(lambda c: (c / readme).write_text("tampered")).field == readme
    assert spoilt(lambda c: (c / none).write_text("added")).field == none
    assert spoilt(lambda c: (c / readme).unlink()).field == readme
    assert spoilt(lambda c: (c / readme).rename(c / none)).field in (readme, none)
    assert spoilt(resigned).field == signing.SIGNATURE
    assert spoilt(lambda c: (c / signing.SIGNATURE).write_bytes(bytes(64))).field == signing.SIGNATURE
    assert spoilt(lambda c: (c / signing.SIGNATURE).unlink()).field == signing.SIGNATURE
    assert spoilt(lambda c: (c / signing.KEY).write_text("no key")).field == signing.KEY
    assert spoilt(lambda c: signing.sign(c, new_key(tmp_path / "other.pem")) and (c / readme).write_text("x")).field == readme


def test_whose_signature_is_taken(home: Path, make: Make, key: Path, tmp_path: Path) -> None:
    folder = make("field")
    with pytest.raises(Invalid, match="not signed"):
        put(home, folder, pack_unsigned=False)
    public = signing.sign(folder, key)
    other = base64.b64encode(bytes(32)).decode()
    for settings in ({"pack_keys": other}, {"pack_unsigned": False}, {"pack_keys": other, "pack_unsigned": False}):
        with pytest.raises(Invalid, match="not in pack_keys"):
            put(home, folder, **settings)
    assert put(home, folder, pack_keys=f"{other}, {public}")[0].signer == public
    with pytest.raises(Invalid, match="Ed25519"):
        signing.sign(folder, folder / "README.md")


@pytest.mark.skipif(shutil.which("openssl") is None or shutil.which("sha256sum") is None, reason="openssl or sha256sum is not installed")
def test_foreign_programs_verify_the_manifest_and_its_signature(make: Make, key: Path) -> None:
    folder = make("field")
    signing.sign(folder, key)
    checked = subprocess.run(["sha256sum", "--strict", "-c", signing.MANIFEST], cwd=folder, capture_output=True, text=True)
    assert (checked.returncode, checked.stdout.count(": OK")) == (0, 4), checked.stderr
    verify = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", signing.KEY, "-rawin", "-in", signing.MANIFEST, "-sigfile", signing.SIGNATURE]
    assert subprocess.run(verify, cwd=folder, capture_output=True).returncode == 0
    (folder / signing.MANIFEST).write_text("")
    assert subprocess.run(verify, cwd=folder, capture_output=True).returncode != 0
