"""What a pack consists of, and who vouches for it.

Law: the manifest `SHA256SUMS` has one line for each file of a pack, in the order of the names, as `sha256sum` writes it; the signature is
Ed25519 (RFC 8032) over the manifest's bytes. The digest of a pack is the SHA-256 of the manifest without the record of proofs, so that
a proof can name what it proves. A file that the manifest does not have, or has otherwise, voids the signature.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from tulou.kernel.errors import Invalid

MANIFEST, SIGNATURE, KEY = "SHA256SUMS", "SHA256SUMS.sig", "SHA256SUMS.pem"
PROOF = "proof.json"
FILES, FILE_BYTES, ALL_BYTES = 2_000, 32 << 20, 128 << 20
"""What a pack may have at most."""


def refused(zh: str, en: str, file: str, rule: str) -> Invalid:
    """The error for a file of a pack that is not taken."""
    return Invalid(f"{file}：{zh}", f"{file}: {en}", field=file, rule=rule)


def counts(name: str) -> bool:
    """Whether a file (a path with `/`) is part of a pack: hidden files, and what Python and pytest leave, are not."""
    parts = name.split("/")
    return not any(part.startswith(".") or part == "__pycache__" for part in parts) and not name.endswith(".pyc")


def must_be_named(name: str) -> None:
    """Raises `Invalid` for a path that does not stay within the pack, or that not every system can have."""
    parts = name.split("/")
    if not name or name.startswith("/") or "\\" in name or ":" in name or any(part in ("", ".", "..") for part in parts):
        raise refused("路径应在包内", "the path must stay inside the pack", name, "inside the pack")
    if len(name) > 200 or not name.isprintable():
        raise refused("路径至多 200 个可见字符", "a path has at most 200 printable characters", name, "printable, <= 200")


def files(folder: Path) -> Iterator[tuple[str, Path]]:
    """The files of the pack in `folder`, by name. Raises `Invalid` for a link, a special file, and beyond the limits."""
    number = size = 0
    found: list[tuple[str, Path]] = []
    for at, folders, names in os.walk(folder):
        inside = Path(at).relative_to(folder).as_posix()
        for name in (*folders, *names):
            path, called = Path(at) / name, name if inside == "." else f"{inside}/{name}"
            if not counts(called):
                continue
            must_be_named(called)
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise refused("不接受链接与特殊文件", "links and special files are not taken", called, "regular file")
            if path.is_file():
                number, size = number + 1, size + path.stat().st_size
                must_fit(called, number, path.stat().st_size, size)
                found.append((called, path))
        folders[:] = [name for name in folders if counts(name)]
    yield from sorted(found)


def must_fit(name: str, number: int, size: int, total: int) -> None:
    """Raises `Invalid` where this file, or all so far, are more than a pack may have."""
    if size > FILE_BYTES:
        raise refused(f"文件超过 {FILE_BYTES} 字节", f"the file has more than {FILE_BYTES} bytes", name, f"<= {FILE_BYTES}")
    if total > ALL_BYTES or number > FILES:
        raise refused(
            f"包超过 {FILES} 个文件或 {ALL_BYTES} 字节", f"the pack has more than {FILES} files or {ALL_BYTES} bytes", name,
            f"<= {FILES} files, <= {ALL_BYTES} bytes",
        )


def manifest(folder: Path, without: tuple[str, ...] = (MANIFEST, SIGNATURE, KEY)) -> bytes:
    """The lines of `SHA256SUMS` for a pack."""
    lines = []
    for name, path in files(folder):
        if name not in without:
            with path.open("rb") as file:
                lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {name}\n")
    return "".join(lines).encode()


def digest(folder: Path) -> str:
    """The hex SHA-256 that names what a pack's files say."""
    return hashlib.sha256(manifest(folder, (MANIFEST, SIGNATURE, KEY, PROOF))).hexdigest()


def sign(folder: Path, key: Path) -> str:
    """Sign a pack with an Ed25519 private key (PEM, PKCS 8). Returns the public key as the setting `pack_keys` takes it. Raises
    `Invalid`."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

    try:
        private = load_pem_private_key(key.read_bytes(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise refused(f"不是 Ed25519 私钥：{error}", f"not an Ed25519 private key: {error}", str(key), "Ed25519, PEM") from None
    if not isinstance(private, Ed25519PrivateKey):
        raise refused("不是 Ed25519 私钥", "not an Ed25519 private key", str(key), "Ed25519, PEM")
    lines = manifest(folder)
    (folder / MANIFEST).write_bytes(lines)
    (folder / SIGNATURE).write_bytes(private.sign(lines))
    public = private.public_key()
    (folder / KEY).write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return base64.b64encode(public.public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()


def signer(folder: Path) -> str | None:
    """The public key that the pack's signature verifies with, base64; None for a pack without a signature. Raises `Invalid` where the
    signature, or any file, does not hold."""
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

    there = [name for name in (MANIFEST, SIGNATURE, KEY) if (folder / name).is_file()]
    if not there:
        return None
    for name in (MANIFEST, SIGNATURE, KEY):
        if name not in there:
            raise refused("签名不全，缺少此文件", "the signature is not whole: this file is missing", name, "signed")
    said = (folder / MANIFEST).read_bytes()
    try:
        public = load_pem_public_key((folder / KEY).read_bytes())
        if not isinstance(public, Ed25519PublicKey):
            raise refused("不是 Ed25519 公钥", "not an Ed25519 public key", KEY, "Ed25519")
        public.verify((folder / SIGNATURE).read_bytes(), said)
    except InvalidSignature:
        raise refused("签名与清单不符", "the signature is not of this manifest", SIGNATURE, "signed") from None
    except (ValueError, UnsupportedAlgorithm) as error:
        raise refused(f"不是公钥：{error}", f"not a public key: {error}", KEY, "Ed25519") from None
    real = manifest(folder)
    if said != real:
        here, there_ = (set(lines.decode("utf-8", "replace").splitlines()) for lines in (real, said))
        changed = sorted({line[66:] for line in here ^ there_}) or [MANIFEST]
        raise refused("与签名的清单不符（改动、增加或缺少）", "is not as it was signed (changed, added or missing)", changed[0], "signed")
    return base64.b64encode(public.public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()
