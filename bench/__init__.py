"""The service beside what an operator would otherwise run, in numbers: `python -m bench`.

In reading order: `exchange` (the simulated one, made fast), `contenders`, `measure` (processes,
Redis and what goes through them), `programs` (the contenders, as they are run), `freshness` (a
reader), `hour` (an hour from a window), `phases` (what is measured when), `report` (figures, bars,
docs/benchmarks.md), and the program around it.
"""
