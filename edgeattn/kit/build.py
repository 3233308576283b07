"""Build the engines of this kit: ``python3 build.py``; ``python3 build.py --help`` says what else it takes."""

import os
import runpy
import sys

if __name__ == "__main__":
    sys.dont_write_bytecode = True
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    runpy.run_module("board.build", run_name="__main__", alter_sys=True)
