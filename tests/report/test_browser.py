"""The page in a browser: no console error, every figure drawn, nothing wider than the window."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from odenets.report.comparison import write_report

BROWSER = next((p for n in ("chromium", "chromium-browser", "google-chrome", "chrome") if (p := shutil.which(n))), None)
PROBE = """<script>
addEventListener("load", () => {
  const shown = [...document.querySelectorAll("svg[data-figure]")].map(svg => [svg.dataset.figure,
    svg.getBoundingClientRect().width, svg.getBoundingClientRect().height, svg.querySelectorAll("path").length]);
  document.title = JSON.stringify({ width: document.documentElement.clientWidth,
    scroll: document.documentElement.scrollWidth, colour: getComputedStyle(document.body).backgroundColor, shown });
});
</script>"""

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on this machine")


@pytest.mark.parametrize(("width", "dark"), [(390, True), (1280, False)])
def test_the_page_in_a_browser(compared: Path, tmp_path: Path, width: int, dark: bool):
    page = write_report(compared).read_text()
    probed = tmp_path / "probed.html"
    frame = f'<iframe src="page.html" style="width:{width}px;height:900px;border:0" onload="document.title=' + (
        'this.contentDocument.title"></iframe>'
    )
    (tmp_path / "page.html").write_text(page.replace("</body>", PROBE + "</body>"))
    probed.write_text(frame)  # headless windows have a least width of 500: a frame has none
    command = [
        BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        "--allow-file-access-from-files", "--dump-dom",
        f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--v=0", "--virtual-time-budget=4000",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}", f"file://{probed}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert not console
    seen = json.loads(re.search(r"<title>(.*?)</title>", done.stdout)[1].replace("&quot;", '"'))
    assert seen["width"] == width
    assert seen["scroll"] <= width  # only tables scroll sideways, inside their own box
    assert seen["colour"] == ("rgb(20, 23, 27)" if dark else "rgb(255, 255, 255)")
    assert [name for name, *_ in seen["shown"]] == re.findall(r'data-figure="([^"]+)"', page)
    assert len(seen["shown"]) >= 6
    for name, w, h, paths in seen["shown"]:
        assert w > 200, name
        assert h > 120, name
        assert paths > 5, name
