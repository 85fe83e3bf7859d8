"""Engines that a setting brings, each made small by the tests themselves.

Each file runs in a process of its own: what Ray Serve is once in a process (in its local mode, or joined as a
driver with one cluster's token), it stays.
"""
