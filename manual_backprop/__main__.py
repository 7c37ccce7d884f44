"""`python -m manual_backprop`: the command that is installed with the package.

Asked for by its entry point, since nothing in this folder knows the layers above it.
"""

import importlib.metadata

if __name__ == "__main__":
    installed = importlib.metadata.entry_points(group="console_scripts", name="manual-backprop")
    next(iter(installed)).load()(prog_name="manual-backprop")
