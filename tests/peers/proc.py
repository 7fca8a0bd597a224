"""What /proc tells about a process: its children, its cost."""

import os
from contextlib import suppress
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def command(pid: int) -> str:
    """Its command line, words joined by spaces; empty when it is gone."""
    return _read(pid, "cmdline").replace("\0", " ").strip()


def alive(pid: int) -> bool:
    """Whether it runs (a zombie does not)."""
    return _stat(pid)[:1] not in ([], ["Z"])


def tree(pid: int) -> list[int]:
    """The process and all its descendants that run, parents first."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (stat := _stat(int(entry.name))) and stat[0] != "Z":
            children.setdefault(int(stat[1]), []).append(int(entry.name))
    found = [pid]
    for each in found:
        found += sorted(children.get(each, []))
    return found


def cpu_s(pid: int) -> float:
    """Processor time it has used, user and system, in seconds."""
    stat = _stat(pid)
    return (int(stat[11]) + int(stat[12])) / _TICKS_PER_S if stat else 0.0


def core_busy_s(core: int) -> float:
    """Seconds that a core has worked for anybody, since the machine started."""
    lines = Path("/proc/stat").read_text().splitlines()
    times = next(line.split()[1:9] for line in lines if line.startswith(f"cpu{core} "))
    idle = int(times[3]) + int(times[4])
    return (sum(map(int, times)) - idle) / _TICKS_PER_S


def memory(pid: int) -> tuple[float, float]:
    """Resident and proportional set size in MB (the second shares common pages out among their users)."""
    sizes = {}
    for line in _read(pid, "smaps_rollup").splitlines():
        name, _, rest = line.partition(":")
        if rest.endswith("kB"):
            sizes[name] = int(rest.split()[0]) / 1024
    return sizes.get("Rss", 0.0), sizes.get("Pss", 0.0)


def open_files(pid: int) -> int:
    """How many file descriptors it holds."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def udp_ports(pid: int) -> set[int]:
    """The UDP ports (IPv4) that it has bound."""
    links = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            links.add(os.readlink(entry))
    rows = [line.split() for line in Path("/proc/net/udp").read_text().splitlines()[1:]]
    return {int(row[1].split(":")[1], 16) for row in rows if f"socket:[{row[9]}]" in links}


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except OSError:
        return ""


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the third (state) on; empty when it is gone."""
    return _read(pid, "stat").rpartition(")")[2].split()
