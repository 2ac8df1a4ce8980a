"""What `pip install .` gives a command: `minimal-bert train --tasks sst,para`, from any folder; see docs/install.md."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from runtime.errors import UsageError, check_name, run_cli

COMMANDS = {
    "train": "train_multitask",
    "evaluate": "evaluate",
    "predict": "predict",
    "serve": "serve",
    "export": "export",
    "check": "data.check",
    "download": "data.download",
}
HERE = Path(__file__).parent


def chosen() -> str:
    """The module of the command that the words after the program's name begin with, which is taken out of them.

    Raises UsageError, also where another package of the same name, Hugging Face's evaluate say, hides one of ours.
    """
    if len(sys.argv) < 2:
        raise UsageError(f"expected one of {', '.join(COMMANDS)}; found none; --help after it shows its options")
    name = sys.argv.pop(1)
    check_name("minimal-bert", [*COMMANDS], name)
    sys.argv[0] = f"minimal-bert {name}"  # as its help has it
    places = {module: HERE / module / "__init__.py" for module in ("bert", "data", "heads", "optim", "training")}
    places |= {"web": HERE / "web" / "__init__.py"} if name == "serve" else {}
    places |= {module: HERE / f"{module}.py" for module in ("evaluate", COMMANDS[name]) if "." not in module}
    for module, place in places.items():  # a package hides a module of its name in the same folder
        spec = find_spec(module)
        if not spec or not spec.origin or Path(spec.origin) != place:
            found = spec.origin if spec else "none"
            raise UsageError(f"{module}: expected ours, {place}; found {found}; install into an environment of its own")
    return COMMANDS[name]


def main() -> int:
    if sys.argv[1:] in (["-h"], ["--help"]):
        print("\n".join(f"minimal-bert {name:<9} --help" for name in COMMANDS))
        return 0
    return run_cli(lambda argv: import_module(chosen()).main(argv))


if __name__ == "__main__":
    sys.exit(main())
