"""Numbers of the config that make no sense, worded before any work begins."""

from pipelines.errors import UserError


def require(name: str, value: int, least: int, most: int | None = None) -> None:
    """Checks that a number of the config is in its range.

    Args:
        name: of the field, such as `index.k`.
        value: of the field.
        least: smallest that is right.
        most: the rows of the memory, where the field cannot be larger.

    Raises:
        UserError: if it is not.
    """
    if value < least or (most is not None and value > most):
        span = f"at least {least}" if most is None else f"{least} to {most}, the rows of the memory"
        raise UserError(f"--config.{name}={value}: must be {span}")
