"""A page of HTML as a parser finds it."""

from html.parser import HTMLParser

VOID = {"img", "input", "meta"}


class Page(HTMLParser):
    """Elements with their attributes and their whole text; refuses tags that are not balanced."""

    def __init__(self, path):
        super().__init__(convert_charrefs=True)
        self.open, self.found = [], []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes), []))
        if tag not in VOID:
            self.open.append(self.found[-1])

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        for _, _, text in self.open:
            text.append(data)

    def texts(self, tag, name=None):
        """Text of each such element of that class."""
        return [
            "".join(text)
            for found, attributes, text in self.found
            if found == tag and (name is None or name in attributes.get("class", "").split())
        ]
