"""What joins the site from outside ``docs/pages``: committed results, notebooks with their outputs, the commands' help.

Results keep the paths that they have in the repository, so that the links between them lead somewhere here too.
Notebooks are executed, and the first error in one ends the build; with NOTEBOOKS=false they come without outputs.
"""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import jupytext
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert.exporters import MarkdownExporter
from nbconvert.preprocessors import ExecutePreprocessor
from traitlets.config import Config

from marginal_sdg.cli.app import app

ROOT = Path(__file__).resolve().parent.parent
LOG = get_plugin_logger("site")
EXTERNAL = re.compile(r'<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)="(?:https?:)?//[^"]*"')
RESULTS = ("experiments/results/**/*.md", "experiments/results/**/*.png", "data/README.md")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the results, the notebooks and the command line to the pages that mkdocs has found."""
    for pattern in RESULTS:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    for path in sorted((ROOT / "docs" / "notebooks").glob("*.py")):
        for name, content in rendered(path, execute=config.extra["execute"]).items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    files.append(File.generated(config, "reference/command_line.md", content=command_line(app, "marginal-sdg")))
    return files


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Warn, which ends a strict build, of a page that makes its readers' browsers fetch things from elsewhere."""
    if found := EXTERNAL.search(output):
        LOG.warning("%s fetches from elsewhere: %s", page.file.src_uri, found[0])
    return output


def command_line(command: click.Command, name: str, level: int = 1) -> str:
    """What ``--help`` prints, of a command and of all below it."""
    with click.Context(command, info_name=name, terminal_width=100) as context:
        page = f"{'#' * level} {name}\n\n```text\n{command.get_help(context)}\n```\n\n"
    below = command.commands.values() if isinstance(command, click.Group) else ()
    return page + "".join(command_line(child, f"{name} {child.name}", 2) for child in below)


def rendered(path: Path, *, execute: bool) -> dict[str, str | bytes]:
    """A notebook as a page in Markdown, and the pictures on it, by file name."""
    notebook = jupytext.read(path)
    if execute:
        with TemporaryDirectory() as sockets:  # not a TCP port, which all users of the machine could connect to
            local = Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}})
            run = ExecutePreprocessor(kernel_name="python3", timeout=120, config=local)
            run.preprocess(notebook, {"metadata": {"path": path.parent}})
    page, resources = MarkdownExporter().from_notebook_node(notebook, {"unique_key": path.stem})
    page = page.replace('<table border="1" class="dataframe">', "<table>")  # looks like the site's other tables
    return {f"{path.stem}.md": page, **resources["outputs"]}
