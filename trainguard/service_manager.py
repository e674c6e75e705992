"""The service manager: telling systemd that the watchdog is ready and alive, by sd_notify's protocol."""

import os


class ServiceManager:
    """Sends datagrams to $NOTIFY_SOCKET (sd_notify(3)); without one, does nothing. Never fails its caller."""

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        microseconds = os.environ.get("WATCHDOG_USEC", "")
        meant_for = os.environ.get("WATCHDOG_PID", str(os.getpid()))
        self._interval = (
            int(microseconds) / 1e6 if microseconds.isdigit() and meant_for == str(os.getpid()) else None
        )

    def limit(self, seconds: float) -> float:
        """A wait of at most half of the time within which systemd wants to hear of us."""
        return seconds if self._interval is None else min(seconds, self._interval / 2)

    def say(self, *assignments: str) -> None:
        """Send assignments such as READY=1, and with each the sign of life."""
        if not self._address:
            return
        import socket  # only under a service manager

        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        message = "\n".join([*assignments, "WATCHDOG=1"]).encode()
        try:
            with socket.socket(
                socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
            ) as channel:
                channel.sendto(message, address)
        except OSError:
            return
