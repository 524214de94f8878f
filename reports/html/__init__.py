"""The report as one HTML page that needs nothing but a browser: its frame, its tables, the samples behind its numbers.

Markup is made by `reports.html.markup` alone, which escapes every text; the page's script puts text in as text. The
page loads nothing from anywhere, and tells the browser so (Content-Security-Policy).
"""

from reports.html.findings_view import findings_section
from reports.html.items import SampleStore
from reports.html.markup import Html, element, join
from reports.html.page import Section, paragraphs, picture
from reports.html.report_page import report_page

__all__ = [
    "Html",
    "SampleStore",
    "Section",
    "element",
    "findings_section",
    "join",
    "paragraphs",
    "picture",
    "report_page",
]
