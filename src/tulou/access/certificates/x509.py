"""Certificates as bytes: reading, checking and making them.

Law: no I/O and no clock of its own; what is wrong with a certificate is an `Invalid` that names the field. Keys are EC
(P-256, P-384, P-521), RSA of 2,048 bits and more, Ed25519 or Ed448.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tulou.kernel.errors import Invalid

CURVES = ("secp256r1", "secp384r1", "secp521r1")
LEAST_RSA = 2048
AUTHORITY_DAYS = 20 * 365
BACKDATED = dt.timedelta(minutes=5)
"""Devices' clocks may be this late."""
_BROKEN = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion)


@dataclass(frozen=True, slots=True)
class Certificate:
    """What is kept of a certificate. `names` are its CN, else the DNS names and URIs of its SAN."""

    der: bytes
    fingerprint: str
    subject: str
    issuer: bytes
    serial: str
    names: tuple[str, ...]
    not_before: dt.datetime
    not_after: dt.datetime
    authority: bool

    @property
    def pem(self) -> str:
        return pem(self.der)

    def valid(self, now: dt.datetime) -> bool:
        return self.not_before <= now <= self.not_after


def invalid(field: str, zh: str, en: str, rule: str) -> Invalid:
    """The error for what is wrong with a certificate, key or request in `field`."""
    return Invalid(zh, en, field=field, rule=rule)


def pem(der: bytes) -> str:
    """The certificate as text."""
    return x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM).decode()


def fingerprint(der: bytes) -> str:
    """The hex SHA-256 of a certificate."""
    return hashlib.sha256(der).hexdigest()


def from_pem(text: str, field: str = "certificate") -> Certificate:
    """The one certificate of a text. Raises `Invalid`."""
    try:
        found = x509.load_pem_x509_certificates(text.encode())
        if len(found) != 1:
            raise invalid(field, "应恰有一个证书", f"one certificate is wanted, not {len(found)}", "one certificate")
        return _read(found[0], field)
    except Invalid:
        raise
    except _BROKEN as error:
        raise invalid(field, f"不是 PEM 证书：{error}", f"not a PEM certificate: {error}", "PEM certificate") from None


def from_der(der: bytes) -> Certificate:
    """A certificate that a client showed. Raises `Invalid`."""
    try:
        return _read(x509.load_der_x509_certificate(der), "certificate")
    except _BROKEN as error:
        raise invalid("certificate", f"不是证书：{error}", f"not a certificate: {error}", "X.509") from None


def _read(found: x509.Certificate, field: str) -> Certificate:
    _strong(found.public_key(), field)
    der = found.public_bytes(serialization.Encoding.DER)
    common = [str(one.value) for one in found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if not common:
        try:
            san = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            common = [*san.get_values_for_type(x509.DNSName), *san.get_values_for_type(x509.UniformResourceIdentifier)]
        except x509.ExtensionNotFound:
            pass
    return Certificate(
        der, fingerprint(der), found.subject.rfc4514_string(), found.issuer.public_bytes(), f"{found.serial_number:x}",
        tuple(common), found.not_valid_before_utc, found.not_valid_after_utc, _signs_certificates(found),
    )


def _signs_certificates(found: x509.Certificate) -> bool:
    try:
        if not found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
            return False
    except x509.ExtensionNotFound:
        return False
    try:
        return found.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound:
        return True


def _strong(key: Any, field: str) -> None:
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= LEAST_RSA:
        return
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in CURVES:
        return
    if isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        return
    raise invalid(field, "密钥应为 P-256/384/521、2048 位以上 RSA 或 Ed25519/Ed448",
                  "the key must be P-256/384/521, RSA of 2048 bits or more, or Ed25519/Ed448", "strong key")


def subject_of(der: bytes) -> bytes:
    """The subject of a certificate as its issuer field names it in others."""
    return x509.load_der_x509_certificate(der).subject.public_bytes()


def issued_by(der: bytes, authority: bytes) -> bool:
    """Whether the authority signed the certificate itself, and is named in it."""
    try:
        x509.load_der_x509_certificate(der).verify_directly_issued_by(x509.load_der_x509_certificate(authority))
    except (*_BROKEN, InvalidSignature):
        return False
    return True


def request_key(text: str, field: str = "csr") -> Any:
    """The public key of a certificate request, which is signed with it. Raises `Invalid`."""
    try:
        found = x509.load_pem_x509_csr(text.encode())
        genuine = found.is_signature_valid
        key = found.public_key()
    except (*_BROKEN, InvalidSignature) as error:
        raise invalid(field, f"不是 PEM 证书请求：{error}", f"not a PEM certificate request: {error}", "PKCS #10") from None
    if not genuine:
        raise invalid(field, "证书请求的签名不符", "the request is not signed with its key", "signed with its own key")
    _strong(key, field)
    return key


def new_key() -> ec.EllipticCurvePrivateKey:
    """A new key (P-256)."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: Any) -> str:
    """A private key as text (PKCS #8, not encrypted)."""
    text: bytes = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return text.decode()


def new_authority(name: str, now: dt.datetime) -> tuple[str, bytes]:
    """A new authority of the house: its key as PEM, and its certificate as DER."""
    key = new_key()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - BACKDATED)
        .not_valid_after(now + dt.timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(True, 0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return key_pem(key), made.public_bytes(serialization.Encoding.DER)


def issue(public_key: Any, device_id: str, authority: bytes, authority_key: str, days: int, now: dt.datetime) -> Certificate:
    """A client certificate that the authority issues to the device: the CN is its key within the organisation (cut to 64
    characters), the SAN a URI with its whole id. It does not outlive the authority."""
    issuer = x509.load_der_x509_certificate(authority)
    key: Any = serialization.load_pem_private_key(authority_key.encode(), None)
    name = device_id.split(":", 1)[-1][:64]
    made = (
        x509.CertificateBuilder().subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer.subject).public_key(public_key).serial_number(x509.random_serial_number())
        .not_valid_before(max(now - BACKDATED, issuer.not_valid_before_utc))
        .not_valid_after(min(now + dt.timedelta(days=days), issuer.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(False, None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"urn:tulou:device:{device_id}")]),
                       critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _read(made, "certificate")


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs, key_cert_sign=signs, crl_sign=signs, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )
