"""What an object store's refusal means, read from the only thing obstore gives: the text of an exception.

Owns the reading of that text and the table from error codes to outcomes, as pure functions. The text holds
URLs (an Azure URL may carry a signature) and whatever the store wrote; only a status, a code of letters and
the masked first line of the store's message leave this module.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Final

from relay.destinations.base import Delivered, Misconfigured, Outcome, Throttled, TooLarge, Transient
from relay.destinations.classify import Reply, respond
from relay.model import Response


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer of the store that is no success."""

    status: int
    code: str = ""  # its name for the fault, e.g. `SlowDown`; empty where it gave none
    message: str = ""  # the first line of its explanation, masked
    may_not_overwrite: bool = False  # what it denies is to replace an object that is there

    @property
    def is_there(self) -> bool:
        """Whether the object was there before, with the same content: its name follows from that."""
        return self.status == 412 or self.may_not_overwrite or self.code in _THERE

    @property
    def knows_no_conditions(self) -> bool:
        """Whether it does not implement what was asked for, which can only be the condition."""
        return self.status == 501 or self.code == "NotImplemented"


# obstore's words: first for people, with the body of the answer, then as a debugging aid ("Debug source").
# The first match is always obstore's own, since what the store wrote comes behind it.
_REQUEST = re.compile(r"Error performing [A-Z]+ (\S+) in ")
_STATUS = re.compile(r"Server returned non-2xx status code: (\d{3})")
_CODE = re.compile(r"<Code>([A-Za-z0-9.]{1,64})</Code>")
_MESSAGE = re.compile(r"<Message>([^<\n]{1,500})")
_LONG = re.compile(r"[A-Za-z0-9+/=_%.~:-]{20,}")  # may be an access key, a signature, a token
_CERTIFICATE = re.compile(r"InvalidCertificate\(\s*([A-Za-z]+)")
_ALERT = re.compile(r"AlertReceived\(\s*([A-Za-z]+)")
_SYSTEM = re.compile(r"Os \{\s*code: (\d+)")

_CERTIFICATE_WORDS: Final = {
    "Expired": "it has expired",
    "NotValidYet": "it is not valid yet",
    "NotValidForName": "it is for another name",
    "UnknownIssuer": "nobody we trust has issued it",
    "Revoked": "it is revoked",
}
# rustls' names for what a server says when it wants a client certificate.
_ALERTS_ABOUT_US: Final = frozenset(
    {"AccessDenied", "BadCertificate", "CertificateRequired", "CertificateUnknown", "UnknownCA"}
)
# An answer that no object store gives: it took the request, but for something else.
_NO_STORE: Final = ("MissingEtag", "Metadata {", "InvalidListResponse", "InvalidPutResponse")
_NO_CREDENTIALS: Final = ("Credential {", "DecodeCredentials", "ReadPem", "InvalidAccessKey", "MissingSas")

# Azure's, with 409; the last one with 403, for a signature that only allows to create.
_THERE: Final = frozenset({"BlobAlreadyExists", "BlobImmutableDueToPolicy", "UnauthorizedBlobOverwrite"})
# Google's, with 403: the permission that only replacing an object takes.
_REPLACING: Final = "storage.objects.delete access"
_SLOWER: Final = frozenset(
    {"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests", "ServerBusy"}
)
_TOO_LARGE: Final = frozenset({"EntityTooLarge", "MaxMessageLengthExceeded", "RequestBodyTooLarge"})
# Trouble that passes, behind a status that otherwise blames the request for good.
_PASSING: Final = {
    "ConditionalRequestConflict": "another upload of the same object is under way",
    "OperationAborted": "another operation is under way",
    "RequestTimeout": "it did not get the whole request in time",
    "RequestTimeTooSkewed": "its clock and this machine's differ too much; is the time here right?",
    "RequestExpired": "its clock and this machine's differ too much; is the time here right?",
    "BadDigest": "the request was damaged on its way",
    "IncompleteBody": "the request was damaged on its way",
    "Md5Mismatch": "the request was damaged on its way",
    "XAmzContentChecksumMismatch": "the request was damaged on its way",
    "XAmzContentSHA256Mismatch": "the request was damaged on its way",
    "ContainerBeingDeleted": "the container is being deleted",
}
_CREDENTIALS: Final = "it refuses our credentials"
_PERMISSION: Final = "it knows our credentials, but they may not do this"
_MISSING: Final = "there is no such bucket or container"
_REGION: Final = "the bucket is in another region, or at another address"
_BLAME: Final = {
    "AccessDenied": _PERMISSION,
    "AuthorizationPermissionMismatch": _PERMISSION,
    "InsufficientAccountPermissions": _PERMISSION,
    "NoSuchBucket": _MISSING,
    "ContainerNotFound": _MISSING,
    "AuthorizationHeaderMalformed": _REGION,
    "IllegalLocationConstraintException": _REGION,
    "PermanentRedirect": _REGION,
    "TemporaryRedirect": _REGION,
    "ExpiredToken": "our temporary credentials have expired",
    "TokenRefreshRequired": "our temporary credentials have expired",
    "InvalidAccessKeyId": "it does not know our access key",
    "SignatureDoesNotMatch": "the secret does not belong to the access key",
}


