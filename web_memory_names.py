"""Says which of our packages a file or folder of the working directory hides (docs/adr/0019-installed-package.md)."""

import importlib.util
import pathlib
import sys

_PACKAGES = ("configs", "pipelines", "index", "model", "workflow")


def check(package_file: str) -> None:
    """Checks that our packages are found beside each other; each of them calls this when it is imported.

    Raises:
        ImportError: if a file or folder elsewhere on the path hides one; `python -m` ends in that sentence instead.
    """
    root = pathlib.Path(package_file).resolve().parents[1]
    for name in _PACKAGES:
        spec = importlib.util.find_spec(name)
        place = pathlib.Path(spec.origin).resolve() if spec and spec.origin else None
        if place is None or root in place.parents:
            continue
        hiding = place.parent if place.name == "__init__.py" else place
        sentence = f"{hiding} hides the package {name!r} of web-memory; rename it, or run web-memory STAGE instead"
        if sys.argv[:1] == ["-m"]:
            print(f"error: {sentence}", file=sys.stderr)
            raise SystemExit(2)
        raise ImportError(sentence)
