"""The one exception that a user sees as one line instead of a traceback."""


class UserError(Exception):
    """Bad input. The message is one line that says what is wrong and what to do. exit_code: of a command that ends with it."""

    exit_code = 2


def require(condition: bool, message: str) -> None:
    """Raise `UserError(message)` unless `condition` holds."""
    if not condition:
        raise UserError(message)
