"""`make gpu`: on a machine with a GPU, check everything there, then time it, in under 9 minutes.

compiling.py   every kernel that follows, in parallel, before anything is timed (dry.py: how)
testing.py     `pytest -m gpu`, test by test (plugin.py: what it says meanwhile)
../post.py     the post's table, in a process of its own
cases.py       the races; racing.py runs one, in a process of its own
watching.py    reads a process that tests or races: who is at work, who hung, who broke the GPU
"""
