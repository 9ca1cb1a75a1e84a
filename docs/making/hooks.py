"""What mkdocs calls while it builds the site: pages that are made of the code, and checks that fail a strict build."""

import logging
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # mkdocs finds this file by its path

from docs.making import api, commands, configuration, families, gallery, links, navigation, tables  # noqa: E402

log = logging.getLogger("mkdocs.hooks.lensdiff")  # a warning fails a strict build


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill the sections of the navigation that are folders."""
    config.nav = navigation.filled(config.nav or [], Path(config.docs_dir))
    for sentence in (*api.undocumented(), *api.misnamed()):
        log.warning(sentence)
    return config


@event_priority(50)  # before the plugin that makes pages of notebooks
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made, the notebooks and the toy pair's report."""
    made = tables.columns_of(gallery.run_folder())
    for sentence in tables.undescribed(made):
        log.warning(sentence)
    pages = {
        navigation.UNDERSTAND: navigation.page_of_questions(Path(config.docs_dir)),
        "reference/tables.md": tables.page_of_tables(made),
        "reference/configuration.md": configuration.page_of_keys(),
        "reference/commands.md": commands.page_of_commands(),
        **api.pages(),
    }
    for uri, text in pages.items():
        files.append(File.generated(config, uri, content=text))
    for notebook in navigation.notebooks():
        files.append(File(f"notebooks/{notebook.name}", str(ROOT), config.site_dir, config.use_directory_urls))
    reports = gallery.reports()
    if gallery.TOY not in reports:
        log.warning(f"the gallery has no report: `make docs` makes one in {gallery.run_folder()}")
    for name, report in reports.items():
        files.append(File.generated(config, gallery.page_of(name), content=report))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill what a page leaves to the code, and mend its links to what is no page."""
    text = families.filled(markdown) if page.file.src_uri == "families.md" else markdown
    if page.file.src_uri == "gallery.md":
        for sentence in gallery.lost(text, gallery.reports()):
            log.warning(sentence)
        text = gallery.filled(text, gallery.reports())
    text, lost = links.mended(links.included(text), page.file.src_uri, files)
    for sentence in lost:
        log.warning(sentence)
    return text


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Refuse a page that asks the network for a script or a style."""
    if page.file.src_uri.startswith("notebooks/"):
        output = links.without_diagrams(output)
    for address in links.asked_for(output):
        log.warning(f"{page.file.src_uri} asks the network for {address}")
    return output


def on_page_context(context: dict[str, Any], page: Page, config: MkDocsConfig, nav: Any) -> dict[str, Any]:
    """Say which files are notebooks: their page begins with where they open."""
    if page.file.src_uri.startswith("notebooks/") and page.content:
        page.content = navigation.opening(Path(page.file.src_uri).name) + page.content
    return context
