"""Python's garbage collector in a service that has thousands of objects in hand."""

import gc

#: Objects after which the youngest generation is collected.
COLLECT_AFTER = 10_000


def collect_seldom() -> None:
    """Have the collector leave what is there now for good, and look less often at what comes and goes.

    To be called when a service is ready. With its defaults the collector walks again and again through what
    stays: a fifth of what booking an event costs (docs/decisions/0028).
    """
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, *gc.get_threshold()[1:])
