"""Checks of config fields whose bounds depend on the memory, which the fields cannot check by themselves."""

from pipelines.errors import UserError


def at_most_rows(name: str, value: int, rows: int) -> None:
    """Raises a `UserError` if a field such as `index.k` is larger than the rows of the memory."""
    if value > rows:
        raise UserError(f"--config.{name}={value}: must be at most {rows}, the rows of the memory")
