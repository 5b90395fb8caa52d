"""What went wrong in words for the person at the keyboard."""


class UserError(Exception):
    """A mistake that the user can mend: one line, shown without a traceback."""
