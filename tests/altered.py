"""Run a module with other values of some constants, such as those that say how long is waited.

python -m tests.altered MODULE.NAME=NUMBER [...] -- MODULE [ARGUMENT ...]
"""

import runpy
import sys
from importlib import import_module


def alter(name: str, value: float) -> None:
    """Give a constant, which has to be there, another value."""
    module_name, _, constant = name.rpartition(".")
    module = import_module(module_name)
    if not isinstance(getattr(module, constant), int | float):
        raise TypeError(f"{name} is no number")
    setattr(module, constant, value)


def main() -> None:
    separator = sys.argv.index("--")
    constants, (module, *arguments) = sys.argv[1:separator], sys.argv[separator + 1 :]
    for constant in constants:
        name, _, value = constant.partition("=")
        alter(name, float(value))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