def read(text: str, *, about: str, timeout: float) -> Refusal | Transient | Misconfigured:
    """The border: what obstore's *text* tells about a request, in our own words.

    *about* stands in the address of the request itself; a failure at any other address was met on the way
    to the credentials. *timeout* in seconds, for the sentence about it.
    """
    request = _REQUEST.search(text)
    found = _told(text) or _untold(text, timeout)
    # obstore itself hides the address where it holds a signature, which is then ours.
    if request is None or about in request[1] or request[1] == "REDACTED":
        return found
    why = respond(Reply(found.status)).detail if isinstance(found, Refusal) else found.response.detail
    response = Response(f"the credentials could not be fetched: {why}")
    passing = isinstance(found, Transient) or (
        isinstance(found, Refusal) and (found.status >= 500 or found.status in {408, 429})
    )
    return Transient(response) if passing else Misconfigured(response)


def judge(refusal: Refusal) -> Outcome:
    """The outcome for a chunk whose object was refused like this.

    Every 4xx that is not told apart blames the request and never the events: a store does not look at what is
    in an object.
    """
    status, code = refusal.status, refusal.code
    if refusal.is_there:
        return Delivered(_respond(refusal, "the same object is there already"))
    if status == 429 or code in _SLOWER:
        return Throttled(_respond(refusal, "it asks for fewer requests"))
    if status == 413 or code in _TOO_LARGE:
        return TooLarge(_respond(refusal))
    if status == 409 or code in _PASSING:
        said = _respond(refusal, _PASSING.get(code, "something else happens there at the same time"))
        # Without the status, which `retry.on` would read as a refusal for good: what is meant is in the code.
        return Transient(Response(said.detail, None, said.excerpt))
    if status in {408, 425} or (status >= 500 and status != 501):
        return Transient(_respond(refusal))
    return Misconfigured(_respond(refusal, _BLAME.get(code) or _blame(status)))


def permission_only(refusal: Refusal) -> bool:
    """Whether the credentials are good and merely do not allow what was asked."""
    return refusal.status == 403 and _BLAME.get(refusal.code) == _PERMISSION


def _blame(status: int) -> str:
    if status < 400:
        return _REGION
    if status in {401, 403}:
        return _CREDENTIALS
    if status == 404:
        return _MISSING
    return "it refuses the request as such, whatever the events"


def _respond(refusal: Refusal, remark: str | None = None) -> Response:
    words = ": ".join(filter(None, (refusal.code, refusal.message)))
    return respond(Reply(refusal.status, body=words.encode()), remark)


def _told(text: str) -> Refusal | None:
    """What the store answered, if it did."""
    status = _STATUS.search(text)
    if status is None:
        return None
    said = text[status.end() :]
    code, message = _CODE.search(said), _MESSAGE.search(said)
    return Refusal(
        int(status[1]),
        code[1] if code else "",
        _LONG.sub("…", message[1]).strip() if message else "",
        may_not_overwrite=status[1] == "403" and _REPLACING in said,
    )


def _untold(text: str, timeout: float) -> Transient | Misconfigured:
    """Why there was no answer, or none that can be read."""
    certificate = _CERTIFICATE.search(text)
    if certificate is not None:
        name = certificate[1].removesuffix("Context")
        words = _CERTIFICATE_WORDS.get(name, f"rustls calls it {name}")
        return Misconfigured(Response(f"its certificate is not trusted: {words}"))
    alert = _ALERT.search(text)
    if alert is not None and alert[1] in _ALERTS_ABOUT_US:
        return Misconfigured(Response(f"it asks for a client certificate ({alert[1]}), which we cannot show"))
    if "BareRedirect" in text:
        return Misconfigured(Response(f"answered a redirect that leads nowhere: {_REGION}"))
    if "BadScheme" in text:
        return Misconfigured(Response("its address is plain http, which only the key `endpoint` may ask for"))
    if any(words in text for words in _NO_STORE):
        return Misconfigured(Response("answered, but not as an object store does: is the address right?"))
    if any(words in text for words in _NO_CREDENTIALS):
        return Misconfigured(Response("the credentials cannot be used: they are not of the right form"))
    return Transient(Response(_broken(text, timeout)))


def _broken(text: str, timeout: float) -> str:
    if "kind: Timeout" in text:
        return no_answer_within(timeout)
    if "dns error" in text:
        return "its name cannot be resolved"
    system = _SYSTEM.search(text)
    if "kind: Connect" in text:
        return f"cannot connect: {os.strerror(int(system[1]))}" if system else "the TLS handshake failed"
    if system is not None:
        return f"the connection broke: {os.strerror(int(system[1]))}"
    if "Parse(" in text:
        return "the answer is not HTTP"
    return "the connection broke before an answer came"


def no_answer_within(timeout: float) -> str:
    """The sentence about a time-out of *timeout* seconds."""
    return f"no complete answer within {timeout:g} s"
