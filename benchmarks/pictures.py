"""Terminal pictures for the documents: a command's real output on this machine, in colour, as a PNG.

    python benchmarks/pictures.py docs/doctor.png -- doctor python benchmarks/pictures.py
    docs/chat.png --type "Once upon" --type "" -- chat quickstart:same-compute --seed 1

The command runs in a terminal of its own (a pty), its output becomes an SVG (rich), and Chromium
takes the picture. With `--type` the lines are typed into it, one at each prompt.
"""

from __future__ import annotations

import argparse
import fcntl
import io
import os
import pty
import re
import select
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

PROMPT = "> "


def recorded(words: list[str], typed: list[str], width: int) -> str:
    """Return what a terminal of `width` columns shows of `flyweight WORDS`, colour codes included."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 60, width, 0, 0))
    environment = {
        **os.environ,
        "TERM": "xterm-256color",
        "COLUMNS": str(width),
        "PYTHONUNBUFFERED": "1",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "flyweight", *words],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=environment,
        close_fds=True,
    )
    os.close(slave)
    seen, answered, waiting = b"", 0, [*typed, "\x04"] if typed else []
    while True:
        ready, _, _ = select.select([master], [], [], 0.3)
        if ready:
            try:
                piece = os.read(master, 65536)
            except OSError:  # the other end is closed: it has ended
                break
            seen += piece
        elif waiting and seen[answered:].endswith(PROMPT.encode()):
            answered = len(seen)
            line = waiting.pop(0)
            os.write(master, (line if line == "\x04" else line + "\n").encode())
        elif process.poll() is not None:
            break
        time.sleep(0.01)
    process.wait()
    return seen.decode("utf-8", errors="replace")


def shown(output: str) -> str:
    """Return the output as it stands in the end: what live displays wrote and took back is gone."""
    output = re.sub(r"\x1b\[\?[0-9]+[hl]", "", output).replace("\r\n", "\n")
    lines: list[str] = [""]
    for part in re.split(r"(\n|\r|\x1b\[[0-9]*[AK])", output):
        if part == "\n":
            lines.append("")
        elif part == "\r" or part.endswith("K"):
            lines[-1] = "" if part.endswith("K") else lines[-1]
        elif part.endswith("A") and part.startswith("\x1b["):
            del lines[len(lines) - int(part[2:-1] or 1) :]
            lines = lines or [""]
        else:
            lines[-1] += part
    return "\n".join(lines).strip("\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--width", type=int, default=118)
    parser.add_argument("--type", action="append", default=[], dest="typed", metavar="LINE")
    parser.add_argument("words", nargs="+", help="flyweight's own words, after --")
    given = parser.parse_args()
    browser = next(
        (
            found
            for name in ("chromium", "chromium-browser", "google-chrome")
            if (found := shutil.which(name))
        ),
        None,
    )
    if browser is None:
        sys.exit("no Chromium: apt-get install --no-install-recommends chromium")
    output = shown(recorded(given.words, given.typed, given.width))
    console = Console(
        record=True,
        width=given.width,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
    )
    console.print(Text.assemble(("$ ", "bold green"), shlex.join(["flyweight", *given.words])))
    console.print(Text.from_ansi(output))
    picture = console.export_svg(title="", theme=MONOKAI)
    view = re.search(r'viewBox="0 0 ([0-9.]+) ([0-9.]+)"', picture)
    assert view
    width, height = (round(float(value)) for value in view.groups())
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        page.write_text(f'<body style="margin:0">{picture}</body>')
        flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--window-size={width},{height}",
        ]
        shot = Path(folder) / "shot.png"
        command = [
            browser,
            *flags,
            f"--user-data-dir={folder}/browser",
            f"--screenshot={shot}",
            page.as_uri(),
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        _save(shot, given.out)
    print(f"{given.out}: {given.out.stat().st_size:,} bytes")


def _save(shot: Path, out: Path) -> None:
    """Write the picture with a palette: terminal pictures have few colours."""
    from PIL import Image

    out.parent.mkdir(parents=True, exist_ok=True)
    Image.open(shot).convert("RGB").quantize(128).save(out, optimize=True)


if __name__ == "__main__":
    main()
