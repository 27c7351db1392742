"""Run a module on a machine whose clock is wrong.

python -m tests.wrong_clock OFFSET_SECONDS MODULE [ARGUMENT ...]
"""

import runpy
import sys
from datetime import UTC, datetime, timedelta

import time_machine


def main() -> None:
    offset_s, module, *arguments = sys.argv[1:]
    wrong = datetime.now(UTC) + timedelta(seconds=int(offset_s))
    sys.argv = [module, *arguments]
    with time_machine.travel(wrong, tick=True):
        runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
