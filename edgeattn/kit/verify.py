"""Run the engines of this kit, judge and time them, write report.json: ``python3 verify.py`` (see ``--help``)."""

import os
import runpy
import sys

if __name__ == "__main__":
    sys.dont_write_bytecode = True
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    runpy.run_module("board.verify", run_name="__main__", alter_sys=True)
