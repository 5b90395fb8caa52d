"""What `python -m bench` measures: a module a topic, with `run(given) -> its file`."""
