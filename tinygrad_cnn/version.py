"""The version, which checkpoints and receipts name too."""

__version__ = "0.1.0"
