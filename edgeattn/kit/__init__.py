"""What a build kit for a board is made of, kept as the files that are copied into it.

``entry.py`` (as ``build.py`` and ``verify.py``) and the package ``board`` run there with the system's Python (3.8 and
later), numpy and TensorRT alone: nothing in this folder imports anything of edgeattn, and ``kit.json`` says what to do.
"""
