"""Whether a page is HTML that a browser need not mend, and asks for nothing but itself."""

import re
from html.parser import HTMLParser

VOID = {"meta", "img", "br", "link", "input", "hr", "wbr"}
INLINE_ONLY = {"p", "h1", "h2", "h3", "dt", "figcaption", "summary", "caption", "pre"}
BLOCKS = {"p", "div", "ul", "dl", "table", "figure", "pre", "section", "h1", "h2", "h3", "details"}
FILLED = re.compile(r'(src="data:image/(?:png|svg\+xml);base64,)[A-Za-z0-9+/=]+"')


class Page(HTMLParser):
    """Reads a page and notes what is wrong with it.

    Attributes:
        problems: a line each.
        tags: of every element, in order.
        text: what a reader sees, with the text of folded parts.
    """

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.problems: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.ids: list[str] = []
        self.links: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        self.problems += [f"<{tag}> is never closed" for tag in self._open]
        self.problems += [f"#{i} occurs twice" for i in {*self.ids} if self.ids.count(i) > 1]
        wanted = [link[1:] for link in self.links if link.startswith("#")]
        self.problems += [f"no place for {link}" for link in wanted if link not in self.ids]
        self.problems += [f"leads out: {link}" for link in self.links if link[:1] != "#"]
        if not html.startswith("<!doctype html>"):
            self.problems.append("no doctype")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        if len(found) != len(attrs):
            self.problems.append(f"<{tag}> has an attribute twice")
        if "id" in found:
            self.ids.append(str(found["id"]))
        if "href" in found:
            self.links.append(str(found["href"]))
        if tag == "img" and not (found.get("alt") and str(found["src"]).startswith("data:image/")):
            self.problems.append(f"<img> without alt, or from elsewhere: {str(found)[:80]}")
        if tag == "th" and found.get("scope") not in ("row", "col"):
            self.problems.append("<th> without scope")
        if events := [name for name in found if name.startswith("on")]:
            self.problems.append(f"<{tag}> has {events}")
        if tag in BLOCKS and self._open and self._open[-1] in INLINE_ONLY:
            self.problems.append(f"<{tag}> in <{self._open[-1]}>")
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.problems.append(f"</{tag}> closes nothing")

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text += data


def check(html: str) -> Page:
    """Read a page; fails if anything is wrong with it."""
    page = Page(html)
    assert page.problems == []
    assert {"lang", "h1", "main", "title"} <= {*page.tags, "lang"}
    assert not {"script", "link", "iframe", "object", "base", "form"} & set(page.tags)
    assert "default-src 'none'" in html
    rest = FILLED.sub(r'\1"', html)
    assert not re.search(r"url\(|@import|srcset|src=\"(?!data:)", rest)
    return page
