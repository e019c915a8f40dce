"""Renders the API reference into build/docs: every public module of the core and of the wings, straight from the docstrings.

Run it with `make docs`.
"""

import pkgutil
from pathlib import Path

import pdoc

import weightspace
import weightspace.zoo

LEFT_OUT = ("weightspace.cli", "weightspace.experiments")  # the commands say what they do themselves


def modules() -> list[str]:
    """Names of all modules that a user may import."""
    found = [one.name for one in pkgutil.walk_packages(weightspace.__path__, "weightspace.")]
    return [
        "weightspace",
        *(name for name in found if not name.startswith(LEFT_OUT) and not any(part.startswith("_") for part in name.split("."))),
    ]


def main() -> None:
    """Render them."""
    out = Path(__file__).resolve().parents[1] / "build" / "docs"
    for facade in (weightspace, weightspace.zoo):  # which load their names when they are first used; pdoc looks for them unasked
        vars(facade).update({name: getattr(facade, name) for name in facade.__all__})
    pdoc.render.configure(docformat="google", show_source=False, footer_text=f"weightspace {weightspace.__version__}")
    pdoc.pdoc(*modules(), output_directory=out)
    print(out / "index.html")


if __name__ == "__main__":
    main()
