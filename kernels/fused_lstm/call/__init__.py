"""A call: its record, layout and rows, which engine runs it, and why it is refused."""
