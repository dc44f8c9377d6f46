"""The report in a real browser: it loads without complaint, asks for nothing else, and never scrolls sideways."""

import http.server
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import layout_fixture as light
import pytest
import report_fixture as made

from flyweight.reports.pages import run as page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--enable-logging=stderr",
)
WIDTHS = (1280, 390)

# A frame of the width in question measures truly where a window cannot be made that narrow.
FRAMES = """<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><body>
<script>
window.onload = () => {
  for (const frame of document.querySelectorAll("iframe")) {
    const root = frame.contentDocument.documentElement;
    const out = document.createElement("output");
    out.textContent = [frame.width, root.clientWidth, root.scrollWidth, root.innerText.length].join(" ");
    document.body.append(out);
  }
};
</script>
%s
</body>"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve a folder on this machine; yields the address and the list of paths asked for."""
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, directory=str(folder), **kwargs)

        def log_message(self, format, *args):
            asked.append(self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


def browse(
    folder: Path, name: str, profile: Path
) -> tuple[dict[int, tuple[int, int, int]], list[str], list[str]]:
    """Open a page in frames of both widths.

    Returns (inner width, width of the content, letters shown) by frame width, the browser's
    console, and the paths asked for.
    """
    frames = "".join(
        f'<iframe src="{name}" width="{width}" height="900"></iframe>' for width in WIDTHS
    )
    (folder / "frames.html").write_text(FRAMES % frames)
    with served(folder) as (address, asked):
        command = [
            str(CHROMIUM),
            *FLAGS,
            f"--user-data-dir={profile}",
            "--virtual-time-budget=10000",
            "--dump-dom",
        ]
        done = subprocess.run(
            [*command, f"{address}/frames.html"],
            capture_output=True,
            text=True,
            timeout=180,
            check=True,
        )
    found = re.findall(r"<output>(\d+) (\d+) (\d+) (\d+)</output>", done.stdout)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return (
        {
            int(width): (int(inner), int(content), int(shown))
            for width, inner, content, shown in found
        },
        console,
        asked,
    )


def check(folder: Path, profile: Path) -> None:
    sizes, console, asked = browse(folder, "report.html", profile)
    assert console == []
    assert set(asked) == {"/frames.html", "/report.html"}
    assert set(sizes) == set(WIDTHS)
    for width, (inner, content, shown) in sizes.items():
        assert content <= inner <= width, f"at {width} pixels the page is {content} wide"
        assert shown > 1500


def test_the_quickstart_report(tmp_path):
    folder = made.write(tmp_path)
    page.write(folder)
    check(folder, tmp_path / "profile")


def test_a_report_with_long_names_and_strange_text(tmp_path):
    long = "a-model-with-a-name-that-nobody-would-choose-but-somebody-will-" + "x" * 60
    word = "w" * 400
    models = [each.model_copy(update={"role": word}) for each in made.quickstart_models()]
    models += [
        made.model(
            long,
            1.8,
            samples=(
                made.Continuation(prompt=word, text=f"<img src=x onerror=alert(1)>\x00{word}"),
            ),
        ),
        made.model("broken", 4.0, audit=made.audit(4.0, below_unigram_floor=word)),
        made.model("leaky", 0.9, audit=made.audit(0.9, causality="the future shows")),
    ]
    folder = made.write(
        tmp_path,
        models=tuple(models),
        command=f"flyweight run {word}",
        corpus=(made.corpus(name=f"/{word}"),),
    )
    page.write(folder)
    check(folder, tmp_path / "profile")


def test_a_report_of_several_runs(tmp_path):
    runs = [
        made.write(tmp_path),
        made.write(tmp_path, name="second"),
        made.write(tmp_path, name="third"),
    ]
    page.write_many(runs, tmp_path / "all")
    check(tmp_path / "all", tmp_path / "profile")


def test_a_report_with_a_papers_layout(tmp_path):
    folder = tmp_path / "lightgpt2"
    folder.mkdir()
    light.lightgpt2().write(folder)
    page.write(folder)
    check(folder, tmp_path / "profile")


def test_the_browser_does_tell(tmp_path):
    broken = '<!doctype html><link rel="icon" href="data:,"><body style="width: 3000px"><script>nothing()</script>'
    (tmp_path / "bad.html").write_text(broken + '<img src="elsewhere.png">')
    sizes, console, asked = browse(tmp_path, "bad.html", tmp_path / "profile")
    assert any("nothing is not defined" in line for line in console)
    assert "/elsewhere.png" in asked
    assert sizes[390][1] >= 3000 and sizes[1280][1] >= 3000
