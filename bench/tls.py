"""The exchange over TLS: its certificate, and what the contenders trust. Made anew for each run."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import trustme
from requests.utils import DEFAULT_CA_BUNDLE_PATH

PLAIN, TLS = TRANSPORTS = ("plain", "tls")


class Certificate(NamedTuple):
    """Files in PEM: the chain and the key of the exchange, and the CAs that its clients trust."""

    chain: Path
    key: Path
    bundle: Path

    @property
    def trusted(self) -> dict[str, str]:
        """The environment that makes OpenSSL, and so asyncio, and requests trust the bundle."""
        return dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"), str(self.bundle))


def issue(folder: Path) -> Certificate:
    """A certificate for the loopback address.

    Its CA is one more in a bundle of all the usual ones: to load these is part of what TLS costs.
    """
    files = Certificate(*(folder / f"{name}.pem" for name in Certificate._fields))
    authority = trustme.CA()
    leaf = authority.issue_cert("127.0.0.1")
    files.chain.write_bytes(b"".join(part.bytes() for part in leaf.cert_chain_pems))
    leaf.private_key_pem.write_to_path(files.key)
    files.bundle.write_bytes(Path(DEFAULT_CA_BUNDLE_PATH).read_bytes())
    authority.cert_pem.write_to_path(files.bundle, append=True)
    return files
