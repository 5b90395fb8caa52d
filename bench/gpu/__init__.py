"""The parts of `make gpu` (suite.py), each in processes of its own.

first.py       the first two minutes, in one file: `make gpu-first`
card.py        the barrier's time and L2's rate: the first launches
compiling.py   the kernels of races and tests, in parallel, before anything is timed (dry.py: how)
dry_tests.py   the tests without a GPU: what they launch is compiled
testing.py     `pytest -m gpu`, test by test
gsan.py        the barrier under Triton's GSan, which looks for races in global memory
racing.py      the races
watching.py    reads a process that tests or races: who is at work, who hung, who broke the GPU
"""
