"""The address of a cluster's dashboard: which are allowed, and whose certificate is trusted."""

from __future__ import annotations

import ipaddress
import logging
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from cola.errors import ClusterError, SpecError, one_line
from orchestration.cluster.token_file import has_token

log = logging.getLogger(__name__)

ANSWER_SECONDS = 10.0  # for the dashboard to answer; a chosen value


@dataclass(frozen=True)
class Endpoint:
    """Ray's dashboard.

    `ca_file` holds the authority that signed its certificate (None: those that the system or
    REQUESTS_CA_BUNDLE trusts). `allow_http` permits sending the token to another machine without
    TLS.
    """

    address: str
    ca_file: Path | None = None
    allow_http: bool = False

    @property
    def verify(self) -> str | bool:
        """The `verify` argument of `requests`; never False, so certificates are always checked."""
        return True if self.ca_file is None else str(self.ca_file)


def check_endpoint(endpoint: Endpoint) -> None:
    """Allow loopback, and other machines with a token that does not leave in clear text.

    Raises:
        SpecError: a malformed address, a remote one without a token or without TLS, or a missing CA
            file.
    """
    address, parts = endpoint.address, urlsplit(endpoint.address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SpecError(f"--address {address}: write it as http(s)://HOST:PORT (Ray's dashboard)")
    if parts.username or parts.password:
        raise SpecError("--address: takes no user or password; the token is in RAY_AUTH_TOKEN_PATH")
    if endpoint.ca_file is not None and not endpoint.ca_file.exists():
        raise SpecError(f"--ca-file {endpoint.ca_file}: no such file; give a file of certificates")
    if is_loopback(parts.hostname):
        return
    if not has_token():
        raise SpecError(
            f"--address {address}: a remote cluster needs a token; set "
            "RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, or make one with `ray get-auth-token "
            "--generate`"
        )
    if parts.scheme == "http" and not endpoint.allow_http:
        raise SpecError(
            f"--address {address}: would send the token in clear text; use https://, or a tunnel "
            f"(ssh -L 8265:127.0.0.1:8265 {parts.hostname}, then --address "
            "http://127.0.0.1:8265), or --allow-http in a network that you trust"
        )


def check_answers(endpoint: Endpoint) -> None:
    """Send one request without the token.

    Raises:
        ClusterError: no answer within 10 s, or the certificate is not trusted.
    """
    import requests

    log.debug("asking %s whether it answers", endpoint.address)
    try:
        requests.get(
            f"{endpoint.address.rstrip('/')}/api/version",
            timeout=ANSWER_SECONDS,
            verify=endpoint.verify,
            allow_redirects=False,
        )
    except requests.exceptions.SSLError as error:
        reason = one_line(error)
        if "CERTIFICATE_VERIFY_FAILED" in reason:
            raise ClusterError(
                f"--address {endpoint.address}: its certificate is not trusted ("
                f"{reason.partition('CERTIFICATE_VERIFY_FAILED] ')[2].strip(chr(39) + ')')}); give "
                "the certificate of its authority with --ca-file or REQUESTS_CA_BUNDLE"
            ) from None
        raise ClusterError(
            f"--address {endpoint.address}: no TLS connection ({reason}); does it listen for http://?"
        ) from None
    except OSError as error:  # the base class of everything that requests raises
        raise ClusterError(
            f"--address {endpoint.address}: does not answer ({one_line(error)}); check that the "
            "cluster runs and that this machine reaches its dashboard"
        ) from None


def is_loopback(host: str) -> bool:
    """Whether a host is localhost, in 127.0.0.0/8, or ::1."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
