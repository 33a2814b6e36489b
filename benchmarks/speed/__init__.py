"""Speed and memory by length, beside full attention and others: ``python -m benchmarks.speed``, see docs/speed.md.

Every measurement runs in a process of its own; what belongs to the parent loads no framework.
"""
