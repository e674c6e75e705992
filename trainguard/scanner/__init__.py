"""The scanner: reads a log at the speed of the disk and hands over only the pieces that are of interest."""

from trainguard.scanner.database import Database, open_database, open_signatures
from trainguard.scanner.matching import Matcher
from trainguard.scanner.pieces import Gap, Piece, Scan
from trainguard.scanner.scanning import number_lines, scan_file, scan_stream

__all__ = (
    "Database",
    "Gap",
    "Matcher",
    "Piece",
    "Scan",
    "number_lines",
    "open_database",
    "open_signatures",
    "scan_file",
    "scan_stream",
)
