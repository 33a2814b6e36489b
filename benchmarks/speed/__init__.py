"""Speed and memory by length, compared with full attention and others: ``python -m benchmarks.speed``, docs/speed.md.

Every measurement runs in its own process; the parent process imports no framework.
"""
