"""The rooms that the four scripts share: what two scripts need, or what decides something."""

VERSION = "0.1.0"
