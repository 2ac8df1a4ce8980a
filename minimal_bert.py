"""The command of `pip install .`: `minimal-bert train --tasks sst,para`, from any folder; see docs/install.md."""

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
ROOT = Path(__file__).parent


def pop_command() -> str:
    """The module of the command that sys.argv[1] names. Removes that word from sys.argv.

    Raises UsageError, also if another package of the same name, such as Hugging Face's evaluate, hides one of ours.
    """
    if len(sys.argv) < 2:
        raise UsageError(f"expected one of {', '.join(COMMANDS)}; found none; --help after it shows its options")
    name = sys.argv.pop(1)
    check_name("minimal-bert", COMMANDS, name)
    sys.argv[0] = f"minimal-bert {name}"  # the name in its help
    packages = ["bert", "data", "heads", "optim", "training", *["web"] * (name == "serve")]
    places = {package: ROOT / package / "__init__.py" for package in packages}
    places |= {module: ROOT / f"{module}.py" for module in ("evaluate", COMMANDS[name]) if "." not in module}
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
    return run_cli(lambda argv: import_module(pop_command()).main(argv))


if __name__ == "__main__":
    sys.exit(main())
