"""What went wrong in words for the person at the keyboard."""


class UserError(Exception):
    """A mistake that the user can mend: one line, shown without a traceback."""


def reason(error: BaseException) -> str:
    """What an exception says in a line: the system's own words, or its first line, or its kind."""
    said = str(getattr(error, "strerror", None) or error)
    return (said.splitlines() or [type(error).__name__])[0]


def one_line(text: object) -> str:
    """`text` in one line of printable characters, others escaped: a file's name may hold any."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))
