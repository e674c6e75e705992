"""Signatures: what known failures look like in a log. Rows of data, ours and the user's, in one form."""

from trainguard.signatures.rows import (
    Role,
    Signature,
    SignatureError,
    load_signatures,
    read_rows,
)

__all__ = ("Role", "Signature", "SignatureError", "load_signatures", "read_rows")
