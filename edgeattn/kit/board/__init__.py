"""The part of a build kit that works on the board: builds, runs, compares, times and reports.

Python 3.8 and later, numpy, and one engine: ``tensorrt`` on the board; ``tensorrt_rtx`` to see on any machine that the
graphs build, and ``onnxruntime`` to rehearse the rest, neither of which passes for the board.
"""
