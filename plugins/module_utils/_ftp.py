# SPDX-License-Identifier: GPL-3.0-or-later
"""FTP as a client speaks it: control connection, TLS where it is offered, and with an account a passive listing."""

from __future__ import annotations

import ftplib
import re
import socket
import ssl
from dataclasses import replace

from ._certificate import parse
from ._talk import Answer, Target, Unreached, words

# What FEAT lists and what may differ: EPSV is IPv6's, PASV is IPv4's (RFC 2428).
OF_A_FAMILY = {"EPRT", "EPSV", "PASV", "PORT", "SPSV"}


class _Client(ftplib.FTP_TLS):
    """A client that takes any certificate, and the data connection at the address of the control connection."""

    trust_server_pasv_ipv4_address = False  # Python before 3.9.3 knows no better

    def __init__(self, timeout: float) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        super().__init__(context=context, timeout=timeout)
        self.passive = 0

    @property
    def connection(self) -> socket.socket:
        """The control connection."""
        if self.sock is None:
            raise OSError("not connected")
        return self.sock

    def makepasv(self) -> tuple[str, int]:
        host, self.passive = super().makepasv()
        return host, self.passive


def talk(target: Target, address: str, timeout: float) -> Answer:
    """Ask the FTP server at ADDRESS. Without an account nobody tries to log in: that would look like an attack."""
    client = _Client(timeout)
    try:
        try:
            banner = client.connect(address, target.port)
        except ConnectionRefusedError:
            raise
        except OSError as error:
            raise Unreached(*(error.args if error.errno else [words(error, timeout)])) from error
        answer = Answer(address, True, banner=banner.splitlines()[0], source=client.connection.getsockname()[0])
        answer = _secured(client, answer)
        answer = _listed(client, target, answer) if target.account[0] else answer
        client.quit()
        return answer
    except EOFError:
        raise OSError("the connection was closed in the middle of the conversation") from None
    except ftplib.Error as error:
        raise OSError(f"FTP: {error}") from None
    finally:
        client.close()


def _secured(client: _Client, answer: Answer) -> Answer:
    """Return ANSWER with what the server can (RFC 2389) and, where it offers TLS (RFC 4217), its certificate."""
    try:
        lines = client.sendcmd("FEAT").splitlines()[1:-1]
    except ftplib.error_perm:
        return answer
    offered = sorted({line.strip().upper() for line in lines} - OF_A_FAMILY)
    signature = (*answer.signature, ("features", ", ".join(offered)))
    if not any(re.match(r"AUTH\b.*\bTLS\b", line) for line in offered):
        return replace(answer, signature=signature)
    try:
        client.auth()
    except ftplib.Error as error:  # Pure-FTPd lists it even where it has no certificate
        return replace(answer, signature=(*signature, ("reply to AUTH", str(error)[:3])))
    secured = client.connection
    certificate = parse(secured.getpeercert(binary_form=True) or b"") if isinstance(secured, ssl.SSLSocket) else None
    return replace(answer, certificate=certificate, signature=(*signature, ("certificate", str(certificate))))


def _listed(client: _Client, target: Target, answer: Answer) -> Answer:
    """Log in, and list the account's directory over a passive data connection: EPSV over IPv6 (RFC 2428)."""
    client.login(*target.account, secure=False)
    if isinstance(client.sock, ssl.SSLSocket):
        client.prot_p()
    lines: list[str] = []
    try:
        client.retrlines("LIST", lines.append)
    except ftplib.Error:
        raise
    except OSError as error:
        raise OSError(
            f"the passive data connection to port {client.passive}: {words(error, float(client.timeout or 0))}"
        ) from None
    return replace(answer, signature=(*answer.signature, ("listing", "complete")))
