#!/usr/bin/env python3
"""A web page's text, one paragraph a line, without its menus: terms.py PAGE.html"""
import re
import sys
import textwrap
from html.parser import HTMLParser

BLOCKS = {"p", "h1", "h2", "h3", "h4", "li", "div", "tr", "section", "br", "article"}


class Page(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.text, self.within = "", []
        self.wanted = ["article"] if "<article" in html else []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        if tag in ("article", "script", "style"):
            self.within.append(tag)
        self.text += "\n" if tag in BLOCKS else ""

    def handle_endtag(self, tag):
        if tag in self.within:
            self.within.remove(tag)
        self.text += "\n" if tag in BLOCKS else ""

    def handle_data(self, data):
        if self.within == self.wanted:
            self.text += data


if __name__ == "__main__":
    page = Page(open(sys.argv[1], encoding="utf-8").read())
    paragraphs = [" ".join(p.split()) for p in re.split(r"\n\s*\n", page.text)]
    print("\n\n".join(textwrap.fill(p, 110) for p in paragraphs if p))
