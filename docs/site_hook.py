"""For the site only: links that lead out of this folder, into code or results, become the names of those files."""

import re
from pathlib import Path
from typing import Any

LINK = re.compile(r"!?\[([^\]]*)\]\(([^)#\s]+)\)")


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """The page's text, before it is made HTML."""
    docs = Path(config["docs_dir"]).resolve()
    here = Path(page.file.abs_src_path).resolve().parent

    def told(link: re.Match[str]) -> str:
        text, target = link.groups()
        path = (here / target).resolve()
        if "://" in target or path.is_relative_to(docs):
            return link.group(0)
        name = f"`{path.relative_to(docs.parent)}`"
        return name if text.strip("`") in name else f"{text} ({name})"

    return LINK.sub(told, markdown)
