"""Speed and memory by length, beside full attention, the paper's decoding and llama.cpp: ``focusdoc bench``.

Every measurement runs in a process of its own; what belongs to the parent loads no framework.
"""
