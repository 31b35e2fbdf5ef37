"""The report on a snapshot of a corpus: one page that needs no other file, and the same numbers as JSON.

    yields.py           what every stage was given, what became of it, and what it took; the reasons of rejects
    distributions.py    how the numbers of the objects are spread, and which objects are the best and the worst
    shown.py            the examples that the page shows, and their pictures
    page.py             the whole report, and its page
    assets/             the page's script and style, and Observable Plot, which draws the charts

Nothing here holds the objects of all shards in memory. docs/report.md says how to read the page.
"""
