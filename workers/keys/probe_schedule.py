"""When a key that stopped is probed: soon at first, then at growing intervals.

Pure decisions; `probes.py` asks the provider.
"""

from datetime import datetime, timedelta

from infra.mongo import Document

#: The first and the longest interval between probes, in seconds, by why the key stopped; each is twice the
#: one before. A provider that fails is back in minutes; a refused key or a spent quota waits for a person.
INTERVALS_S: dict[str, tuple[int, int]] = {
    "failing": (5, 300),
    "refused": (30, 1800),
    "quota": (60, 1800),
}
#: A key that stops again so soon after it came back, in seconds, did not come back.
RELAPSE_S = 120


def first_probe(cause: str | None, key: Document, at: datetime) -> Document | None:
    """The probe of a key that stops.

    Args:
        cause: why it stops.
        key: its document, as it was.
        at: when it stops.

    Returns:
        Its `probe`: when, in how many seconds, and of what; None for one that is not probed.
    """
    if cause not in INTERVALS_S:
        return None
    first, _ = INTERVALS_S[cause]
    earlier = key.get("probe") or {}
    interval_s = first
    if earlier.get("cause") == cause:
        relapsed = at - key["status_since"] <= timedelta(seconds=earlier["interval_s"] + RELAPSE_S)
        interval_s = earlier["interval_s"] if relapsed else first
    return {"at": at + timedelta(seconds=interval_s), "interval_s": interval_s, "cause": cause}
