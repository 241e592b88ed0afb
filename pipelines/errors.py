"""The one exception that is meant for the person at the keyboard."""


class UserError(Exception):
    """An error for the person who runs the program: says what was wrong, where, and what to do."""
