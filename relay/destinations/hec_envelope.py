"""The envelope of Splunk's HTTP Event Collector around one event.

Owns the text of the envelope: its seven known keys (an unknown one makes Splunk drop events behind
a 200), the event inside it byte for byte where it is a JSON object. Knows nothing of requests or answers.
"""

from __future__ import annotations

import orjson

from relay.destinations.framing import is_object, quoted
from relay.konnect.times import happened_at
from relay.model import Event

_CPS_HEAD, _CPS_TAIL = b'{"event":', b"}"

_TIME_BYTES = len("1750280466.889")
_ID_BYTES = 36  # 32 hex digits and room for the number of a twin


class Envelope:
    """Wraps events; everything but time, event and id is the same for all and made once."""

    __slots__ = ("_middle", "overhead")

    def __init__(self, *, host: str | None, source: str | None, sourcetype: str | None, index: str | None):
        metadata = {"host": host, "source": source, "sourcetype": sourcetype, "index": index}
        chosen = {key: value for key, value in metadata.items() if value is not None}
        pairs = orjson.dumps(chosen)[1:-1]
        self._middle = (b"," + pairs if pairs else b"") + b',"event":'
        # Bytes that wrapping adds to each event, escapes not counted.
        self.overhead = len(self._around(b"0" * _TIME_BYTES, b'""', b"0" * _ID_BYTES, b""))

    def wrap(self, event: Event) -> bytes:
        """The envelope with *event* in it.

        `time` is the event's own, else that of its header, else when we received it; always as a
        plain decimal with three places, since Splunk 10 refuses exponents.
        """
        time = b"%d.%03d" % divmod(happened_at(event), 1000)
        signature = b',"signature":"%b"' % event.signature.encode() if event.signature else b""
        return self._around(time, payload(event.line), event.id.encode(), signature)

    def _around(self, time: bytes, text: bytes, event_id: bytes, more: bytes) -> bytes:
        return b'{"time":%b%b%b,"fields":{"event_id":"%b"%b}}' % (time, self._middle, text, event_id, more)


def payload(line: bytes) -> bytes:
    """What stands under `event`: a JSON object's own bytes, anything else as a string.

    CPS already is `{"event": {…}}`: its inner object is taken, unless there is more beside it.
    """
    if line.startswith(_CPS_HEAD) and line.endswith(_CPS_TAIL):
        # Parsing the inner text is what proves that nothing else stands beside it. Without that, a
        # line could add keys to our envelope.
        inner = line[len(_CPS_HEAD) : -len(_CPS_TAIL)]
        if is_object(inner):
            return inner
    return line if is_object(line) else quoted(line)
