"""Numbers of the config that depend on the memory: what the fields themselves cannot check."""

from pipelines.errors import UserError


def at_most_rows(name: str, value: int, rows: int) -> None:
    """Raises a `UserError` if a field such as `index.k` is larger than the rows of the memory."""
    if value > rows:
        raise UserError(f"--config.{name}={value}: must be at most {rows}, the rows of the memory")
