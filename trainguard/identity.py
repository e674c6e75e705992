"""Identity: which process is meant, for as long as the machine stays up."""

import msgspec


class Identity(msgspec.Struct, frozen=True):
    """One process, told apart from every other that had or will have its number.

    `start_time` is field 22 of /proc/PID/stat in clock ticks since boot (proc_pid_stat(5)): two processes
    with the same number cannot share it. `boot_id` is /proc/sys/kernel/random/boot_id: after a reboot
    nothing that was recorded lives. `uid` is the real user.
    """

    pid: int
    start_time: int
    boot_id: str
    uid: int
