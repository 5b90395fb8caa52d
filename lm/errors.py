"""What went wrong in words for the person at the keyboard."""


class UserError(Exception):
    """A mistake that the user can mend: one line, shown without a traceback."""


def one_line(text: object) -> str:
    """`text` in one line of printable characters, others escaped: a file's name may hold any."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(text))
