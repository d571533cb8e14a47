"""Who a process is to others: a certificate that an authority of the deployment has signed, and its key."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from marginal_sdg.errors import ConfigError, ProtocolError

AUTHORITY, CERTIFICATE, KEY = "authority.pem", "certificate.pem", "key.pem"
_DAYS = 365
_SIGNED = ec.ECDSA(hashes.SHA256())


def certified(role: str) -> str:
    """The name of a role in its certificate, which has no spaces."""
    return role.replace(" ", "-")


@dataclass(frozen=True)
class Identity:
    """``authority``: the certificate that vouches for all; ``certificate`` and ``key``: this process's own. All PEM."""

    authority: bytes
    certificate: bytes
    key: bytes

    @classmethod
    def load(cls, folder: Path | str) -> Identity:
        """The three files of a folder that :func:`issue` has written; ``ConfigError`` where one is missing or wrong."""
        try:
            identity = cls(*((Path(folder) / name).read_bytes() for name in (AUTHORITY, CERTIFICATE, KEY)))
            _verify(x509.load_pem_x509_certificate(identity.certificate), identity.authority)
            serialization.load_pem_private_key(identity.key, None)
        except OSError as error:
            raise ConfigError(f"identity: {error.filename}: {error.strerror}; make it with `certificates`") from None
        except (ValueError, TypeError, InvalidSignature):
            raise ConfigError(
                f"identity: {folder} holds no certificate of its authority and key; make it anew"
            ) from None
        return identity

    @classmethod
    def given(cls, folder: Path | str | None) -> Identity | None:
        """That of a folder, if one is given."""
        return None if folder is None else cls.load(folder)

    def sign(self, message: bytes) -> bytes:
        """A signature with the certificate in front, for :meth:`check` of others."""
        key = serialization.load_pem_private_key(self.key, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return len(self.certificate).to_bytes(4, "little") + self.certificate + key.sign(message, _SIGNED)

    def check(self, role: str, message: bytes, signature: bytes) -> None:
        """``ProtocolError`` unless a process that the authority knows by this role has signed the message."""
        end = 4 + int.from_bytes(signature[:4], "little")
        try:
            certificate = x509.load_pem_x509_certificate(signature[4:end])
            _verify(certificate, self.authority)
            key = certificate.public_key()
            assert isinstance(key, ec.EllipticCurvePublicKey)
            key.verify(signature[end:], message, _SIGNED)
            names = [name.value for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        except (ValueError, InvalidSignature, AssertionError):
            names = []
        if names != [certified(role)]:
            raise ProtocolError(f"{role}: what came in its name is not signed by it; one of the roles is an impostor")


def issue(folder: Path, names: Iterable[str]) -> None:
    """Write an identity per name into ``folder/name``, all vouched for by one authority that is made where none is.

    Several of one role have names that end in numbers, such as "data-holder-2".

    The authority's key stays in ``folder``: whoever has it can make identities. Certificates are valid for a year.
    """
    folder.mkdir(parents=True, exist_ok=True)
    root = folder / AUTHORITY
    if not root.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        _write_key(folder / KEY, key)
        root.write_bytes(_pem(_certificate("authority", key, "authority", key, authority=True)))
    authority_key = serialization.load_pem_private_key((folder / KEY).read_bytes(), None)
    assert isinstance(authority_key, ec.EllipticCurvePrivateKey)
    for name in names:
        own = folder / name
        own.mkdir(exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        _write_key(own / KEY, key)
        (own / CERTIFICATE).write_bytes(_pem(_certificate(name, key, "authority", authority_key)))
        (own / AUTHORITY).write_bytes(root.read_bytes())


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: str,
    signer: ec.EllipticCurvePrivateKey,
    *,
    authority: bool = False,
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.timezone.utc)
    role = name.rstrip("0123456789").removesuffix("-")  # of several with the same
    subject, by = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in (name, issuer))
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=_DAYS))
        .add_extension(x509.SubjectAlternativeName([*map(x509.DNSName, {name, role})]), critical=False)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .sign(signer, hashes.SHA256())
    )


def _verify(certificate: x509.Certificate, authority: bytes) -> None:
    """``InvalidSignature`` or ``ValueError`` unless the authority has signed it and it is valid today."""
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority))
    now = datetime.datetime.now(datetime.timezone.utc)
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise ValueError("not valid today")


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    path.touch(mode=0o600)
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
