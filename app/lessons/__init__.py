"""The seven lessons, a file each: what it says and asks, the settings it points at, and its picture.

Sentences that depend on numbers are in findings.py; what is measured for them, in work.py.
"""

from app.lessons import drift, ladder, least_squares, order, procrustes, removal, variance

LESSONS = (
    removal.LESSON,
    drift.LESSON,
    procrustes.LESSON,
    variance.LESSON,
    least_squares.LESSON,
    order.LESSON,
    ladder.LESSON,
)
