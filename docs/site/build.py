"""Makes the site of docs/ in target/site/html and checks it. docs/site/build.sh runs this with what it needs.

The pages are the very files of the tree, laid out as there, so that a link works in both. The navigation is made from the
headings and links of docs/README.md, and below "Decisions" from docs/decisions/README.md. The build fails on a link or an
anchor that leads nowhere, on a page that no index leads to, on a list or a table that was not recognised as one, and on
anything that a browser would load from elsewhere.
"""

import html.parser
import pathlib
import posixpath
import re
import shutil
import subprocess
import sys
import urllib.parse

import mkdocs.commands.build
import mkdocs.config
import mkdocs.exceptions

ROOT = pathlib.Path(__file__).resolve().parents[2]
SITE = ROOT / "target/site"
SOURCE, HTML = SITE / "source", SITE / "html"
# What the site consists of. Code is not part of it, so no page may link to code.
PATHS = ["README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "docs", "haproxy"]
LINK = re.compile(r"\[([^\]]+)\]\(([^)#\s]+)\)")


def stage():
    """Copies the files of the site; target/site/source then has the layout of the tree."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *PATHS],
                            cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file() and not name.startswith("docs/site/"):
            (SOURCE / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, SOURCE / name)


def pages_of(text, folder):
    """The pages that a text links to, with the words of the link, in order and without repetition."""
    pages = {}
    for words, link in LINK.findall(text):
        page = posixpath.normpath(posixpath.join(folder, link))
        if page.endswith(".md"):
            pages.setdefault(page, re.sub(r"[`*]", "", words))
    return pages


def title(words):
    return words[:1].upper() + words[1:]


def navigation():
    """One section for each heading of the index of documents, in its order."""
    decisions = pages_of((ROOT / "docs/decisions/README.md").read_text(), "docs/decisions")
    nav, seen = [{"identity-spoa": "README.md"}, {"All documents": "docs/README.md"}], {"README.md", "docs/README.md"}
    for section in (ROOT / "docs/README.md").read_text().split("\n## ")[1:]:
        heading, _, text = section.partition("\n")
        entries = []
        for page, words in pages_of(text, "docs").items():
            if page in seen:
                continue
            seen.add(page)
            if page == "docs/decisions/README.md":
                entries.append({"Decisions": [page, *({title(w): p} for p, w in decisions.items())]})
            else:
                entries.append({title(words): page})
        nav.append({heading: entries})
    return nav


class Page(html.parser.HTMLParser):
    """What is looked at in a page that was made: its anchors, its links, what it loads, and the text of its paragraphs."""

    def __init__(self, text):
        super().__init__()
        self.anchors, self.links, self.loads, self.paragraphs, self.depth = set(), [], [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.anchors.update(filter(None, [given.get("id"), given.get("name")]))
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        if tag in ("script", "img", "source", "iframe") and given.get("src"):
            self.loads.append(given["src"])
        if tag == "link" and given.get("rel") in ("stylesheet", "icon", "preconnect", "preload") and given.get("href"):
            self.loads.append(given["href"])
        if tag == "p":
            self.depth += 1
            self.paragraphs.append("")

    def handle_endtag(self, tag):
        if tag == "p":
            self.depth = max(0, self.depth - 1)

    def handle_data(self, data):
        if self.depth:
            self.paragraphs[-1] += data


def mistakes():
    """What is wrong in the site as it was made."""
    pages = {file: Page(file.read_text()) for file in HTML.rglob("index.html")}
    for file, page in pages.items():
        name = file.relative_to(HTML)
        for link in page.links + page.loads:
            url = urllib.parse.urlsplit(link)
            if url.scheme or url.netloc:
                if link in page.loads:
                    yield f"{name}: loads {link} from elsewhere"
                continue
            to = (file.parent / urllib.parse.unquote(url.path)).resolve() if url.path else file
            to = to / "index.html" if to.is_dir() else to
            if not to.is_file():
                yield f"{name}: {link} leads nowhere"
            elif url.fragment and to in pages and urllib.parse.unquote(url.fragment) not in pages[to].anchors:
                yield f"{name}: {link}: there is no such anchor"
        for text in page.paragraphs:
            if re.search(r"\n(?:[-*] |\d+\. |\|.*\|$)", text, re.MULTILINE):
                yield f"{name}: a list or table needs an empty line before it: {text[:60]!r}"


def main():
    stage()
    try:
        config = mkdocs.config.load_config(str(ROOT / "docs/site/mkdocs.yml"), docs_dir=str(SOURCE), site_dir=str(HTML),
                                           nav=navigation(), strict=True)
        mkdocs.commands.build.build(config)
    except mkdocs.exceptions.MkDocsException as error:
        sys.exit(f"the site cannot be made: {error}")
    found = sorted(set(mistakes()))
    for mistake in found:
        print(mistake, file=sys.stderr)
    if found:
        sys.exit(1)
    if not (HTML / "search/search_index.json").is_file():
        sys.exit("the site has no search")
    print(f"the site is in {HTML.relative_to(ROOT)}: {len(list(HTML.rglob('index.html')))} pages")


main()
