"""Dates and times in the ways people write them."""

import datetime

MONTH = """January February March April May June July August September October November
    December""".split()
DAY = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
ORDINAL = """first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth
    thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth
    twenty-first twenty-second twenty-third twenty-fourth twenty-fifth twenty-sixth
    twenty-seventh twenty-eighth twenty-ninth thirtieth thirty-first""".split()


def draw(rng):
    """A day between 2019 and 2031."""
    return datetime.date(2019, 1, 1) + datetime.timedelta(days=rng.randrange(4748))


def suffix(day):
    """st, nd, rd or th for a day of the month."""
    if 10 < day % 100 < 14:
        return "th"
    return {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")


def plain(rng, date):
    """The everyday forms, which read well after `on`."""
    d, month, year = date.day, MONTH[date.month - 1], date.year
    return rng.choice([
        f"{d} {month} {year}", f"{d} {month} {year}", f"{d} {month} {year}",
        f"{month} {d}, {year}", f"{month} {d}, {year}",
        f"{d}{suffix(d)} {month} {year}", f"{month} {d}{suffix(d)}, {year}",
        f"{d} {month[:3]} {year}", f"{DAY[date.weekday()]}, {d} {month} {year}",
        date.isoformat(),
    ])


def any_form(rng, date):
    """Any form at all; numbers with slashes, dots or hyphens are day first."""
    d, m, month, year = date.day, date.month, MONTH[date.month - 1], date.year
    return rng.choice([
        plain(rng, date), plain(rng, date), plain(rng, date),
        f"the {d}{suffix(d)} of {month} {year}", f"the {d}{suffix(d)} of {month}, {year}",
        f"the {ORDINAL[d - 1]} of {month} {year}", f"the {ORDINAL[d - 1]} of {month}, {year}",
        f"{month} the {d}{suffix(d)}, {year}", f"{month} the {ORDINAL[d - 1]}, {year}",
        f"{month[:3]} {d}, {year}", f"{month[:3]}. {d}, {year}", f"{d}-{month[:3]}-{year}",
        f"{d:02}.{m:02}.{year}", f"{d}.{m}.{year}", f"{d:02}/{m:02}/{year}", f"{d}/{m}/{year}",
        f"{year}/{m:02}/{d:02}", f"{d} {month.upper()} {year}", f"{d} {month.lower()} {year}",
        f"{DAY[date.weekday()]} {month} {d}, {year}", f"{DAY[date.weekday()][:3]} {d} {month[:3]} {year}",
        f"{month} {d} {year}", f"{d} {month}, {year}", f"{d} {month} '{year % 100}",
    ])


def clock(rng):
    """A time of day: (text that follows `at`, HH:MM)."""
    hour, minute = rng.randrange(24), rng.choice([0, 0, 5, 10, 15, 15, 20, 25, 30, 30, 40, 45, 50])
    form = rng.randrange(6)
    if form == 0:
        return rng.choice([("noon", "12:00"), ("midnight", "00:00")])
    if form < 3 or minute == 0 and form == 3:
        return f"{hour:02}:{minute:02}", f"{hour:02}:{minute:02}"
    half = "am" if hour < 12 else "pm"
    twelve = (hour - 1) % 12 + 1
    text = f"{twelve}{rng.choice(['', ' '])}{half}" if minute == 0 else f"{twelve}:{minute:02} {half}"
    return text, f"{hour:02}:{minute:02}"
