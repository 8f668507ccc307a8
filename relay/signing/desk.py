"""Checking the events of one source: the keys, the rule that verified last, and how often each result came.

Owns what a result means under the source's mode. Never counts an event: that is done for all sources in
`relay.signing.checker`, which knows what was seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from relay.batch import Checked, StoredBatch
from relay.config.signatures import Signatures
from relay.konnect.jwks import Key
from relay.konnect.signatures import SignatureResult, verify
from relay.konnect.signed_bytes import Rule, Signed, signed_as
from relay.model import Reason, Unfit
from relay.signing.keeper import KeyKeeper

_QUARANTINED: Final[Mapping[SignatureResult, Unfit]] = {
    SignatureResult.FAILED: Unfit(Reason.SIGNATURE, "no known key signed this line"),
    SignatureResult.MALFORMED: Unfit(Reason.SIGNATURE, "what stands in place of its signature is none"),
    # Else whoever changes an event only has to take its signature away.
    SignatureResult.ABSENT: Unfit(Reason.SIGNATURE, "it carries no signature"),
}


@dataclass(frozen=True, slots=True)
class SourceSignatures:
    """What this process has found of a source since it started."""

    mode: Literal["tag", "quarantine"]
    results: Mapping[SignatureResult, int]  # events
    rules: Mapping[Signed, Rule]  # by which the last one verified
    keys: int  # in force
    retired_keys: int
    keys_read_at: float | None  # seconds since the epoch; None: pinned, or never
    trouble: str | None  # why they could not be read the last time


class Desk:
    """One source that is checked."""

    def __init__(self, mode: Literal["tag", "quarantine"], config: Signatures, keeper: KeyKeeper) -> None:
        self.mode: Literal["tag", "quarantine"] = mode
        self.config = config
        self.keeper = keeper
        self.counts: Counter[SignatureResult] = Counter()
        self._rules: dict[Signed, Rule] = {}

    @property
    def status(self) -> SourceSignatures:
        ring = self.keeper.ring
        return SourceSignatures(
            mode=self.mode,
            results={result: self.counts[result] for result in SignatureResult},
            rules=dict(self._rules),
            keys=len(ring.current),
            retired_keys=len(ring.retired),
            keys_read_at=self.keeper.read_at,
            trouble=self.keeper.trouble,
        )

    def verify(self, lines: Sequence[bytes], keys: Sequence[Key]) -> list[SignatureResult]:
        """The result of each line. May be called by several threads."""
        results = []
        for line in lines:
            form = signed_as(line)
            verdict = verify(line, keys, first=self._rules.get(form))
            results.append(verdict.result)
            if verdict.rule is not None:
                if verdict.rule is not self._rules.get(form):
                    self._rules[form] = verdict.rule
                if verdict.kid != keys[0].kid:  # the key in use goes first; a set may hold several
                    keys = sorted(keys, key=lambda key: key.kid != verdict.kid)
        return results

    def keeps_back(self, batch: StoredBatch, *, redriven: bool) -> bool:
        """Whether events of *batch* that do not verify must not go out.

        Who redrives an event wants it to arrive. And what the relay pulled came from Konnect, by the way it
        came: over TLS, from Konnect's own API.
        """
        return self.mode == "quarantine" and not redriven and not batch.pulled

    @staticmethod
    def checked(results: Sequence[SignatureResult], *, keeps_back: bool) -> Checked:
        """What a batch is told of its *results*."""
        if not keeps_back:
            return Checked(results)
        unfit = {n: _QUARANTINED[result] for n, result in enumerate(results) if result in _QUARANTINED}
        return Checked(results, unfit)
