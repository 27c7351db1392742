"""Server-sent events, read as they come (WHATWG HTML, "Interpreting an event stream")."""

import re
from collections.abc import Iterator

_LINE_END = re.compile(rb"\r\n|\r|\n")
_MARK = b"\xef\xbb\xbf"


class EventStream:
    """Finds the data of each event in the bytes of a stream; names, ids and comments are left out."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._data: list[bytes] = []
        self._is_first = True
        self._is_after_return = False

    def feed(self, part: bytes) -> Iterator[bytes]:
        """Take the next bytes.

        Yields:
            The data of each event that is whole.
        """
        if self._is_after_return:
            part = part.removeprefix(b"\n")
        self._is_after_return = part.endswith(b"\r")
        first, *more = _LINE_END.split(part)
        self._line += first
        for following in more:
            line, self._line = bytes(self._line), bytearray(following)
            if (data := self._take(line)) is not None:
                yield data

    def _take(self, line: bytes) -> bytes | None:
        """Take one line; the data of the event that it ends."""
        if self._is_first:
            self._is_first = False
            line = line.removeprefix(_MARK)
        if not line:
            data, self._data = self._data, []
            return b"\n".join(data) if data else None
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
        return None
