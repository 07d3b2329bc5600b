"""The command ``tinygrad-cnn``: one function for each verb.

Exit status: 0 when all went well, 1 when a result is below its minimum or a run was not repeated, 2
for a call or a file that cannot be used, with one line that says why, 130 when it was interrupted,
141 when nobody reads its output any more.
"""

from tinygrad_cnn.cli.verbs import main

__all__ = ["main"]
